//! Tokens that prove nothing.

use crate::harness::{Frame, Raw, SECRET, Server, token};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fanwire::auth::{Grant, issue};
use fanwire::base::Now;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

/// Tokens with the error that they get and the label that counts them.
fn bad_tokens() -> Vec<(String, &'static str, &'static str)> {
    let claims = json!({"sub": "eve", "exp": 4_000_000_000_u64});
    let sign = |algorithm, secret: &str| {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(algorithm), &claims, &key).unwrap()
    };
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!("{}.{}.", part(json!({"alg": "none"})), part(claims.clone()));
    let past = Now::at(0, 1_000_000_000_000);
    let expired = issue(&Grant::new("eve"), SECRET.as_bytes(), 60, past);
    vec![
        (expired.unwrap(), "Token expired", "expired"),
        (unsigned, "Invalid token", "algorithm"),
        (sign(Algorithm::HS512, SECRET), "Invalid token", "algorithm"),
        (
            sign(Algorithm::HS256, "another secret"),
            "Invalid token",
            "signature",
        ),
        ("garbage".into(), "Invalid token", "malformed"),
        ("a.b.c".into(), "Invalid token", "malformed"),
    ]
}

#[test]
fn a_bad_token_in_the_handshake_closes_with_1008() {
    let server = Server::secured();
    for (token, error, label) in bad_tokens() {
        let series = format!("fanwire_token_errors_total{{error=\"{label}\"");
        let before = server.metric(&series);
        let mut raw = Raw::open(server.address, &format!("/ws?token={token}"), "");
        let expected = format!(r#"{{"type":"auth_failed","data":{{"error":"{error}"}}}}"#);
        assert_eq!(raw.read_text(), expected);
        assert_eq!(raw.read(), Frame::Close(1008, "unauthorized".into()));
        assert_eq!(raw.read(), Frame::End);
        assert_eq!(server.metric(&series), before + 1, "{label}");
    }
}

#[test]
fn a_bad_token_in_a_message_may_be_followed_by_a_good_one() {
    let server = Server::secured();
    for (bad, error, _) in bad_tokens() {
        let mut raw = Raw::open(server.address, "/monitoring", "");
        raw.read_text();
        raw.send(&format!(r#"{{"type":"AUTHENTICATE","token":"{bad}"}}"#));
        assert_eq!(
            raw.read_text(),
            format!(r#"{{"type":"ERROR","message":"{error}"}}"#)
        );
        let good = token("ann", &[]);
        raw.send(&format!(r#"{{"type":"AUTHENTICATE","token":"{good}"}}"#));
        assert_eq!(
            raw.read_text(),
            r#"{"type":"AUTHENTICATED","user_id":"ann"}"#
        );
    }
}

#[test]
fn the_third_bad_token_closes_with_1008() {
    let server = Server::secured();
    let mut raw = Raw::open(server.address, "/ws", "");
    for _ in 0..3 {
        raw.send(r#"{"type":"auth","data":{"token":"x"}}"#);
        assert!(raw.read_text().contains("auth_failed"));
    }
    assert_eq!(raw.read(), Frame::Close(1008, "unauthorized".into()));
    assert_eq!(
        server.metric("fanwire_closes_total{reason=\"unauthorized\""),
        1
    );
}

#[test]
fn a_token_that_expires_while_connected_ends_the_session() {
    let server = Server::secured();
    let now = fanwire::base::now::Clock::start().now();
    let grant = Grant::new("ann");
    let token = issue(&grant, SECRET.as_bytes(), 2, now).unwrap();
    let mut raw = Raw::open(server.address, &format!("/ws?token={token}"), "");
    assert!(raw.read_text().contains("auth_success"));
    let expected = r#"{"type":"error","data":{"error":"Token expired"}}"#;
    assert_eq!(raw.read_text(), expected);
    assert_eq!(raw.read(), Frame::Close(1008, "token_expired".into()));
}
