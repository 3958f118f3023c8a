//! What a program that embeds the server calls: nothing waits but what is awaited.

use crate::harness::{Client, Server, token};
use fanwire::{BroadcastTarget, Publication, PublishError, SessionSearch, block_on};
use futures_lite::future::poll_once;
use serde_json::json;
use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, mpsc};

/// A server whose handler `hold` keeps its shard until the returned sender is used or dropped.
fn holding() -> (Server, mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (release, gate) = mpsc::channel::<()>();
    let (held, is_held) = mpsc::channel();
    let gate = Mutex::new(gate);
    let server = Server::with(|builder| {
        builder
            .shards(fanwire::ShardCount::Fixed(1))
            .set("ring_bytes", "64 KiB")
            .set("gateway.rate_limit", "off")
            .on_message("hold", move |_, _| {
                held.send(()).unwrap();
                // Also ends when the sender is dropped.
                let _ = gate.lock().unwrap().recv();
                Ok(())
            })
    });
    (server, release, is_held)
}

fn subscriber(server: &Server) -> Client {
    let path = format!("/ws?token={}", token("ann", &[]));
    let mut client = Client::open(server.address, &path);
    assert!(client.receive().contains("auth_success"));
    client.send(r#"{"type":"subscribe","data":{"channel":"ticks"}}"#);
    assert!(client.receive().contains("subscribed"));
    client
}

fn tick(number: u32) -> Publication<'static> {
    Publication::new("ticks", "tick", &number).unwrap()
}

#[test]
fn publishing_waits_for_room_only_where_it_is_awaited_and_loses_nothing() {
    let (server, release, is_held) = holding();
    let mut client = subscriber(&server);
    client.send(r#"{"type":"hold"}"#);
    is_held.recv().unwrap();
    let program = server.program().clone();
    let mut count = 0;
    let error = loop {
        match program.try_publish(&tick(count)) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, PublishError::RingFull), "{error}");
    assert!(count > 100, "{count}");
    let full = program.broadcast("ticks", "tick", &count);
    assert!(matches!(full, Err(PublishError::RingFull)));
    // Given up while it waits: nothing is published.
    let given_up = tick(1_000_000);
    assert!(block_on(poll_once(program.publish(&given_up))).is_none());
    let publishing = std::thread::spawn(move || {
        let batch: Vec<_> = (count..count + 5_000).map(tick).collect();
        block_on(program.publish_batch(&batch)).unwrap();
    });
    release.send(()).unwrap();
    for number in 0..count + 5_000 {
        let expected = format!(r#"{{"type":"tick","channel":"ticks","data":{number}}}"#);
        assert_eq!(client.receive(), expected);
    }
    publishing.join().unwrap();
}

#[test]
fn who_waits_for_room_is_told_when_the_server_stops() {
    let (server, release, is_held) = holding();
    let mut client = subscriber(&server);
    client.send(r#"{"type":"hold"}"#);
    is_held.recv().unwrap();
    let program = server.program();
    while program.try_publish(&tick(0)).is_ok() {}
    let ticks = [tick(1), tick(2)];
    let mut batch = pin!(program.publish_batch(&ticks));
    assert!(block_on(poll_once(&mut batch)).is_none());
    release.send(()).unwrap();
    block_on(program.stop());
    // It found room before, or not.
    if let Err(failed) = block_on(batch) {
        assert!(matches!(failed.error, PublishError::Stopped), "{failed}");
    }
    let error = block_on(program.publish(&tick(3))).unwrap_err();
    assert!(matches!(error, PublishError::Stopped), "{error}");
}

#[test]
fn a_future_about_a_shard_that_is_held_up_blocks_no_executor() {
    let (server, release, is_held) = holding();
    let mut client = subscriber(&server);
    client.send(r#"{"type":"hold"}"#);
    is_held.recv().unwrap();
    let program = server.program().clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    let order = Arc::new(Mutex::new(Vec::new()));
    let [first, second] = [Arc::clone(&order), Arc::clone(&order)];
    local.spawn_local(async move {
        let stats = program.stats().await;
        first
            .lock()
            .unwrap()
            .push(format!("{} session", stats.active_connections));
    });
    local.spawn_local(async move {
        second.lock().unwrap().push("other task".to_owned());
        release.send(()).unwrap();
    });
    runtime.block_on(local);
    assert_eq!(*order.lock().unwrap(), ["other task", "1 session"]);
}

#[test]
fn sessions_are_found_in_pages_each_once() {
    let server = Server::with(|builder| builder.set("gateway.tenant_isolation", true));
    let clients: Vec<_> = (0..9)
        .map(|number| {
            let user = if number % 3 == 0 { "ann" } else { "bob" };
            let tenant = if number < 6 { "acme" } else { "other" };
            let path = format!("/ws?token={}", crate::limits::token_of(user, tenant));
            let mut client = Client::open(server.address, &path);
            assert!(client.receive().contains("auth_success"));
            client.send(r#"{"type":"subscribe","data":{"channel":"news"}}"#);
            assert!(client.receive().contains("subscribed"));
            client
        })
        .collect();
    let count = |program: &fanwire::Server, search: &SessionSearch| {
        let (mut ids, mut next) = (HashSet::new(), None);
        loop {
            let page = block_on(program.connections(search, next.as_deref(), 2));
            assert!(page.is_complete && page.connections.len() <= 2);
            for info in page.connections {
                assert!(ids.insert(info.id), "a session came twice");
            }
            next = page.next;
            if next.is_none() {
                return ids.len();
            }
        }
    };
    let all = SessionSearch::default();
    let of_ann = SessionSearch {
        user: Some("ann".into()),
        ..all.clone()
    };
    let on_news = SessionSearch {
        channel: Some("news".into()),
        ..all.clone()
    };
    let program = server.program();
    let acme = program.in_tenant("acme");
    assert_eq!(count(program, &all), clients.len());
    assert_eq!(count(program, &of_ann), 3);
    assert_eq!(count(&acme, &all), 6);
    assert_eq!(count(&acme, &of_ann), 2);
    assert_eq!(count(&acme, &on_news), 6);
    assert_eq!(count(program, &on_news), 0, "of no tenant");
    // Who names another tenant by the handle of one finds its own.
    let of_other = SessionSearch {
        tenant: Some("other".into()),
        ..all
    };
    assert_eq!(count(program, &of_other), 3);
    assert_eq!(count(&acme, &of_other), 6);
}

#[test]
fn a_batch_says_what_it_could_not_publish() {
    let (server, ..) = holding();
    let mut client = subscriber(&server);
    let data = json!({"n": 1});
    let batch = [
        Publication::new("ticks", "tick", &data).unwrap(),
        Publication::new("ticks", "tick", &data)
            .unwrap()
            .to(BroadcastTarget::User("bob")),
        Publication::new("", "tick", &data).unwrap(),
        Publication::new("ticks", "tick", &data).unwrap(),
    ];
    let failed = block_on(server.program().publish_batch(&batch)).unwrap_err();
    assert_eq!(failed.published, 2);
    assert!(matches!(failed.error, PublishError::Name), "{failed}");
    server.program().try_publish(&tick(7)).unwrap();
    let first = r#"{"type":"tick","channel":"ticks","data":{"n":1}}"#;
    assert_eq!(client.receive(), first);
    let second = r#"{"type":"tick","channel":"ticks","data":7}"#;
    assert_eq!(client.receive(), second);
}
