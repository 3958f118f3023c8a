//! Who may come, and who may hear what, by the operator's and the program's word.

use crate::harness::Client;
use fanwire::auth::Identity;
use fanwire::server::Builder;
use fanwire::{DialectId, Server};
use std::path::PathBuf;

/// A server with this file of settings; it is written below the tests' own folder.
fn server(name: &str, settings: &str, change: impl FnOnce(Builder) -> Builder) -> Server {
    let mut file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    file.push(format!("{name}.toml"));
    std::fs::write(&file, settings).unwrap();
    let builder = Server::builder()
        .config_file(file)
        .listen(([127, 0, 0, 1], 0).into())
        .profile(DialectId::Gateway);
    change(builder).start().unwrap()
}

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
        access = ["vip:* role=vip", "reports permission=read", "mine:* user"]
    "#;
    let server = server("access", settings, |builder| builder);
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
    let server = server("check", "", |builder| {
        builder.authenticate(|token| {
            assert_ne!(token, "panic", "a check that panics");
            let user = token.strip_prefix("key-of-")?;
            Some(Identity {
                user: user.into(),
                roles: vec!["vip".into()],
                expires_unix_s: u64::MAX,
                ..Identity::default()
            })
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
