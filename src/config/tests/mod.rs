//! The precedence of sources, and the variables of each legacy server.

mod documentation;
mod errors;

use super::file::File;
use super::layer::Entry;
use super::loader::Loader;
use super::sources::Sources;
use super::{AccessRule, LogFormat, LogLevel, Notice, RateLimit, Routes, Secret, Settings};
use super::{SettingsError, ShardCount};
use crate::base::DialectId;
use std::time::Duration;

const SECRET: &str = "a secret of the tests, of more than thirty-two bytes";

/// Flags: settings and their texts.
type Flags = Vec<(&'static str, &'static str)>;

/// What each source sets.
#[derive(Clone, Default)]
struct TestSources<'a> {
    flags: Flags,
    environment: &'a [(&'a str, &'a str)],
    dotenv: &'a [(&'a str, &'a str)],
    file: &'a str,
}

impl TestSources<'_> {
    fn load(&self) -> Result<Settings, SettingsError> {
        let pairs = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let flags = self.flags.iter().map(|(key, value)| {
            let flag = format!("--{}", key.replace('_', "-"));
            Entry::new(key, *value, flag)
        });
        let sources = Sources {
            entries: flags.collect(),
            listeners: None,
            has_token_check: false,
            is_command_line: false,
            environment: pairs(self.environment),
            dotenv: pairs(self.dotenv),
            file: Some(File::parse("f.toml".into(), self.file)?),
        };
        Loader::new(sources)?.load()
    }

    fn settings(&self) -> Settings {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }
}

#[test]
fn unknown_variables_are_warned_about_wherever_they_are() {
    let sources = TestSources {
        flags: secured(),
        environment: &[("FANWIRE_LISTNE", "1")],
        dotenv: &[("FANWIRE_SHARDZ", "3")],
        ..TestSources::default()
    };
    let notices = sources.settings().notices;
    for name in ["FANWIRE_LISTNE", "FANWIRE_SHARDZ"] {
        let is_warning =
            |notice: &Notice| matches!(notice, Notice::Warning(text) if text.contains(name));
        assert!(notices.iter().any(is_warning), "{name}: {notices:?}");
    }
}

/// Flags with a secret, so that nothing else is missing.
fn secured() -> Flags {
    vec![("jwt_secret", SECRET)]
}

fn profile(name: &'static str) -> Flags {
    with(secured(), &[("profile", name)])
}

fn with(flags: Flags, more: &[(&'static str, &'static str)]) -> Flags {
    [&flags[..], more].concat()
}

fn without_secret(mut flags: Flags) -> Flags {
    flags.retain(|(key, _)| *key != "jwt_secret");
    flags
}

fn with_file(file: &str) -> Settings {
    TestSources {
        flags: secured(),
        file,
        ..TestSources::default()
    }
    .settings()
}

fn with_variables(flags: Flags, environment: &[(&str, &str)]) -> Settings {
    TestSources {
        flags,
        environment,
        ..TestSources::default()
    }
    .settings()
}

#[test]
fn a_later_layer_wins() {
    // Each row adds the next higher layer; the last layer wins.
    let file = "profile = \"notifications\"\n[notifications]\nping_interval = \"1s\"";
    let dotenv_document = [("PING_INTERVAL", "2")];
    let dotenv_both = [
        ("PING_INTERVAL", "2"),
        ("FANWIRE_NOTIFICATIONS__PING_INTERVAL", "3s"),
    ];
    let document = [("PING_INTERVAL", "4")];
    let both = [
        ("PING_INTERVAL", "4"),
        ("FANWIRE_NOTIFICATIONS__PING_INTERVAL", "5s"),
    ];
    let check = |file, dotenv, environment, expected_ms| {
        let sources = TestSources {
            flags: profile("notifications"),
            environment,
            dotenv,
            file,
        };
        let policy = sources.settings().dialects[DialectId::Notifications.index()];
        assert_eq!(policy.ping_interval.0, expected_ms);
    };
    check("", &[][..], &[][..], 30_000);
    check(file, &[], &[], 1_000);
    check(file, &dotenv_document, &[], 2_000);
    check(file, &dotenv_both, &[], 3_000);
    check(file, &dotenv_both, &document, 4_000);
    check(file, &dotenv_both, &both, 5_000);
}

#[test]
fn flags_win_over_everything() {
    let sources = TestSources {
        flags: with(
            profile("notifications"),
            &[("shards", "9"), ("port", "9"), ("log_level", "CRITICAL")],
        ),
        environment: &[
            ("FANWIRE_SHARDS", "8"),
            ("WORKERS", "7"),
            ("PORT", "7"),
            ("LOG_LEVEL", "DEBUG"),
        ],
        file: "shards = 6",
        ..TestSources::default()
    };
    let settings = sources.settings();
    assert_eq!(settings.process.shards, ShardCount::Fixed(9));
    assert_eq!(settings.listeners[0].address.port(), 9);
    assert_eq!(settings.log.log_level, LogLevel::Error);
}

#[test]
fn each_document_has_its_variables() {
    fn check(name: &'static str, variables: &[(&str, &str)], line: &str) {
        let report = with_variables(profile(name), variables).report.to_string();
        let found = report.lines().any(|found| found.starts_with(line));
        assert!(found, "{name} {variables:?}: no line {line} in\n{report}");
    }
    check("monitoring", &[("WEBSOCKET_PORT", "1")], "port = 1 ");
    check("monitoring", &[("WEBSOCKET_HOST", "::1")], "host = \"::1\"");
    check(
        "monitoring",
        &[("MAX_CONNECTIONS", "5")],
        "sessions_max = 5 ",
    );
    let streaming = [
        ("HOST", "10.0.0.1", "host = \"10.0.0.1\""),
        ("PORT", "2", "port = 2 "),
        ("MAX_CONNECTIONS", "3", "sessions_max = 3 "),
        ("PING_INTERVAL", "21", "ping_interval = \"21s\""),
        ("PING_TIMEOUT", "11", "pong_timeout = \"11s\""),
        ("CLOSE_TIMEOUT", "1.5", "close_timeout = \"1s 500ms\""),
        (
            "MAX_MESSAGE_SIZE",
            "2097152",
            "message_bytes_max = \"2 MiB\"",
        ),
        (
            "COMPRESSION",
            "none",
            "compression = \"off\"  # variable STREAMING_WEBSOCKET__COMPRESSION",
        ),
        (
            "COMPRESSION",
            "deflate",
            "compression = \"deflate\"  # variable STREAMING_WEBSOCKET__COMPRESSION",
        ),
        ("REQUIRE_AUTH", "false", "auth_required = false"),
        ("AUTH_TIMEOUT_SECONDS", "31", "auth_timeout = \"31s\""),
        (
            "ALLOWED_ORIGINS",
            "[\"https://a\"]",
            "allowed_origins = [\"https://a\"]",
        ),
        ("ENABLE_RATE_LIMITING", "false", "rate_limit = \"off\""),
        (
            "ENABLE_RATE_LIMITING",
            "true",
            "rate_limit = { messages = 60,",
        ),
        (
            "RATE_LIMIT_PER_MINUTE",
            "99",
            "rate_limit = { messages = 99, window = \"1m\" }",
        ),
    ];
    for (name, value, line) in streaming {
        check(
            "analytics",
            &[(&format!("STREAMING_WEBSOCKET__{name}"), value)],
            line,
        );
    }
    let limit = "rate_limit = { messages = 7, window = \"5s\" }";
    check(
        "assist",
        &[("WS_MAX_MESSAGES", "7"), ("WS_RATE_WINDOW", "5")],
        limit,
    );
    check(
        "assist",
        &[("WS_CLEANUP_INTERVAL", "60")],
        "quota_sweep_interval = \"1m\"",
    );
    check("notifications", &[("HOST", "::")], "host = \"::\"");
    check("notifications", &[("PORT", "81")], "port = 81 ");
    check("notifications", &[("WORKERS", "2")], "shards = 2 ");
    check(
        "notifications",
        &[("PING_TIMEOUT", "9")],
        "pong_timeout = \"9s\"",
    );
    check(
        "notifications",
        &[("NOTIFICATION_INTERVAL", "0")],
        "test_message_interval = \"0s\"",
    );
    check(
        "notifications",
        &[("SHUTDOWN_TIMEOUT", "25")],
        "drain_grace_period = \"25s\"",
    );
    check(
        "notifications",
        &[("LOG_LEVEL", "WARNING")],
        "log_level = \"warn\"",
    );
    check(
        "notifications",
        &[("LOG_FORMAT", "text")],
        "log_format = \"text\"",
    );
    check(
        "notifications",
        &[("LOG_ROTATION", "5 MB")],
        "log_rotation = \"5 MB\"",
    );
    check(
        "notifications",
        &[("LOG_RETENTION", "2 days")],
        "log_retention = \"2days\"",
    );
    check(
        "notifications",
        &[("DEBUG", "true")],
        "log_level = \"debug\"",
    );
    let both = [("DEBUG", "true"), ("LOG_LEVEL", "ERROR")];
    check("notifications", &both, "log_level = \"error\"");
    check(
        "notifications",
        &[("METRICS_ENABLED", "false")],
        "metrics_enabled = false",
    );
    check(
        "notifications",
        &[("HEALTH_CHECK_ENABLED", "no")],
        "health_enabled = false",
    );
    check(
        "gateway",
        &[("WS_HOST", "127.0.0.1")],
        "host = \"127.0.0.1\"",
    );
    check("gateway", &[("WS_PORT", "82")], "port = 82 ");
    check("gateway", &[("WS_PATH", "/live")], "path = \"/live\"");
    check(
        "gateway",
        &[("MAX_CONNECTIONS_PER_IP", "100")],
        "sessions_per_ip_max = 100 ",
    );
    let limit = "rate_limit = { per_minute = 60, burst = 20 }";
    check("gateway", &[("MESSAGES_PER_MINUTE", "60")], limit);
    let off = [
        ("RATE_LIMIT_ENABLED", "false"),
        ("MESSAGES_PER_MINUTE", "60"),
    ];
    check("gateway", &off, "rate_limit = \"off\"");
    check(
        "gateway",
        &[("REDIS_URL", ""), ("JWT_ALGORITHM", "HS256")],
        "# redis_url is not set",
    );
}

#[test]
fn variables_of_profiles_not_in_use_mean_nothing() {
    let variables = [
        ("PORT", "1"),
        ("JWT_SECRET", "1"),
        ("WS_PATH", "x"),
        ("MAX_CONNECTIONS", "?"),
    ];
    for flags in [secured(), profile("analytics")] {
        let settings = with_variables(flags.clone(), &variables);
        let unset = with_variables(flags, &[]);
        assert_eq!(settings, unset);
    }
}

#[test]
fn a_secret_comes_from_the_profiles_own_variable_as_it_is() {
    let secrets = [
        "11111111111111111111111111111111",
        "\"a quoted one\"",
        "[x",
        " y ",
    ];
    for (name, variable) in [("monitoring", "JWT_SECRET"), ("gateway", "JWT_SECRET_KEY")] {
        for secret in secrets {
            let flags = without_secret(profile(name));
            let settings = with_variables(flags, &[(variable, secret)]);
            assert_eq!(settings.tokens.jwt_secret, Some(Secret(secret.into())));
            assert!(!format!("{settings:?}").contains(secret));
            assert!(!settings.report.to_string().contains(secret));
        }
    }
}

#[test]
fn one_name_that_two_profiles_claim_sets_both_and_says_so() {
    let sources = TestSources {
        flags: secured(),
        environment: &[("MAX_CONNECTIONS", "77")],
        file: "[[listeners]]\nprofile = \"monitoring\"\n[[listeners]]\nprofile = \"notifications\"",
        ..TestSources::default()
    };
    let settings = sources.settings();
    for dialect in [DialectId::Monitoring, DialectId::Notifications] {
        assert_eq!(settings.dialects[dialect.index()].sessions_max, 77);
        let text = format!(
            "variable MAX_CONNECTIONS sets {}.sessions_max",
            dialect.name()
        );
        assert!(settings.notices.contains(&Notice::Info(text)));
    }
}

#[test]
fn profiles_have_their_documents_ports_paths_and_defaults() {
    for (name, port, path) in [
        ("gateway", 8765, "/ws"),
        ("monitoring", 8765, "/"),
        ("analytics", 8765, "/"),
        ("assist", 8000, "/ws/connect"),
        ("notifications", 8000, "/ws"),
    ] {
        let settings = with_variables(profile(name), &[]);
        assert_eq!(settings.listeners[0].address, ([0, 0, 0, 0], port).into());
        let dialect = DialectId::named(name).unwrap();
        let path = path.to_owned();
        assert_eq!(
            settings.listeners[0].routes,
            Routes::Profile { dialect, path }
        );
        assert_eq!(settings.dialects_in_use(), [dialect]);
        let is_notifications = dialect == DialectId::Notifications;
        let wait_s = if is_notifications { 1_800 } else { 0 };
        assert_eq!(
            settings.process.drain_grace_period,
            Duration::from_secs(wait_s)
        );
        assert_eq!(settings.log.log_format == LogFormat::Json, is_notifications);
        let file = is_notifications.then(|| "logs/websocket_server.log".into());
        let error_file = is_notifications.then(|| "logs/errors.log".into());
        assert_eq!(settings.log.log_file, file);
        assert_eq!(settings.log.log_error_file, error_file);
    }
    let elsewhere = [("FANWIRE_LOG_FILE", "")];
    let settings = with_variables(profile("notifications"), &elsewhere);
    assert_eq!(
        (settings.log.log_file, settings.log.log_error_file),
        (None, None)
    );
    let dev = with(profile("notifications"), &[("dev", "true")]);
    let settings = with_variables(dev, &[]);
    assert_eq!(settings.process.shards, ShardCount::Fixed(1));
    assert_eq!(settings.log.log_level, LogLevel::Debug);
    assert_eq!(settings.log.log_format, LogFormat::Text);
    assert_eq!(
        (settings.log.log_file, settings.log.log_error_file),
        (None, None)
    );
}

#[test]
fn only_a_profile_without_tokens_starts_without_a_secret() {
    let unsecured = |flags: Flags| TestSources {
        flags: without_secret(flags),
        ..TestSources::default()
    };
    assert!(unsecured(profile("notifications")).load().is_ok());
    for flags in [Flags::default(), profile("gateway"), profile("monitoring")] {
        let error = unsecured(flags).load().unwrap_err().to_string();
        assert!(error.contains("--jwt-secret"), "{error}");
    }
    let closed = TestSources {
        file: "[notifications]\nauth_required = true",
        ..unsecured(profile("notifications"))
    };
    assert!(matches!(closed.load(), Err(SettingsError::Missing(_))));
    let open = TestSources {
        environment: &[("STREAMING_WEBSOCKET__REQUIRE_AUTH", "false")],
        ..unsecured(profile("analytics"))
    };
    assert!(open.load().is_ok());
}

#[test]
fn development_opens_what_nobody_said_explicitly() {
    let sources = TestSources {
        flags: vec![("dev", "true"), ("log_level", "DEBUG")],
        environment: &[("FANWIRE_GATEWAY__AUTH_REQUIRED", "true")],
        file: "[monitoring]\nrate_limit = { messages = 5, window = \"1s\" }",
        ..TestSources::default()
    };
    let settings = sources.settings();
    assert_eq!(settings.listeners[0].address, ([127, 0, 0, 1], 8765).into());
    assert_eq!(settings.log.log_level, LogLevel::Debug);
    let rules = &settings.process.publish_rules;
    assert_eq!(*rules, AccessRule::open_dialect_channels());
    let [gateway, monitoring, analytics, ..] = settings.dialects;
    assert!(gateway.auth_required && gateway.anonymous_publish);
    assert_eq!(gateway.rate_limit, RateLimit::Off);
    let limit = RateLimit::Window {
        messages: 5,
        window_ms: 1_000,
    };
    assert_eq!(monitoring.rate_limit, limit);
    assert!(!analytics.auth_required);
    let listen = vec![("dev", "true"), ("listen", "0.0.0.0:80")];
    let settings = with_variables(listen, &[]);
    assert_eq!(settings.listeners[0].address, ([0, 0, 0, 0], 80).into());
}

#[test]
fn rate_limits_of_two_forms_do_not_mix() {
    let check = |file: &str, environment: &[(&str, &str)], expected| {
        let sources = TestSources {
            flags: profile("gateway"),
            environment,
            file,
            ..TestSources::default()
        };
        let policy = sources.settings().dialects[DialectId::Gateway.index()];
        assert_eq!(policy.rate_limit, expected, "{file} {environment:?}");
    };
    let window = |messages, window_ms| RateLimit::Window {
        messages,
        window_ms,
    };
    let bucket = |per_minute, burst| RateLimit::Bucket { per_minute, burst };
    let file = "[gateway]\nrate_limit = { messages = 9, window = \"3s\" }";
    check("", &[], bucket(120, 20));
    check(file, &[], window(9, 3_000));
    check(file, &[("MESSAGES_PER_MINUTE", "50")], bucket(50, 20));
    check(
        file,
        &[("FANWIRE_GATEWAY__RATE_LIMIT__WINDOW", "4s")],
        window(9, 4_000),
    );
    check(
        file,
        &[("FANWIRE_GATEWAY__RATE_LIMIT", "off")],
        RateLimit::Off,
    );
    check(file, &[("RATE_LIMIT_ENABLED", "true")], window(9, 3_000));
    let off = "[gateway]\nrate_limit = \"off\"";
    check(off, &[("RATE_LIMIT_ENABLED", "true")], bucket(120, 20));
    check(
        off,
        &[("FANWIRE_GATEWAY__RATE_LIMIT__BURST", "5")],
        bucket(120, 5),
    );
}

#[test]
fn listeners_are_tables_with_a_place_each() {
    let sources = TestSources {
        flags: secured(),
        environment: &[("PORT", "9000"), ("WS_PATH", "/live")],
        file: "[[listeners]]\nprofile = \"notifications\"\n[[listeners]]\nprofile = \"gateway\"\n\
            listen = \"[::1]:80\"\n[[listeners]]\nlisten = \"127.0.0.1:81\"",
        ..TestSources::default()
    };
    let listeners = sources.settings().listeners;
    let shown: Vec<_> = listeners.iter().map(ToString::to_string).collect();
    let expected = [
        "0.0.0.0:9000 (notifications at /ws)",
        "[::1]:80 (gateway at /live)",
        "127.0.0.1:81 (dialects by path)",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn host_and_port_have_variables_like_any_setting() {
    let address = |environment: &[(&str, &str)]| {
        let settings = with_variables(secured(), environment);
        settings.listeners[0].address.to_string()
    };
    let both = [("FANWIRE_HOST", "127.0.0.1"), ("FANWIRE_PORT", "9001")];
    assert_eq!(address(&both), "127.0.0.1:9001");
    assert_eq!(address(&both[1..]), "0.0.0.0:9001");
    let service = [both[0], ("FANWIRE_PORT", "tcp://10.0.0.1:8765")];
    assert_eq!(address(&service), "127.0.0.1:8765");
    let conflict = TestSources {
        flags: secured(),
        environment: &[("FANWIRE_LISTEN", ":1"), ("FANWIRE_PORT", "2")],
        ..TestSources::default()
    };
    assert!(matches!(
        conflict.load(),
        Err(SettingsError::Conflict { .. })
    ));
    let invalid = TestSources {
        flags: secured(),
        environment: &[("FANWIRE_PORT", "eighty")],
        ..TestSources::default()
    };
    assert!(matches!(invalid.load(), Err(SettingsError::Value { .. })));
}

#[test]
fn kubernetes_and_typos_do_not_stop_the_server() {
    let settings = with_variables(
        secured(),
        &[
            ("FANWIRE_PORT", "tcp://10.0.0.1:8765"),
            ("FANWIRE_SERVICE_HOST", "10.0.0.1"),
            ("FANWIRE_SHARTS", "2"),
        ],
    );
    let [Notice::Warning(warning)] = &settings.notices[..] else {
        panic!("{:?}", settings.notices);
    };
    assert!(
        warning.contains("did you mean `FANWIRE_SHARDS`?"),
        "{warning}"
    );
}

#[test]
fn the_report_is_a_file_with_the_same_meaning() {
    let first = with_file(
        "send_queue_bytes_max = \"2 MiB\"\nallowed_origins = [\"https://a\", \"https://b\"]\n\
         drain_close_timeout = \"1m 5s\"\n[gateway]\ntenant_domain = \"example.org\"\n\
         rate_limit = { messages = 3, window = \"2s\" }\n[monitoring]\nrate_limit = \"off\"",
    );
    let without_secret: String = first
        .report
        .to_string()
        .lines()
        .filter(|line| !line.starts_with("jwt_secret"))
        .map(|line| format!("{line}\n"))
        .collect();
    let again = with_file(&without_secret);
    let meaning = |settings: &Settings| Settings {
        report: super::Report::default(),
        ..settings.clone()
    };
    assert_eq!(meaning(&first), meaning(&again));
    assert!(
        first
            .report
            .to_string()
            .contains("jwt_secret = \"(secret)\"  # --jwt-secret\n")
    );
    let two = "[[listeners]]\nlisten = \"127.0.0.1:1\"\n[[listeners]]\nprofile = \"assist\"";
    let first = with_file(two);
    let without_secret = first
        .report
        .to_string()
        .replace("jwt_secret = \"(secret)\"", "");
    assert_eq!(first.listeners, with_file(&without_secret).listeners);
}

#[test]
fn the_environment_file_of_the_notifications_document_is_understood() {
    let text = "# Server Configuration\nHOST=0.0.0.0\nPORT=8000\nWORKERS=2\n\nPING_INTERVAL=30\n\
        PING_TIMEOUT=10\nMAX_CONNECTIONS=1000\nNOTIFICATION_INTERVAL=10\nSHUTDOWN_TIMEOUT=1800\n\
        LOG_LEVEL=INFO\nLOG_FORMAT=json\nLOG_ROTATION=100 MB\nLOG_RETENTION=30 days\nDEBUG=false\n\
        RELOAD=false\nMETRICS_ENABLED=true\nHEALTH_CHECK_ENABLED=true\n";
    let pairs = crate::config::dotenv::parse(text).unwrap();
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let sources = TestSources {
        flags: profile("notifications"),
        dotenv: &pairs,
        ..TestSources::default()
    };
    let settings = sources.settings();
    assert_eq!(settings.process.shards, ShardCount::Fixed(2));
    assert_eq!(settings.log.log_rotation.0, 100_000_000);
    let report = settings.report.to_string();
    assert!(
        report.contains("drain_grace_period = \"30m\"  # .env SHUTDOWN_TIMEOUT\n"),
        "{report}"
    );
}

#[test]
fn the_examples_of_the_environment_are_understood() {
    for (name, text) in [
        (
            "gateway",
            include_str!("../../../deploy/env/gateway.env.example"),
        ),
        (
            "monitoring",
            include_str!("../../../deploy/env/monitoring.env.example"),
        ),
        (
            "analytics",
            include_str!("../../../deploy/env/analytics.env.example"),
        ),
        (
            "assist",
            include_str!("../../../deploy/env/assist.env.example"),
        ),
        (
            "notifications",
            include_str!("../../../deploy/env/notifications.env.example"),
        ),
    ] {
        let pairs = crate::config::dotenv::parse(text).unwrap();
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        let sources = TestSources {
            flags: profile(name),
            dotenv: &pairs,
            ..TestSources::default()
        };
        let report = sources.settings().report.to_string();
        for (variable, _) in pairs {
            let is_masked = variable.contains("SECRET");
            let is_silent = [
                "RATE_LIMIT_ENABLED",
                "ENABLE_RATE_LIMITING",
                "DEBUG",
                "RELOAD",
            ];
            let has_effect = !is_silent.iter().any(|silent| variable.ends_with(silent));
            let is_shown = report.contains(&format!(".env {variable}"));
            assert_eq!(
                is_shown,
                has_effect && !is_masked,
                "{variable} in\n{report}"
            );
        }
    }
}

#[test]
fn the_document_names_every_setting_and_variable() {
    let document = include_str!("../../../docs/CONFIGURATION.md");
    for setting in super::all_settings() {
        let name = setting.key.rsplit('.').next().unwrap();
        let is_named = document.contains(&format!("`{name}`"))
            || document.contains(&format!("`{}`", setting.key))
            || document.contains(&format!("__{}`", name.to_ascii_uppercase()));
        assert!(
            is_named,
            "docs/CONFIGURATION.md does not mention {}",
            setting.key
        );
    }
    let profiles = super::profiles::PROFILES.iter();
    for variable in profiles.flat_map(|profile| profile.variables) {
        let variable = variable.name;
        let is_named = document.contains(&format!("`{variable}`"));
        assert!(
            is_named,
            "docs/CONFIGURATION.md does not mention {variable}"
        );
    }
}
