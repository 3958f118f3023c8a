//! Rejected settings and their error texts.

use super::{SECRET, TestSources, profile, secured, with, with_variables};
use crate::config::{Notice, SettingsError};

#[test]
fn errors_name_the_key_its_value_its_source_and_the_rule() {
    fn check(sources: &TestSources<'_>, parts: &[&str]) {
        let error = sources.load().expect_err(parts[0]).to_string();
        for part in parts {
            assert!(error.contains(part), "no {part} in: {error}");
        }
    }
    let of_file = |file, parts: &[&str]| {
        let sources = TestSources {
            flags: secured(),
            file,
            ..TestSources::default()
        };
        check(&sources, parts);
    };
    of_file(
        "shardz = 2",
        &["shardz", "f.toml:", "did you mean `shards`?"],
    );
    of_file("[gateway]\nping = 2", &["gateway.ping", "unknown setting"]);
    of_file("[gatewai]\nping = 2", &["gatewai", "f.toml:"]);
    of_file(
        "listen = \"here\"",
        &[
            "value \"here\" for `listen`",
            "f.toml",
            "an address and a port",
        ],
    );
    of_file("listen = \"::1:80\"", &["listen", "[::1]"]);
    of_file(
        "shards = 0",
        &["value 0 for `shards`", "`auto` or a whole number from 1"],
    );
    of_file(
        "ring_bytes = 5000",
        &["value 5000 for `ring_bytes`", "power of two"],
    );
    of_file(
        "send_queue_bytes_max = \"1 kB\"",
        &["send_queue_bytes_max", "4 KiB"],
    );
    of_file(
        "waiting_bytes_max = \"1 MiB\"",
        &["for `waiting_bytes_max`", "four times the largest"],
    );
    of_file(
        "drain_close_timeout = 30",
        &["value 30 for `drain_close_timeout`", "a time with its unit"],
    );
    for file in [
        "trusted_proxies = [\"10.0.0.1/8\"]",
        "trusted_proxies = \"localhost\"",
        "trusted_proxies = [\"10.0.0.0/33\"]",
    ] {
        of_file(
            file,
            &["for `trusted_proxies`", "addresses or ranges", "f.toml"],
        );
    }
    of_file(
        "trusted_proxies = [\"10.0.0.0/8\"]",
        &[
            "for `trusted_proxies`",
            "`forwarded_header`",
            "nothing that",
        ],
    );
    for settings in [
        "proxy_protocol = \"optional\"",
        "proxy_protocol = \"required\"\ntrusted_proxies = []",
        "forwarded_header = \"forwarded\"",
        "[assist]\ntenant_source = \"proxy\"",
    ] {
        of_file(settings, &["`trusted_proxies` to be set too", "f.toml"]);
    }
    of_file(
        "forwarded_header = \"x-real-ip\"",
        &["for `forwarded_header`", "x-forwarded-for"],
    );
    of_file(
        "log_rotation = \"1 day\"",
        &["value \"1 day\" for `log_rotation`", "bytes"],
    );
    of_file(
        "log_file = \"a\"\nlog_error_file = \"a\"",
        &["value \"a\" for `log_error_file`", "a file other than"],
    );
    of_file("path = \"/x\"", &["path", "a profile to be set too"]);
    of_file("tls = true", &["without a certificate", "tls_certificates"]);
    for settings in [
        "tls_ports = [\"443\"]",
        "tls_client_roots = \"a.pem\"",
        "tls_min_version = \"1.3\"",
        "tls_kernel = true",
    ] {
        of_file(settings, &["tls_certificates to be set too", "f.toml"]);
    }
    of_file(
        "tls_certificates = [\"a.pem\"]",
        &["for `tls_certificates`", "two files each"],
    );
    of_file("tls_min_version = \"1.1\"", &["`1.2` or `1.3`"]);
    of_file(
        "profile = \"chat\"",
        &["value \"chat\" for `profile`", "gateway, monitoring"],
    );
    of_file(
        "redis_url = \"http://u:p@h\"",
        &["value (secret) for `redis_url`", "redis-sentinel://"],
    );
    of_file(
        "jwt_algorithm = \"none\"",
        &["value \"none\" for `jwt_algorithms`", "HS256, HS384"],
    );
    of_file(
        "jwks_url = \"http://issuer.example/keys\"",
        &["value (secret) for `jwks_url`", "https://"],
    );
    of_file(
        "auth_callback_url = \"https://user:password@issuer.example/?key=k\"",
        &[
            "value (secret) for `auth_callback_url`",
            "without a user or password",
        ],
    );
    of_file(
        "notify_api_key = 5",
        &["value (secret) for `notify_api_key`", "f.toml", "a text"],
    );
    of_file(
        "[analytics]\npong_timeout = \"0s\"",
        &["analytics.pong_timeout", "longer than 0s"],
    );
    of_file(
        "[assist]\nmessage_bytes_max = 3",
        &["value 3 for `assist.message_bytes_max`", "1 KiB"],
    );
    of_file(
        "[assist]\nrate_limit = \"some\"",
        &["value \"some\" for `assist.rate_limit`", "\"off\""],
    );
    of_file(
        "[gateway]\nrate_limit = { messages = 0 }",
        &["gateway.rate_limit", "1 or more"],
    );
    of_file(
        "[gateway]\nrate_limit = { window = \"1s\" }",
        &["gateway.rate_limit", "messages"],
    );
    of_file("= 5", &["f.toml"]);
    of_file(
        "notify_api_key = \"\"",
        &["value (secret) for `notify_api_key`", "not empty"],
    );
    of_file("listeners = []", &["listeners", "1 to 16 tables"]);
    of_file(
        "[[listeners]]\nport = 5",
        &["listeners[0].port", "unknown setting"],
    );
    of_file(
        "[[listeners]]\nlisten = \"x\"",
        &["value \"x\" for `listeners[0].listen`", "an address"],
    );
    of_file(
        "[[listeners]]\npath = \"/x\"",
        &["listeners[0].path", "a profile in the same table"],
    );
    let of_variable = |name, variable, value, parts: &[&str]| {
        let environment = [(variable, value)];
        let sources = TestSources {
            flags: profile(name),
            environment: &environment,
            ..TestSources::default()
        };
        let source = format!("variable {variable}");
        check(&sources, &[parts, &[&*source]].concat());
    };
    let time = ["a time with its unit"];
    of_variable("analytics", "FANWIRE_ANALYTICS__PING_INTERVAL", "30", &time);
    of_variable("notifications", "PING_INTERVAL", "often", &time);
    of_variable("notifications", "DEBUG", "maybe", &["true or false"]);
    of_variable("gateway", "RATE_LIMIT_ENABLED", "maybe", &["true or false"]);
    of_variable(
        "gateway",
        "WS_PATH",
        "ws",
        &["value \"ws\" for `path`", "begins with /"],
    );
    of_variable(
        "notifications",
        "PORT",
        "80000",
        &["value \"80000\" for `port`", "65535"],
    );
    of_variable(
        "gateway",
        "FANWIRE_DEV",
        "maybe",
        &["value \"maybe\" for `dev`"],
    );
}

#[test]
fn a_secret_without_quotes_is_not_shown_by_the_error_about_them() {
    let sources = TestSources {
        file: "shards = 2\njwt_secret = hunter2-hunter2",
        ..TestSources::default()
    };
    let error = sources.load().unwrap_err().to_string();
    assert!(
        error.contains("f.toml") && error.contains("f.toml:2"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn masks_of_a_report_are_not_secrets() {
    for (key, file) in [
        ("notify_api_key", "notify_api_key = \"(secret)\""),
        ("static_tokens", "static_tokens = [\"ann=(secret)\"]"),
    ] {
        let sources = TestSources {
            flags: secured(),
            file,
            ..TestSources::default()
        };
        let error = sources.load().expect_err(key).to_string();
        let expected = [key, "f.toml:1", "not the mask"];
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        let file = file.replace("(secret)", "another");
        let sources = TestSources {
            file: &file,
            ..sources
        };
        assert!(sources.load().is_ok(), "{key}");
    }
}

#[test]
fn contradictions_name_both_sides() {
    fn check(sources: &TestSources<'_>, one: &str, two: &str) {
        let error = sources.load().expect_err(one);
        assert!(matches!(error, SettingsError::Conflict { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(one) && error.contains(two), "{error}");
    }
    let listeners = "[[listeners]]\nprofile = \"monitoring\"\n";
    let sources = |flags, environment, file| TestSources {
        flags,
        environment,
        file,
        ..TestSources::default()
    };
    let none: &[(&str, &str)] = &[];
    let dev_and_prod = with(secured(), &[("dev", "true")]);
    check(
        &sources(dev_and_prod, &[("FANWIRE_PROD", "true")], ""),
        "`dev` (--dev)",
        "`prod` (variable FANWIRE_PROD)",
    );
    check(
        &sources(profile("gateway"), none, listeners),
        "`profile` (--profile)",
        "`listeners` (f.toml",
    );
    check(
        &sources(secured(), &[("FANWIRE_LISTEN", "0.0.0.0:1")], listeners),
        "`host` (variable FANWIRE_LISTEN)",
        "`listeners` (f.toml",
    );
    check(
        &sources(secured(), none, "listen = \"0.0.0.0:1\"\nport = 2"),
        "`listen` (f.toml",
        "`port` (f.toml",
    );
    check(
        &sources(secured(), none, "shards = 1\nworkers = 2"),
        "`workers` (f.toml",
        "`shards` (f.toml",
    );
    check(
        &sources(
            secured(),
            none,
            "[gateway.rate_limit]\nmessages = 1\nburst = 2",
        ),
        "gateway.rate_limit.messages",
        "gateway.rate_limit.burst",
    );
    let same = format!("{listeners}{}", listeners.replace("monitoring", "gateway"));
    check(
        &sources(secured(), none, &same),
        "0.0.0.0:8765 (monitoring at /)",
        "0.0.0.0:8765 (gateway at /ws)",
    );
    let two_secrets = [("JWT_SECRET", SECRET), ("JWT_SECRET_KEY", "another")];
    let different = same.replace("\"gateway\"", "\"gateway\"\nlisten = \"0.0.0.0:1\"");
    check(
        &sources(Vec::new(), &two_secrets, &different),
        "JWT_SECRET)",
        "JWT_SECRET_KEY)",
    );
    let twice = "[[listeners]]\nprofile = \"notifications\"\n\
        [[listeners]]\nprofile = \"notifications\"\nlisten = \"0.0.0.0:1\"";
    check(
        &sources(secured(), &[("PORT", "1")], twice),
        "`port` (variable PORT)",
        "`listeners` (f.toml",
    );
}

#[test]
fn wide_ranges_of_proxies_are_warned_about() {
    for (ranges, is_wide) in [
        ("0.0.0.0/0", true),
        ("10.0.0.1, 64.0.0.0/2", true),
        ("2000::/3", true),
        ("10.0.0.0/8, fc00::/7, 192.0.2.1", false),
    ] {
        let flags = with(
            secured(),
            &[
                ("trusted_proxies", ranges),
                ("forwarded_header", "forwarded"),
            ],
        );
        let notices = with_variables(flags, &[]).notices;
        let warns = |notice: &Notice| matches!(notice, Notice::Warning(text) if text.contains("can take any address"));
        assert_eq!(notices.iter().any(warns), is_wide, "{ranges}: {notices:?}");
    }
}

#[test]
fn secrets_of_examples_are_refused_unless_in_development() {
    for secret in [
        "your-secret-key",
        "Your-Secret-Key-Change-This",
        "secret",
        "changeme",
        "your-256-bit-secret",
        "A secret of 32 bytes or more, from a vault",
        "   ",
        "(secret)",
        "",
    ] {
        let mut sources = TestSources {
            flags: vec![("jwt_secret", secret)],
            ..TestSources::default()
        };
        let error = sources.load().expect_err(secret).to_string();
        assert!(
            error.contains("value (secret) for `jwt_secret` (--jwt-secret)"),
            "{error}"
        );
        sources.flags.push(("dev", "true"));
        assert_eq!(sources.load().is_ok(), !secret.is_empty());
    }
    let short = vec![("jwt_secret", "a short one")];
    let settings = with_variables(short, &[]);
    assert!(matches!(&settings.notices[..], [Notice::Warning(_)]));
}
