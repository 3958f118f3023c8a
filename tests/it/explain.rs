//! `fanwire explain`: who may do what, which rule decides it, and the exit code.

use crate::backend::{Answer, Backend};
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

#[test]
fn explain_knows_the_tenant_of_the_request_and_the_keys_of_a_jwk_set() {
    let token = token("ann", &[]);
    let by_request = ["--token", &token, "--tenant", "acme", "subscribe", "news"];
    check(&by_request, 1, &["denied", "1008 tenant"]);
    let private = include_str!("../keys/ec_p256_private.pem");
    let key = jsonwebtoken::EncodingKey::from_ec_pem(private.as_bytes()).unwrap();
    let algorithm = jsonwebtoken::Algorithm::ES256;
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, algorithm).unwrap();
    let set = serde_json::json!({"keys": [jwk]}).to_string();
    let backend = Backend::new(move |_| Answer::Http(200, set.clone()));
    let claims = serde_json::json!({"sub": "ann", "exp": 4_000_000_000_u64});
    let header = jsonwebtoken::Header::new(algorithm);
    let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    let explained = |url: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_fanwire"))
            .env_clear()
            .env("FANWIRE_JWKS_URL", url)
            .args(["explain", "--token", &token, "subscribe", "news"])
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), said.concat())
    };
    let (code, said) = explained(&backend.url());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("user         ann"), "{said}");
    backend.replies(|_| Answer::Http(500, String::new()));
    let (code, said) = explained(&backend.url());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("cannot fetch the JWK set"), "{said}");
}
