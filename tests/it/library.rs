//! Does the server do for a program that embeds it what its handlers and calls say?

use crate::harness::{Client, Frame, Raw, SECRET, token};
use fanwire::{
    BroadcastTarget, Builder, Denied, DialectId, Identity, PublishError, Server, SettingValue,
    ShardCount, StartError, StopOutcome, block_on,
};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, mpsc};

/// Two shards that want tokens, on a port of their own.
pub(crate) fn builder() -> Builder {
    Server::builder()
        .listen(([127, 0, 0, 1], 0).into())
        .shards(ShardCount::Fixed(2))
        .jwt_secret(SECRET)
}

/// A running server that stops when dropped.
pub(crate) struct Embedded {
    pub(crate) server: Server,
    address: SocketAddr,
}

impl Embedded {
    pub(crate) fn of(builder: Builder) -> Self {
        let server = builder.start().unwrap();
        let address = server.addresses()[0];
        Self { server, address }
    }

    fn client(&self, path: &str) -> Client {
        Client::open(self.address, path)
    }

    /// A client whose token was accepted.
    fn user(&self, name: &str) -> Client {
        let mut client = self.client(&format!("/ws?token={}", token(name, &[])));
        assert!(client.receive().contains("auth_success"));
        client
    }

    /// Waits until `count` sessions are there.
    fn await_sessions(&self, count: u64) {
        for _ in 0..2_000_000 {
            if block_on(self.server.stats()).active_connections == count {
                return;
            }
            std::thread::yield_now();
        }
        panic!("{:?}", block_on(self.server.stats()));
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        block_on(self.server.stop());
    }
}

/// Sends a message, and expects that answer.
fn ask(client: &mut Client, message: &str, expected: &str) {
    client.send(message);
    assert_eq!(client.receive(), expected, "{message}");
}

/// The gateway document's echo.
fn echo() -> Embedded {
    Embedded::of(builder().on_message("echo", |session, message| {
        session.send("echo_response", &message.parse::<Value>()?)
    }))
}

#[test]
fn an_echo_handler_answers_with_the_data_it_was_given() {
    let program = echo();
    let mut client = program.user("ann");
    ask(
        &mut client,
        r#"{"type":"echo","data":{"text":"Hello","n":[1,2.5,null]}}"#,
        r#"{"type":"echo_response","data":{"n":[1,2.5,null],"text":"Hello"}}"#,
    );
    ask(
        &mut client,
        r#"{"type":"echo"}"#,
        r#"{"type":"echo_response","data":null}"#,
    );
    // The dialect's own messages are none of the handler's.
    ask(&mut client, r#"{"type":"ping"}"#, r#"{"type":"pong"}"#);
}

#[test]
fn a_handler_serves_only_sessions_that_have_authenticated() {
    let program = echo();
    let mut client = program.client("/ws");
    ask(
        &mut client,
        r#"{"type":"echo","data":1}"#,
        r#"{"type":"error","data":{"error":"Authentication required"}}"#,
    );
}

#[test]
fn a_handler_serves_every_dialect_in_its_own_words() {
    let program = echo();
    for (path, message, expected) in [
        (
            "/monitoring",
            r#"{"type":"echo","n":1}"#,
            // The whole message is the data, and passes as it is.
            r#"{"n":1,"type":"echo"}"#,
        ),
        (
            "/analytics",
            r#"{"type":"echo","data":{"n":1}}"#,
            r#"{"type":"echo_response","data":{"n":1},"timestamp":""#,
        ),
        (
            "/ws/connect",
            r#"{"type":"echo","n":1}"#,
            r#"{"n":1,"type":"echo"}"#,
        ),
        (
            "/notifications",
            r#"{"type":"echo","n":1}"#,
            r#"{"type":"echo_response","message":"","data":{"n":1,"type":"echo"},"timestamp":""#,
        ),
    ] {
        let token = token("ann", &[]);
        let mut client = program.client(&format!("{path}?token={token}"));
        client.send(message);
        let greetings = ["WELCOME", "AUTHENTICATED", "auth_success", "connection"];
        let answer = loop {
            let answer = client.receive();
            if !greetings.iter().any(|greeting| answer.contains(greeting)) {
                break answer;
            }
        };
        assert!(answer.starts_with(expected), "{path}: {answer}");
    }
}

#[test]
fn a_handler_checks_credentials_of_its_own() {
    let custom_auth = |session: &mut fanwire::Session<'_>, message: fanwire::Message<'_>| {
        let data: Value = message.parse()?;
        if data["token"] == "a token of our own" {
            session.identify(Identity::new("user_123").with_tenant("tenant_456"));
            session.send("auth_success", &json!({"user_id": "user_123"}))
        } else {
            session.send("auth_failed", &json!({"error": "Invalid token"}))
        }
    };
    let program =
        Embedded::of(builder().on_message_before_authentication("custom_auth", custom_auth));
    let mut client = program.client("/ws");
    ask(
        &mut client,
        r#"{"type":"custom_auth","data":{"token":"nonsense"}}"#,
        r#"{"type":"auth_failed","data":{"error":"Invalid token"}}"#,
    );
    let subscribe = r#"{"type":"subscribe","data":{"channel":"general"}}"#;
    ask(
        &mut client,
        subscribe,
        r#"{"type":"error","data":{"error":"Authentication required"}}"#,
    );
    ask(
        &mut client,
        r#"{"type":"custom_auth","data":{"token":"a token of our own"}}"#,
        r#"{"type":"auth_success","data":{"user_id":"user_123"}}"#,
    );
    ask(
        &mut client,
        subscribe,
        r#"{"type":"subscribed","data":{"channel":"general"}}"#,
    );
    for publish in [Server::broadcast_to_tenant, Server::broadcast_to_user] {
        let (tenant, user) = ("tenant_456", "user_123");
        let server = program.server.in_tenant(tenant);
        let _ = publish(&server, tenant, "m", &1);
        let _ = publish(&server, user, "m", &2);
    }
    let heard = [client.receive(), client.receive()];
    assert_eq!(
        heard,
        [
            r#"{"type":"m","channel":"tenant:tenant_456","data":1}"#,
            r#"{"type":"m","channel":"user:user_123","data":2}"#
        ]
    );
}

#[test]
fn what_a_handler_asks_for_happens_in_its_order() {
    let program = Embedded::of(builder().on_message("tour", |session, _| {
        assert_eq!(session.user_id(), Some("ann"));
        assert!(session.is_authenticated() && session.tenant_id().is_none());
        session.send("before", &session.channels().len())?;
        session.subscribe("news");
        session.publish("news", "headline", &"hello")?;
        session.unsubscribe("elsewhere");
        Ok(())
    }));
    let mut client = program.user("ann");
    client.send(r#"{"type":"tour"}"#);
    for expected in [
        r#"{"type":"before","data":0}"#,
        r#"{"type":"headline","channel":"news","data":"hello"}"#,
    ] {
        assert_eq!(client.receive(), expected);
    }
    client.send(r#"{"type":"status"}"#);
    assert!(client.receive().contains(r#""channels":["news"]"#));
}

#[test]
fn a_refusal_is_told_and_a_panic_is_not_the_end() {
    let program = Embedded::of(
        builder()
            .on_message("refuse", |_, _| Err(Denied::because("not on Sundays")))
            .on_message("panic", |_, _| panic!("a handler of a test panics"))
            .on_message("close", |session, _| {
                session.send("goodbye", &1)?;
                session.close();
                Ok(())
            }),
    );
    let mut client = program.user("ann");
    ask(
        &mut client,
        r#"{"type":"refuse"}"#,
        r#"{"type":"error","data":{"error":"not on Sundays"}}"#,
    );
    ask(
        &mut client,
        r#"{"type":"panic"}"#,
        r#"{"type":"error","data":{"error":"Internal error"}}"#,
    );
    ask(
        &mut client,
        r#"{"type":"close"}"#,
        r#"{"type":"goodbye","data":1}"#,
    );
    assert!(client.next().unwrap().is_close());
}

#[test]
fn a_handler_may_publish_by_a_clone_of_the_server_and_an_asynchronous_one_wait_for_shards() {
    let own = Arc::new(OnceLock::<Server>::new());
    let clones: [_; 4] = std::array::from_fn(|_| Arc::clone(&own));
    let [publishing, asking, looking, closing] = clones;
    let program = Embedded::of(
        builder()
            .set("gateway.rate_limit", "off")
            .on_message("tell", move |_, _| {
                let server = publishing.get().unwrap();
                let told = server.broadcast_to_user("ann", "told", &1);
                told.map_err(|error| Denied::because(error.to_string()))
            })
            .on_message_async("ask", move |session, _| {
                let server = asking.get().unwrap().clone();
                async move {
                    let stats = server.stats().await;
                    session.send("stats", &json!([stats.running, stats.unique_channels]))
                }
            })
            .on_message_async("look", move |session, message| {
                let server = looking.get().unwrap().clone();
                async move {
                    let id: String = serde_json::from_str(&message.data).unwrap();
                    let info = server.connection_info(&id).await;
                    session.send("info", &info.map(|info| (info.user_id, info.channels)))
                }
            })
            .on_message("who", |session, _| {
                session.send("id", &session.id().to_string())
            })
            .on_message("close", move |session, _| {
                let id = session.id().to_string();
                block_on(closing.get().unwrap().disconnect(&id));
                Ok(())
            }),
    );
    own.set(program.server.clone()).unwrap();
    let mut client = program.user("ann");
    let subscribe = r#"{"type":"subscribe","data":{"channel":"news"}}"#;
    ask(
        &mut client,
        subscribe,
        r#"{"type":"subscribed","data":{"channel":"news"}}"#,
    );
    let told = r#"{"type":"told","channel":"user:ann","data":1}"#;
    ask(&mut client, r#"{"type":"tell"}"#, told);
    let stats = r#"{"type":"stats","data":[true,1]}"#;
    ask(&mut client, r#"{"type":"ask"}"#, stats);
    // Of every shard, by either form of the id.
    let mut others = Vec::new();
    // The kernel chooses the shard of each by chance, and passes over one that is stalled.
    let has_sessions = |shard| {
        let text = program.server.prometheus_metrics();
        let series = format!(r#"fanwire_shard_sessions{{shard="{shard}"}} "#);
        text.contains(&series) && !text.contains(&(series + "0"))
    };
    while others.len() < 8 || ![0, 1].into_iter().all(has_sessions) {
        assert!(others.len() < 200, "all sessions are on one shard");
        others.push(program.user("bob"));
    }
    for other in &mut others {
        other.send(r#"{"type":"who"}"#);
        let answer: Value = serde_json::from_str(&other.receive()).unwrap();
        let question = json!({"type": "look", "data": answer["data"]}).to_string();
        let known = r#"{"type":"info","data":["bob",[]]}"#;
        ask(&mut client, &question, known);
    }
    let unknown = r#"{"type":"info","data":null}"#;
    ask(
        &mut client,
        r#"{"type":"look","data":"1.2.3.4:5:6.000"}"#,
        unknown,
    );
    for client in &mut others {
        client.send(r#"{"type":"ask"}"#);
    }
    for client in &mut others {
        assert_eq!(client.receive(), stats);
    }
    let failed = r#"{"type":"error","data":{"error":"Internal error"}}"#;
    ask(&mut client, r#"{"type":"close"}"#, failed);
    ask(&mut client, r#"{"type":"tell"}"#, told);
}

#[test]
fn server_side_subscriptions_that_are_not_made_are_counted() {
    let program = Embedded::of(
        builder()
            .authenticate(|user| {
                let mut identity = Identity::new(user);
                for role in 0..200 {
                    identity = identity.with_role(&role.to_string());
                }
                Some(identity)
            })
            .on_connect(|session| {
                session.subscribe("user:bob");
                session.subscribe("");
                (0..1_030).for_each(|number| session.subscribe(&format!("c{number}")));
                Ok(())
            }),
    );
    let mut client = program.client("/ws?token=ann");
    assert!(client.receive().contains("auth_success"));
    let text = program.server.prometheus_metrics();
    // Of `all`, the dialect, the user and 200 roles, 128 are left; of 1,030 channels, 1,024.
    for (reason, count) in [("name", 2), ("full", 6), ("truncated", 75)] {
        let name = "fanwire_server_subscriptions_rejected_total";
        let of_reason = format!(r#"reason="{reason}""#);
        let lines = text
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(&of_reason));
        let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        assert_eq!(values.sum::<u64>(), count, "{reason}: {text}");
    }
}

/// A panic whose payload panics when it is dropped.
struct Doubly;

impl Drop for Doubly {
    fn drop(&mut self) {
        panic!("a payload of a test panics");
    }
}

#[test]
fn a_payload_that_panics_when_dropped_ends_no_shard() {
    let program = Embedded::of(
        builder()
            .authenticate(|token| match token {
                "ann" => Some(Identity::new(token)),
                _ => std::panic::panic_any(Doubly),
            })
            .on_message("panic", |_, _| std::panic::panic_any(Doubly)),
    );
    let mut client = program.client("/ws?token=ann");
    assert!(client.receive().contains("auth_success"));
    let failed = r#"{"type":"error","data":{"error":"Internal error"}}"#;
    ask(&mut client, r#"{"type":"panic"}"#, failed);
    let mut stranger = program.client("/ws?token=bob");
    assert!(stranger.receive().contains("auth_failed"));
    ask(&mut client, r#"{"type":"ping"}"#, r#"{"type":"pong"}"#);
}

#[test]
fn middleware_sees_every_message_and_may_refuse_it() {
    let (sender, seen) = mpsc::channel();
    let program = Embedded::of(
        builder()
            .middleware(move |_, message| {
                let _ = sender.send((message.kind.to_owned(), message.data.to_owned()));
                Ok(())
            })
            .middleware(|session, message| match message.kind {
                "publish" if session.user_id() == Some("ann") => {
                    Err(Denied::because("ann is asked to be quiet"))
                }
                _ => Ok(()),
            }),
    );
    let mut client = program.client(&format!("/ws?token={}", token("ann", &["publish"])));
    assert!(client.receive().contains("auth_success"));
    ask(
        &mut client,
        r#"{"type":"subscribe","data":{"channel":"news"}}"#,
        r#"{"type":"subscribed","data":{"channel":"news"}}"#,
    );
    client.publish("news", "1");
    let rejection = r#"{"type":"error","data":{"error":"ann is asked to be quiet"}}"#;
    assert_eq!(client.receive(), rejection);
    // Nothing was published.
    ask(&mut client, r#"{"type":"ping"}"#, r#"{"type":"pong"}"#);
    let kinds: Vec<_> = seen.try_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["subscribe", "publish", "ping"]);
}

#[test]
fn the_program_is_told_of_sessions_that_begin_and_end() {
    let (began, begun) = mpsc::channel();
    let (ended, over) = mpsc::channel();
    let program = Embedded::of(
        builder()
            .on_connect(move |session| {
                let _ = began.send((session.id(), session.user_id().map(str::to_owned)));
                session.subscribe("news");
                session.send("hello", &json!({"dialect": session.dialect().name()}))
            })
            .on_disconnect(move |session| {
                let _ = ended.send((session.id(), session.user_id().map(str::to_owned)));
            }),
    );
    let mut client = program.user("ann");
    assert_eq!(
        client.receive(),
        r#"{"type":"hello","data":{"dialect":"gateway"}}"#
    );
    let (id, user) = begun.recv().unwrap();
    assert_eq!(user.as_deref(), Some("ann"));
    program.server.broadcast("news", "m", &1).unwrap();
    assert_eq!(
        client.receive(),
        r#"{"type":"m","channel":"news","data":1}"#
    );
    drop(client);
    assert_eq!(over.recv().unwrap(), (id, Some("ann".into())));
    program.await_sessions(0);
}

#[test]
fn a_session_that_the_program_does_not_want_is_closed_with_1008() {
    let program = Embedded::of(builder().on_connect(|session| match session.user_id() {
        Some("eve") => Err(Denied::because("not you")),
        _ => Ok(()),
    }));
    let target = format!("/ws?token={}", token("eve", &[]));
    let mut raw = Raw::open(program.address, &target, "");
    assert!(raw.read_text().contains("auth_success"));
    let rejection = r#"{"type":"error","data":{"error":"not you"}}"#;
    assert_eq!(raw.read_text(), rejection);
    assert_eq!(raw.read(), Frame::Close(1008, "unauthorized".into()));
    program.user("ann");
}

#[test]
fn stats_count_what_the_documents_ask_for() {
    let program = Embedded::of(builder().set("history", Vec::<String>::new()));
    assert_eq!(block_on(program.server.stats()).active_connections, 0);
    let mut ann = program.user("ann");
    let token = token("bob", &[]);
    let mut bob = program.client(&format!("/monitoring?token={token}"));
    assert!(bob.receive().contains("WELCOME") && bob.receive().contains("AUTHENTICATED"));
    let mut stranger = program.client("/monitoring");
    assert!(stranger.receive().contains("WELCOME"));
    for property in ["1", "2"] {
        bob.send(&json!({"type": "SUBSCRIBE", "property_id": property}).to_string());
        assert!(bob.receive().contains("SUBSCRIBED"));
    }
    ask(
        &mut ann,
        r#"{"type":"subscribe","data":{"channel":"prop:1"}}"#,
        r#"{"type":"subscribed","data":{"channel":"prop:1"}}"#,
    );
    ask(
        &mut ann,
        r#"{"type":"subscribe","data":{"channel":"news"}}"#,
        r#"{"type":"subscribed","data":{"channel":"news"}}"#,
    );
    let update = json!({"type": "VIOLATION_UPDATE", "count": 5});
    program.server.broadcast_property("1", &update).unwrap();
    assert_eq!(bob.receive(), r#"{"count":5,"type":"VIOLATION_UPDATE"}"#);
    // The same publication in another dialect's words.
    assert_eq!(
        ann.receive(),
        r#"{"type":"VIOLATION_UPDATE","channel":"prop:1","data":{"count":5,"type":"VIOLATION_UPDATE"}}"#
    );
    let stats = block_on(program.server.stats());
    assert!(stats.running);
    assert_eq!(stats.active_connections, 3);
    assert_eq!(stats.authenticated_connections, 2);
    assert_eq!(stats.total_connections, 3);
    assert_eq!(stats.total_subscriptions, 4);
    assert_eq!(stats.unique_channels, 3);
    assert_eq!(stats.unique_properties, 2);
    assert_eq!(stats.messages_received, 4);
    let monitoring = fanwire::base::DialectId::Monitoring;
    assert_eq!(program.server.session_count(monitoring), 2);
    let metrics = program.server.prometheus_metrics();
    assert!(
        metrics.contains("fanwire_sessions{dialect=\"monitoring\"} 2"),
        "{metrics}"
    );
}

#[test]
fn a_session_is_found_and_ended_by_both_of_its_ids() {
    let program = Embedded::of(builder());
    let mut sessions = [(); 2].map(|()| {
        let token = token("ann", &[]);
        let mut raw = Raw::open(program.address, &format!("/monitoring?token={token}"), "");
        let welcome: Value = serde_json::from_str(&raw.read_text()).unwrap();
        raw.send(r#"{"type":"SUBSCRIBE","property_id":"1"}"#);
        assert!(raw.read_text().contains("AUTHENTICATED"));
        assert!(raw.read_text().contains("SUBSCRIBED"));
        let id = welcome["connection_id"].as_str().unwrap().to_owned();
        (raw, id)
    });
    for (raw, connection_id) in &mut sessions {
        let info = block_on(program.server.connection_info(connection_id)).unwrap();
        assert_eq!(&info.connection_id, connection_id);
        assert_eq!(info.dialect, "monitoring");
        assert_eq!(info.user_id.as_deref(), Some("ann"));
        assert_eq!(info.channels, ["prop:1"]);
        let by_id = block_on(program.server.connection_info(&info.id)).unwrap();
        assert_eq!(by_id.connection_id, info.connection_id);
        assert_eq!(by_id.connected_at, info.connected_at);
        let id = info.id.parse().unwrap();
        let send = block_on(program.server.send(id, "M", &json!({"n": 1})));
        assert!(matches!(send, Ok(true)), "{send:?}");
        assert_eq!(raw.read_text(), r#"{"type":"M","n":1}"#);
    }
    let [(first, connection_id), (second, other)] = &mut sessions;
    let id = block_on(program.server.connection_info(other)).unwrap().id;
    assert!(block_on(program.server.disconnect(connection_id)));
    assert!(block_on(program.server.disconnect(&id)));
    for raw in [first, second] {
        assert_eq!(raw.read(), Frame::Close(1000, "operator".into()));
        assert_eq!(raw.read(), Frame::End);
    }
    program.await_sessions(0);
    for unknown in [&id, connection_id, "", "nobody", "ffff000000000000"] {
        assert_eq!(block_on(program.server.connection_info(unknown)), None);
        assert!(!block_on(program.server.disconnect(unknown)));
    }
    let send = block_on(program.server.send(id.parse().unwrap(), "M", &1));
    assert!(matches!(send, Ok(false)), "{send:?}");
}

#[test]
fn a_broadcast_may_mean_some_of_a_channels_subscribers() {
    let program = Embedded::of(builder());
    let mut ann = program.user("ann");
    let mut bob = program.user("bob");
    for client in [&mut ann, &mut bob] {
        ask(
            client,
            r#"{"type":"subscribe","data":{"channel":"news"}}"#,
            r#"{"type":"subscribed","data":{"channel":"news"}}"#,
        );
    }
    let server = &program.server;
    let target = |target, n: u32| server.broadcast_to("news", target, "m", &n).unwrap();
    target(BroadcastTarget::User("bob"), 1);
    target(BroadcastTarget::Role("admin"), 2);
    target(BroadcastTarget::Permission("read"), 3);
    target(BroadcastTarget::Tenant("t1"), 4);
    target(BroadcastTarget::All, 5);
    let heard = |n| format!(r#"{{"type":"m","channel":"news","data":{n}}}"#);
    assert_eq!(ann.receive(), heard(5));
    assert_eq!(bob.receive(), heard(1));
    assert_eq!(bob.receive(), heard(5));
}

#[test]
fn a_publication_without_sound_names_is_handed_back() {
    let program = Embedded::of(builder());
    let server = &program.server;
    let long = "x".repeat(300);
    for (channel, kind) in [
        ("", "m"),
        ("c", ""),
        ("c\n", "m"),
        (&long, "m"),
        ("c", &long),
    ] {
        let result = server.broadcast(channel, kind, &1);
        assert!(
            matches!(result, Err(PublishError::Name)),
            "{channel:?} {kind:?}"
        );
    }
}

#[test]
fn a_stopped_server_has_closed_everyone_and_says_so() {
    let program = Embedded::of(builder());
    let mut client = program.user("ann");
    let server = program.server.clone();
    let stopping = std::thread::spawn(move || block_on(server.stop()));
    assert!(client.next().unwrap().is_close());
    assert!(client.next().is_none());
    assert_eq!(stopping.join().unwrap(), StopOutcome::Drained);
    // A second stop has nothing to do; a publication has nobody to go to.
    assert_eq!(block_on(program.server.stop()), StopOutcome::Drained);
    let late = program.server.broadcast("c", "m", &1);
    assert!(matches!(late, Err(PublishError::Stopped)), "{late:?}");
    let stats = block_on(program.server.stats());
    assert!(!stats.running && stats.active_connections == 0);
    assert!(std::net::TcpStream::connect(program.address).is_err());
}

#[test]
fn without_a_secret_or_with_nonsense_it_does_not_start() {
    let error = Server::builder()
        .listen(([127, 0, 0, 1], 0).into())
        .start()
        .unwrap_err();
    assert!(matches!(error, StartError::Settings(_)), "{error}");
    let error = builder().config_file("/nonexistent.toml").start();
    assert!(matches!(error, Err(StartError::Settings(_))));
}

#[test]
fn a_handler_for_a_message_of_the_dialect_itself_does_not_start() {
    for (dialect, kind) in [
        (DialectId::Gateway, "subscribe"),
        (DialectId::Monitoring, "PING"),
        (DialectId::Analytics, "auth"),
        (DialectId::Assist, "get_active_jobs"),
        (DialectId::Notifications, "status_request"),
    ] {
        let builder = builder().profile(dialect).on_message(kind, |_, _| Ok(()));
        match builder.start() {
            Err(StartError::ReservedType { kind: found, .. }) => assert_eq!(found, kind),
            other => panic!("{kind}: {other:?}"),
        }
    }
}

#[test]
fn no_listeners_or_too_many_are_an_error() {
    let loopback = |_| fanwire::Listener::by_path(([127, 0, 0, 1], 0).into());
    for count in [0, 17, 256] {
        let builder = Server::builder().dev().listeners((0..count).map(loopback));
        let error = builder
            .configure()
            .expect_err("too few or too many")
            .to_string();
        assert!(error.contains("1 to 16 listeners"), "{error}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let builder = builder().set("static_tokens", vec!["ann=t0ken-of-ann"]);
    let mut text = format!("{builder:?}");
    text += &format!("{:?}", builder.configure().unwrap());
    assert!(text.contains("static_tokens"), "{text}");
    assert!(!text.contains("t0ken") && !text.contains(SECRET), "{text}");
}

#[test]
fn a_rate_beyond_the_clock_is_an_error() {
    let rate = |per_minute: u64| builder().set("gateway.rate_limit.per_minute", per_minute);
    let error = rate(60_000_001).configure().unwrap_err().to_string();
    assert!(error.contains("at most 60000000"), "{error}");
    rate(60_000_000).configure().unwrap();
}

#[test]
fn every_setting_is_set_from_code_with_its_own_value() {
    let configured = builder()
        .set("gateway.rate_limit.burst", 7)
        .set("gateway.ping_interval", std::time::Duration::from_secs(9))
        .set("allowed_origins", vec!["https://a.example"])
        .configure()
        .unwrap();
    let report = configured.report().to_string();
    for line in [
        "rate_limit = { per_minute = 120, burst = 7 }  # the program",
        "ping_interval = \"9s\"  # the program",
        "allowed_origins = [\"https://a.example\"]  # the program",
    ] {
        assert!(report.contains(line), "no {line} in\n{report}");
    }
    for setting in fanwire::settings() {
        // A value that no setting accepts is found for each of them, so each of them is read.
        let is_text = setting.rule.starts_with("a text") || setting.rule.contains("path of a file");
        if is_text || setting.key == "redis_url" || setting.key == "path" {
            continue;
        }
        let error = builder()
            .set(&setting.key, vec![SettingValue::from(vec![true])])
            .configure();
        assert!(
            matches!(error, Err(StartError::Settings(_))),
            "{} accepts a list of lists",
            setting.key
        );
    }
}
