//! What is rejected, and what an operator is told.

use super::{SECRET, TestSources, profile, secured, with_variables};
use crate::config::{Flags, Notice, Secret, SettingsError};

#[test]
fn errors_name_the_key_its_value_its_source_and_the_rule() {
    fn check(said: &TestSources<'_>, parts: &[&str]) {
        let error = said.load().expect_err(parts[0]).to_string();
        for part in parts {
            assert!(error.contains(part), "no {part} in: {error}");
        }
    }
    let of_file = |file, parts: &[&str]| {
        let said = TestSources {
            flags: secured(),
            file,
            ..TestSources::default()
        };
        check(&said, parts);
    };
    of_file(
        "shardz = 2",
        &["shardz", "file f.toml", "did you mean shards?"],
    );
    of_file("[gateway]\nping = 2", &["gateway.ping", "no such setting"]);
    of_file("[gatewai]\nping = 2", &["gatewai", "file f.toml"]);
    of_file(
        "listen = \"here\"",
        &["listen = \"here\"", "f.toml", "an address and a port"],
    );
    of_file("listen = \"::1:80\"", &["listen", "[::1]"]);
    of_file("shards = 0", &["shards = 0", "`auto` or a number from 1"]);
    of_file("ring_bytes = 5000", &["ring_bytes = 5000", "power of two"]);
    of_file(
        "send_queue_bytes_max = \"1 kB\"",
        &["send_queue_bytes_max", "4 KiB"],
    );
    of_file(
        "drain_close_timeout = 30",
        &["drain_close_timeout = 30", "a time with its unit"],
    );
    of_file(
        "log_rotation = \"1 day\"",
        &["log_rotation = \"1 day\"", "bytes"],
    );
    of_file(
        "log_file = \"a\"\nlog_error_file = \"a\"",
        &["log_error_file = \"a\"", "another file"],
    );
    of_file("path = \"/x\"", &["path", "a profile beside it"]);
    of_file(
        "profile = \"chat\"",
        &["profile = \"chat\"", "gateway, monitoring"],
    );
    of_file(
        "redis_url = \"redis://u:p@h\"",
        &["redis_url = (secret)", "not in this version"],
    );
    of_file(
        "jwt_algorithm = \"RS256\"",
        &["jwt_algorithm = \"RS256\"", "HS256"],
    );
    of_file(
        "notify_api_key = 5",
        &["notify_api_key = (secret)", "f.toml", "a text"],
    );
    of_file(
        "[analytics]\npong_timeout = \"0s\"",
        &["analytics.pong_timeout", "over 0"],
    );
    of_file(
        "[assist]\nmessage_bytes_max = 3",
        &["assist.message_bytes_max = 3", "1 KiB"],
    );
    of_file(
        "[assist]\nrate_limit = \"some\"",
        &["assist.rate_limit = \"some\"", "\"off\""],
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
        &["notify_api_key = (secret)", "none at all"],
    );
    of_file("listeners = []", &["listeners", "1 to 16 tables"]);
    of_file(
        "[[listeners]]\nport = 5",
        &["listeners[0].port", "no such setting"],
    );
    of_file(
        "[[listeners]]\nlisten = \"x\"",
        &["listeners[0].listen = \"x\"", "an address"],
    );
    of_file(
        "[[listeners]]\npath = \"/x\"",
        &["listeners[0].path", "beside a profile"],
    );
    let of_variable = |name, variable, value, parts: &[&str]| {
        let environment = [(variable, value)];
        let said = TestSources {
            flags: profile(name),
            environment: &environment,
            ..TestSources::default()
        };
        let source = format!("variable {variable}");
        check(&said, &[parts, &[&*source]].concat());
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
        &["path = \"ws\"", "begins with /"],
    );
    of_variable(
        "notifications",
        "PORT",
        "80000",
        &["port = \"80000\"", "65535"],
    );
    of_variable("gateway", "FANWIRE_DEV", "maybe", &["dev = \"maybe\""]);
}

#[test]
fn a_secret_without_quotes_is_not_shown_by_the_error_about_them() {
    let said = TestSources {
        file: "shards = 2\njwt_secret = hunter2-hunter2",
        ..TestSources::default()
    };
    let error = said.load().unwrap_err().to_string();
    assert!(
        error.contains("f.toml") && error.contains("line 2"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn contradictions_name_both_sides() {
    fn check(said: &TestSources<'_>, one: &str, two: &str) {
        let error = said.load().expect_err(one);
        assert!(
            matches!(error, SettingsError::Contradiction { .. }),
            "{error}"
        );
        let error = error.to_string();
        assert!(error.contains(one) && error.contains(two), "{error}");
    }
    let listeners = "[[listeners]]\nprofile = \"monitoring\"\n";
    let said = |flags, environment, file| TestSources {
        flags,
        environment,
        file,
        ..TestSources::default()
    };
    let none: &[(&str, &str)] = &[];
    let dev_and_prod = Flags {
        dev: true,
        ..secured()
    };
    check(
        &said(dev_and_prod, &[("FANWIRE_PROD", "true")], ""),
        "dev (--dev)",
        "prod (variable FANWIRE_PROD)",
    );
    check(
        &said(profile("gateway"), none, listeners),
        "profile (--profile)",
        "listeners (file f.toml)",
    );
    check(
        &said(secured(), &[("FANWIRE_LISTEN", "0.0.0.0:1")], listeners),
        "host (variable FANWIRE_LISTEN)",
        "listeners (file f.toml)",
    );
    check(
        &said(secured(), none, "listen = \"0.0.0.0:1\"\nport = 2"),
        "listen (file f.toml)",
        "port (file f.toml)",
    );
    check(
        &said(secured(), none, "shards = 1\nworkers = 2"),
        "workers (file f.toml)",
        "shards (file f.toml)",
    );
    check(
        &said(
            secured(),
            none,
            "[gateway.rate_limit]\nmessages = 1\nburst = 2",
        ),
        "gateway.rate_limit.messages",
        "gateway.rate_limit.burst",
    );
    let same = format!("{listeners}{}", listeners.replace("monitoring", "gateway"));
    check(
        &said(secured(), none, &same),
        "0.0.0.0:8765 (monitoring at /)",
        "0.0.0.0:8765 (gateway at /ws)",
    );
    let two_secrets = [("JWT_SECRET", SECRET), ("JWT_SECRET_KEY", "another")];
    let different = same.replace("\"gateway\"", "\"gateway\"\nlisten = \"0.0.0.0:1\"");
    check(
        &said(Flags::default(), &two_secrets, &different),
        "JWT_SECRET)",
        "JWT_SECRET_KEY)",
    );
    let twice = "[[listeners]]\nprofile = \"notifications\"\n\
        [[listeners]]\nprofile = \"notifications\"\nlisten = \"0.0.0.0:1\"";
    check(
        &said(secured(), &[("PORT", "1")], twice),
        "port (variable PORT)",
        "listeners (file f.toml)",
    );
}

#[test]
fn secrets_of_examples_are_refused_unless_in_development() {
    for secret in [
        "your-secret-key",
        "Your-Secret-Key-Change-This",
        "secret",
        "changeme",
        "(secret)",
        "",
    ] {
        let mut said = TestSources {
            flags: Flags {
                jwt_secret: Some(Secret(secret.into())),
                ..Flags::default()
            },
            ..TestSources::default()
        };
        let error = said.load().expect_err(secret).to_string();
        assert!(
            error.contains("jwt_secret = (secret) (--jwt-secret)"),
            "{error}"
        );
        said.flags.dev = true;
        assert_eq!(said.load().is_ok(), !secret.is_empty());
    }
    let short = Flags {
        jwt_secret: Some(Secret("a short one".into())),
        ..Flags::default()
    };
    let settings = with_variables(short, &[]);
    assert!(matches!(&settings.notices[..], [Notice::Warning(_)]));
}
