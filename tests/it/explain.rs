//! `fanwire explain`: who may do what, which rule decides it, and the exit code.

use crate::harness::{SECRET, token};
use std::process::{Command, Output};

const RULES: &str = r#"["orders:{user}", "news anyone", "closed nobody", "vip role=vip"]"#;

fn explain(arguments: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_fanwire"))
        .env_clear()
        .env("FANWIRE_JWT_SECRET", SECRET)
        .env("FANWIRE_ACCESS_RULES", RULES)
        .env("FANWIRE_PUBLISH_RULES", r#"["orders:{user}"]"#)
        .env("FANWIRE_HISTORY_RULES", r#"["news permission=read"]"#)
        .env("FANWIRE_PRESENCE_RULES", r#"["news role=vip"]"#)
        .arg("explain")
        .args(arguments)
        .output()
        .unwrap();
    let text = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    (status.code(), text.concat())
}

/// The exit code, and what the answer must contain.
fn check(arguments: &[&str], code: i32, expected: &[&str]) {
    let (status, text) = explain(arguments);
    assert_eq!(status, Some(code), "{arguments:?}\n{text}");
    for part in expected {
        assert!(text.contains(part), "{arguments:?}: no {part:?} in\n{text}");
    }
}

#[test]
fn explain_names_the_rule_that_decides_and_exits_with_the_answer() {
    let token = token("ann", &["publish", "read"]);
    let may = |action, channel, code, expected: &[&str]| {
        check(&["--token", &token, action, channel], code, expected);
    };
    let own = r#"rule "orders:{user} authenticated" is met (access_rules)"#;
    let claims = [
        "user         ann",
        "permissions  publish, read",
        "tenant       none",
        "attributes   none",
    ];
    may("subscribe", "orders:ann", 0, &["allowed: subscribe", own]);
    may("subscribe", "orders:ann", 0, &claims);
    may("subscribe", "orders:bob", 1, &["denied", "is not met"]);
    may("subscribe", "vip", 1, &[r#""vip role=vip" is not met"#]);
    may("publish", "orders:ann", 0, &["is met (publish_rules)"]);
    may("publish", "closed", 0, &["default_access is allow"]);
    may("publish", "room:lobby", 1, &["one of assist"]);
    may("publish", "user:ann", 1, &["Channel is reserved"]);
    may("history", "news", 0, &["is met (history_rules)"]);
    may("history", "closed", 1, &["is not met (access_rules)"]);
    may("presence", "news", 1, &["is not met (presence_rules)"]);
    let deny = ["--token", &token, "subscribe", "other"];
    check(&deny, 0, &["default_access is allow"]);
}

#[test]
fn explain_says_what_a_client_without_a_valid_token_may() {
    check(&["--anonymous", "subscribe", "news"], 1, &["auth_required"]);
    let open = ["--anonymous", "--profile", "notifications", "subscribe"];
    check(&[&open[..], &["news"]].concat(), 0, &["is met", "none"]);
    check(&[&open[..], &["vip"]].concat(), 1, &["is not met"]);
    let publish = ["--anonymous", "--profile", "notifications", "publish", "x"];
    check(&publish, 1, &["anonymous_publish"]);
    let forged = ["--token", "a.b.c", "subscribe", "news"];
    check(&forged, 1, &["the token is rejected"]);
}

#[test]
fn explain_without_a_question_is_a_usage_error() {
    for arguments in [
        &["subscribe", "news"][..],
        &["--anonymous", "dance", "news"],
        &["--anonymous", "subscribe"],
        &["--anonymous", "--token", "t", "subscribe", "news"],
        &["--anonymous", "--dialect", "x", "subscribe", "news"],
        &["--anonymous", "--profile", "x", "subscribe", "news"],
    ] {
        check(arguments, 2, &[]);
    }
}
