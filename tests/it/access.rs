//! Who may come, and who may hear what, by the operator's and the program's word.

use crate::harness::{Client, configured};
use fanwire::DialectId;
use fanwire::auth::Identity;

fn subscribe(client: &mut Client, channel: &str) -> String {
    client.send(&format!(
        r#"{{"type":"subscribe","data":{{"channel":"{channel}"}}}}"#
    ));
    client.receive()
}

#[test]
fn listed_tokens_prove_users_and_rules_guard_channels() {
    let settings = r#"
        static_tokens = ["ann=the token of ann", "bob=the token of bob"]
        access_rules = ["vip:* role=vip", "reports permission=read", "mine:* user"]
    "#;
    let server = configured("access", settings, |builder| {
        builder.profile(DialectId::Gateway)
    });
    let mut client = Client::open(server.addresses()[0], "/ws?token=the+token+of+ann");
    let welcome = r#"{"type":"auth_success","data":{"user_id":"ann"}}"#;
    assert_eq!(client.receive(), welcome);
    let denied = r#"{"type":"error","data":{"error":"Permission denied"}}"#;
    for (channel, is_open) in [
        ("vip:1", false),
        ("reports", false),
        ("mine:bob", false),
        ("mine:ann", true),
        ("reports2", true),
    ] {
        let answer = subscribe(&mut client, channel);
        let subscribed = format!(r#"{{"type":"subscribed","data":{{"channel":"{channel}"}}}}"#);
        assert_eq!(answer, if is_open { &subscribed } else { denied });
    }
    let mut stranger = Client::open(server.addresses()[0], "/ws?token=guessed");
    let failed = r#"{"type":"auth_failed","data":{"error":"Invalid token"}}"#;
    assert_eq!(stranger.receive(), failed);
    assert!(stranger.next().unwrap().is_close());
    drop((client, stranger));
    server.stop();
}

#[test]
fn a_program_may_check_tokens_itself_and_needs_no_secret_then() {
    let server = configured("check", "", |builder| {
        builder.profile(DialectId::Gateway).authenticate(|token| {
            assert_ne!(token, "panic", "a check that panics");
            let user = token.strip_prefix("key-of-")?;
            Some(Identity::new(user).with_role("vip"))
        })
    });
    let mut client = Client::open(server.addresses()[0], "/ws");
    for (token, answer) in [
        (
            "panic",
            r#"{"type":"auth_failed","data":{"error":"Invalid token"}}"#,
        ),
        (
            "other",
            r#"{"type":"auth_failed","data":{"error":"Invalid token"}}"#,
        ),
        (
            "key-of-eve",
            r#"{"type":"auth_success","data":{"user_id":"eve"}}"#,
        ),
    ] {
        client.send(&format!(
            r#"{{"type":"auth","data":{{"token":"{token}"}}}}"#
        ));
        assert_eq!(client.receive(), answer);
    }
    server
        .broadcast_to_role("vip", "hello", &serde_json::json!(1))
        .unwrap();
    let hello = r#"{"type":"hello","channel":"role:vip","data":1}"#;
    assert_eq!(client.receive(), hello);
    drop(client);
    server.stop();
}
