//! Who may come, and who may hear what, by the operator's and the program's word.

use crate::harness::{Client, configured};
use fanwire::auth::Identity;
use fanwire::{DialectId, block_on};

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
    block_on(server.stop());
}

fn publish(client: &mut Client, channel: &str) {
    client.send(&format!(
        r#"{{"type":"publish","data":{{"channel":"{channel}","type":"system_alert"}}}}"#
    ));
}

const DENIED: &str = r#"{"type":"error","data":{"error":"Permission denied"}}"#;

#[test]
fn anonymous_sessions_that_may_publish_fulfil_no_rule() {
    let settings = r#"
        access_rules = ["vip role=vip"]
        publish_rules = ["vip role=vip"]
        [gateway]
        auth_required = false
        anonymous_publish = true
    "#;
    let server = configured("anonymous", settings, |builder| {
        let builder = builder.profile(DialectId::Gateway);
        builder.authenticate(|token| Some(Identity::new(token)))
    });
    // It is about sessions without an identity: who has one needs the permission.
    let mut known = Client::open(server.addresses()[0], "/ws?token=ann");
    assert!(known.receive().contains("auth_success"));
    publish(&mut known, "open");
    assert_eq!(known.receive(), DENIED);
    drop(known);
    let mut client = Client::open(server.addresses()[0], "/ws");
    for channel in ["room:admin", "room:document_updates_ann", "vip"] {
        assert_eq!(subscribe(&mut client, channel), DENIED, "{channel}");
    }
    assert!(subscribe(&mut client, "open").contains("subscribed"));
    publish(&mut client, "vip");
    assert_eq!(client.receive(), DENIED);
    publish(&mut client, "open");
    assert!(client.receive().contains("system_alert"));
    drop(client);
    block_on(server.stop());
}

/// A client with the permission `publish` and the role `editor`, and where it may publish.
fn check_publishing(
    name: &str,
    settings: &str,
    dialect: Option<DialectId>,
    expected: &[(&str, bool)],
) {
    let server = configured(name, settings, |builder| {
        let builder = builder.authenticate(|token| {
            let user = Identity::new(token).with_permission("publish");
            Some(user.with_role("editor"))
        });
        match dialect {
            Some(dialect) => builder.profile(dialect),
            None => builder,
        }
    });
    let mut client = Client::open(server.addresses()[0], "/ws?token=ann");
    assert!(client.receive().contains("auth_success"));
    for (channel, is_open) in expected {
        publish(&mut client, channel);
        client.send(r#"{"type":"ping"}"#);
        let answer = client.receive();
        let denied = if *is_open {
            r#"{"type":"pong"}"#
        } else {
            DENIED
        };
        assert_eq!(answer, denied, "{name}: {channel}");
        if !is_open {
            assert_eq!(client.receive(), r#"{"type":"pong"}"#);
        }
    }
    drop(client);
    block_on(server.stop());
}

#[test]
fn rules_say_who_may_publish_and_a_dialects_channels_are_closed_to_others() {
    let all = None;
    let closed = [
        ("room:admin", false),
        ("room:document_updates_bob", false),
        ("stream:events", false),
        ("prop:1", false),
        ("news", true),
    ];
    check_publishing("publishing-default", "", all, &closed);
    let ruled = r#"publish_rules = ["room:* role=editor", "room:admin role=admin", "prop:* anyone", "news role=press"]"#;
    let expected = [
        ("room:lobby", true),
        ("room:admin", false),
        ("stream:events", false),
        ("prop:1", true),
        ("news", false),
        ("other", true),
    ];
    check_publishing("publishing-ruled", ruled, all, &expected);
    // Without the dialect, its prefix is part of a name like any other.
    let gateway = Some(DialectId::Gateway);
    check_publishing(
        "publishing-alone",
        "",
        gateway,
        &[("room:lobby", true), ("prop:1", true)],
    );
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
    block_on(server.stop());
}
