//! Tenants in the library and over HTTP: who reaches whom, and what one sees of the other.

use crate::harness::{Client, SECRET, configured, http};
use fanwire::base::now::Clock;
use fanwire::{Builder, DialectId, PublishError, Server, ShardCount};
use fanwire::{
    auth::{Grant, issue},
    block_on,
};
use serde_json::{Value, json};

fn token(user: &str, tenant: Option<&str>) -> String {
    let mut grant = Grant::new(user).with_permission("publish");
    grant.tenant = tenant.map(Into::into);
    issue(&grant, SECRET.as_bytes(), 3_600, Clock::start().now()).unwrap()
}

fn server(name: &str, change: impl FnOnce(Builder) -> Builder) -> Server {
    let settings =
        "notify_api_key = \"the key\"\nclient_http = [\"notify\"]\n[gateway]\nrate_limit = \"off\"";
    configured(name, settings, |builder| {
        let builder = builder.jwt_secret(SECRET).shards(ShardCount::Fixed(2));
        change(builder.profile(DialectId::Gateway))
    })
}

fn client(server: &Server, user: &str, tenant: Option<&str>) -> Client {
    let path = format!("/ws?token={}", token(user, tenant));
    let mut client = Client::open(server.addresses()[0], &path);
    assert!(client.receive().contains("auth_success"));
    client
}

fn subscribe(client: &mut Client, channel: &str) {
    client.send(&json!({"type": "subscribe", "data": {"channel": channel}}).to_string());
    let subscribed = json!({"type": "subscribed", "data": {"channel": channel}});
    assert_eq!(value(client), subscribed);
}

fn value(client: &mut Client) -> Value {
    serde_json::from_str(&client.receive()).unwrap()
}

/// The next message has this number; so nothing came before it.
fn hears(client: &mut Client, number: u64) {
    assert_eq!(value(client)["data"], json!(number));
}

#[test]
fn a_handle_of_a_tenant_reaches_and_finds_its_sessions_only() {
    let server = server("tenant-handles", |builder| builder);
    let mut ann = client(&server, "ann", Some("t1"));
    let mut bob = client(&server, "bob", Some("t2"));
    let mut eve = client(&server, "eve", None);
    for client in [&mut ann, &mut bob, &mut eve] {
        subscribe(client, "general");
        subscribe(client, "other");
    }
    let [t1, t2] = ["t1", "t2"].map(|tenant| server.in_tenant(tenant));
    t1.broadcast("general", "m", &1).unwrap();
    t2.broadcast("general", "m", &2).unwrap();
    server.broadcast("general", "m", &3).unwrap();
    hears(&mut ann, 1);
    hears(&mut bob, 2);
    hears(&mut eve, 3);
    server.in_all_tenants().broadcast("all", "m", &4).unwrap();
    for client in [&mut ann, &mut bob, &mut eve] {
        hears(client, 4);
    }
    let stats = block_on(server.tenant_stats("t1"));
    assert_eq!(stats.active_connections, 1);
    assert_eq!(stats.authenticated_connections, 1);
    assert_eq!((stats.total_subscriptions, stats.unique_channels), (2, 2));
    assert_eq!(block_on(server.tenant_stats("t3")).active_connections, 0);
    assert_eq!(block_on(server.stats()).active_connections, 3);
    // All channels of all tenants.
    assert_eq!(block_on(server.stats()).unique_channels, 6);
    ann.send(r#"{"type":"status"}"#);
    assert_eq!(
        value(&mut ann)["data"]["channels"],
        json!(["general", "other"])
    );
    drop((ann, bob, eve));
    block_on(server.stop());
}

#[test]
fn sessions_of_another_tenant_are_not_found() {
    let server = server("tenant-sessions", |builder| {
        builder.on_connect(|session| session.send("id", &session.id().to_string()))
    });
    let path = format!("/ws?token={}", token("ann", Some("t1")));
    let mut ann = Client::open(server.addresses()[0], &path);
    assert!(ann.receive().contains("auth_success"));
    let id = value(&mut ann)["data"].as_str().unwrap().to_owned();
    let [t1, t2] = ["t1", "t2"].map(|tenant| server.in_tenant(tenant));
    assert_eq!(block_on(t2.connection_info(&id)), None);
    assert!(!block_on(t2.send(id.parse().unwrap(), "m", &1)).unwrap());
    assert!(!block_on(t2.disconnect(&id)));
    assert_eq!(
        block_on(t1.connection_info(&id))
            .unwrap()
            .tenant_id
            .as_deref(),
        Some("t1")
    );
    assert!(block_on(server.connection_info(&id)).is_some());
    assert!(block_on(t1.send(id.parse().unwrap(), "m", &2)).unwrap());
    hears(&mut ann, 2);
    assert!(block_on(t1.disconnect(&id)));
    assert!(ann.next().unwrap().is_close());
    drop(ann);
    block_on(server.stop());
}

#[test]
fn names_that_would_leave_the_tenant_are_errors() {
    let server = server("tenant-errors", |builder| builder);
    let of = |scope: &Server, channel| match scope.broadcast(channel, "m", &1) {
        Ok(()) => true,
        Err(PublishError::Tenant) => false,
        Err(other) => panic!("{channel}: {other}"),
    };
    let (t1, all) = (server.in_tenant("t1"), server.in_all_tenants());
    for (scope, channel, expected) in [
        (&server, "tenant:t1", true),
        (&server, "tenant:t1:general", false),
        (&server, "tenant:", false),
        (&t1, "tenant:t1", true),
        (&t1, "tenant:t2", false),
        (&t1, "tenant:t1:general", false),
        (&t1, "user:ann", true),
        (&all, "user:ann", true),
        (&all, "all", true),
        (&all, "dialect:gateway", true),
        (&all, "general", false),
        (&all, "room:admin", false),
    ] {
        assert_eq!(of(scope, channel), expected, "{channel}");
    }
    for id in ["", "a:b", "a\nb", &"x".repeat(129)] {
        assert!(!of(&server.in_tenant(id), "general"), "{id:?}");
    }
    block_on(server.stop());
}

#[test]
fn a_handler_s_session_subscribes_and_publishes_in_its_tenant() {
    let server = server("tenant-handlers", |builder| {
        let builder = builder.on_connect(|session| {
            session.subscribe("general");
            // A session stays in its tenant.
            session.unsubscribe("tenant:t1");
            Ok(())
        });
        builder.on_message("say", |session, message| {
            session.publish("general", "m", &message.parse::<u64>()?)
        })
    });
    let mut ann = client(&server, "ann", Some("t1"));
    let mut bob = client(&server, "bob", Some("t2"));
    let mut eve = client(&server, "eve", None);
    ann.send(r#"{"type":"say","data":1}"#);
    hears(&mut ann, 1);
    bob.send(r#"{"type":"say","data":2}"#);
    hears(&mut bob, 2);
    eve.send(r#"{"type":"say","data":3}"#);
    hears(&mut eve, 3);
    let t1 = server.in_tenant("t1");
    t1.broadcast_to_user("ann", "m", &4).unwrap();
    hears(&mut ann, 4);
    server.broadcast_to_tenant("t1", "m", &5).unwrap();
    hears(&mut ann, 5);
    drop((ann, bob, eve));
    block_on(server.stop());
}

fn encodes(server: &Server) -> u64 {
    let text = server.prometheus_metrics();
    let lines = text.lines();
    let lines = lines.filter(|line| line.starts_with("fanwire_encodes_total{"));
    let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    values.sum()
}

#[test]
fn a_broadcast_to_all_tenants_is_encoded_once() {
    let server = server("tenant-encodes", |builder| builder);
    let mut clients: Vec<_> = (0..8)
        .map(|index| client(&server, "ann", Some(&format!("t{index}"))))
        .collect();
    let before = encodes(&server);
    server
        .in_all_tenants()
        .broadcast_to_user("ann", "m", &1)
        .unwrap();
    clients.iter_mut().for_each(|client| hears(client, 1));
    assert_eq!(encodes(&server) - before, 1);
    drop(clients);
    block_on(server.stop());
}

#[test]
fn a_notification_is_for_one_tenant_or_for_all_only_if_it_says_so() {
    let server = server("tenant-notify", |builder| builder);
    let mut ann = client(&server, "ann", Some("t1"));
    let mut bob = client(&server, "bob", Some("t2"));
    let mut eve = client(&server, "eve", None);
    let address = server.addresses()[0];
    let notify = |body: &str, expected: u16| {
        let length = body.len();
        let request = format!(
            "POST /notify HTTP/1.1\r\nHost: t\r\nX-API-Key: the key\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        let (status, answer) = http(address, &request);
        assert_eq!(status, expected, "{body}: {answer}");
        serde_json::from_str::<Value>(&answer).unwrap()["clients"].as_u64()
    };
    assert_eq!(notify(r#"{"message":"a"}"#, 200), Some(1));
    assert_eq!(notify(r#"{"message":"b","tenant":"t1"}"#, 200), None);
    assert_eq!(
        notify(r#"{"message":"c","all_tenants":true}"#, 200),
        Some(3)
    );
    notify(r#"{"message":"d","tenant":"a:b"}"#, 422);
    notify(r#"{"message":"d","tenant":""}"#, 422);
    notify(r#"{"message":"d","tenant":"t1","all_tenants":true}"#, 422);
    let heard = |client: &mut Client| value(client)["data"]["message"].clone();
    assert_eq!([heard(&mut eve), heard(&mut eve)], [json!("a"), json!("c")]);
    assert_eq!([heard(&mut ann), heard(&mut ann)], [json!("b"), json!("c")]);
    assert_eq!(heard(&mut bob), json!("c"));
    drop((ann, bob, eve));
    block_on(server.stop());
}

#[test]
fn a_notification_without_a_key_does_not_cross_tenants() {
    let server = configured("tenant-notify-open", "", |builder| {
        builder.profile(DialectId::Notifications)
    });
    let body = r#"{"message":"m","all_tenants":true}"#;
    let length = body.len();
    let request =
        format!("POST /notify HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n{body}");
    assert_eq!(http(server.addresses()[0], &request).0, 403);
    block_on(server.stop());
}

#[test]
fn clients_see_the_count_of_their_own_tenant() {
    let settings = "[notifications]\ntenant_isolation = true\ntenant_source = \"request\"";
    let server = configured("tenant-counts", settings, |builder| {
        builder.profile(DialectId::Notifications)
    });
    let open = |path: &str| Client::open(server.addresses()[0], path);
    let mut clients = ["/ws?tenant=t1", "/ws?tenant=t1", "/ws?tenant=t2", "/ws"].map(open);
    // All are there when they were answered.
    for client in &mut clients {
        client.send(r#"{"type":"ping"}"#);
        assert!(client.receive().contains("pong"));
    }
    let count = |client: &mut Client| {
        client.send(r#"{"type":"status_request"}"#);
        value(client)["data"]["active_connections"].clone()
    };
    assert_eq!(count(&mut clients[0]), json!(2));
    assert_eq!(count(&mut clients[2]), json!(1));
    assert_eq!(count(&mut clients[3]), json!(1));
    drop(clients);
    block_on(server.stop());
}
