//! Does one client, message or shard harm the others?

use crate::harness::{Client, http_get, upgrade_request};
use fanwire::{Server, ShardCount, block_on};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

/// Sessions that are opened until each shard has one.
const SESSIONS_MAX: usize = 200;
/// New connections that must all go to a shard that gets on.
const NEW_CONNECTIONS: usize = 20;

/// Whether the server answers a request within a time that a shard in a handler cannot meet.
fn answers(address: SocketAddr, request: &str) -> Option<String> {
    let mut socket = TcpStream::connect(address).unwrap();
    let soon = Duration::from_millis(500);
    socket.set_read_timeout(Some(soon)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 2_048];
    let count = socket.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..count]).into_owned())
}

#[test]
fn a_handler_that_blocks_costs_only_the_sessions_of_its_shard() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let server = Server::builder()
        .listen(([127, 0, 0, 1], 0).into())
        .shards(ShardCount::Fixed(2))
        .dev()
        .set("ring_bytes", "64 KiB")
        .set("gateway.sessions_per_ip_max", 0)
        .on_message("where", |session, _| {
            session.send("here", &session.id().shard)
        })
        .on_message("block", move |_, _| {
            // Ends when the test lets it, or when the test has failed.
            let _ = gate.lock().map(|gate| gate.recv());
            Ok(())
        })
        .start()
        .unwrap();
    let address = server.addresses()[0];
    let mut on_shard: [Option<Client>; 2] = [None, None];
    let mut spare = None;
    for _ in 0..SESSIONS_MAX {
        let mut client = Client::subscribed(address, "news");
        client.send(r#"{"type":"where"}"#);
        let answer = client.receive();
        let shard = usize::from(answer.contains(r#""data":1"#));
        if on_shard[shard].is_none() {
            on_shard[shard] = Some(client);
        } else if shard == 1 {
            spare = Some(client);
        }
        if on_shard.iter().all(Option::is_some) && spare.is_some() {
            break;
        }
    }
    let [Some(mut healthy), Some(mut stalled)] = on_shard else {
        panic!("the kernel chose one shard {SESSIONS_MAX} times");
    };
    let mut blocker = spare.unwrap();
    blocker.send(r#"{"type":"block"}"#);
    // Far more than the ring holds: the healthy shard must not wait for the other.
    let text = "x".repeat(1_500);
    for number in 0..200 {
        healthy.publish("news", &format!(r#"{{"n":{number},"text":"{text}"}}"#));
        let message = healthy.receive();
        assert!(message.contains(&format!(r#""n":{number},"#)), "{message}");
    }
    assert_eq!(server.health()["status"], "degraded");
    assert_eq!(server.health()["components"]["shards"]["stalled"][0], 1);
    // The watchdog needs a moment; from then on all new connections are served.
    let health = "GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    let upgrade = upgrade_request("/ws", "");
    let mut in_a_row = 0;
    for _ in 0..10 * NEW_CONNECTIONS {
        let is_served = answers(address, health).is_some_and(|body| body.contains("degraded"))
            && answers(address, &upgrade).is_some_and(|head| head.contains(" 101 "));
        in_a_row = if is_served { in_a_row + 1 } else { 0 };
        if in_a_row == NEW_CONNECTIONS {
            break;
        }
    }
    assert_eq!(in_a_row, NEW_CONNECTIONS);
    release.send(()).unwrap();
    // Its own sessions are told to connect again.
    let close = loop {
        match stalled.next() {
            Some(async_tungstenite::tungstenite::Message::Close(close)) => break close,
            Some(_) => {}
            None => panic!("a close frame was expected"),
        }
    };
    let close = close.unwrap();
    assert_eq!((u16::from(close.code), &*close.reason), (1013, "stalled"));
    healthy.publish("news", "1");
    assert!(healthy.receive().contains(r#""data":1"#));
    drop((healthy, stalled, blocker));
    block_on(server.stop());
}

#[test]
fn a_turn_that_was_too_long_is_counted_though_the_shard_sleeps_next() {
    let server = Server::builder()
        .listen(([127, 0, 0, 1], 0).into())
        .shards(ShardCount::Fixed(1))
        .dev()
        .on_message("block", move |session, _| {
            thread::sleep(Duration::from_millis(300));
            session.send("done", &())
        })
        .start()
        .unwrap();
    let mut client = Client::open(server.addresses()[0], "/ws");
    client.send(r#"{"type":"block"}"#);
    client.receive();
    // Long enough for the shard to sleep; the request for the figures begins another turn.
    thread::sleep(Duration::from_millis(50));
    let figures = http_get(server.addresses()[0], "/metrics/prometheus").1;
    assert!(
        figures.contains("fanwire_stalls_total{shard=\"0\"} 1\n"),
        "{figures}"
    );
    drop(client);
    block_on(server.stop());
}

#[test]
fn large_messages_do_not_close_subscribers_that_read() {
    let server = Server::builder()
        .listen(([127, 0, 0, 1], 0).into())
        .shards(ShardCount::Fixed(2))
        .dev()
        .set("gateway.message_bytes_max", "10 MiB")
        .set("gateway.sessions_per_ip_max", 0)
        .start()
        .unwrap();
    let address = server.addresses()[0];
    let mut subscribers: Vec<_> = (0..8)
        .map(|_| Client::subscribed(address, "news"))
        .collect();
    let mut publisher = Client::open(address, "/ws");
    // Two that exceed the send queue together, then one that exceeds it alone and a small one.
    for bytes in [600_000, 600_000, 9_000_000, 10] {
        publisher.publish("news", &format!("\"{}\"", "x".repeat(bytes)));
    }
    for subscriber in &mut subscribers {
        for bytes in [600_000, 600_000, 9_000_000, 10] {
            let message = subscriber.receive();
            assert!(message.len() > bytes && message.len() < bytes + 100);
        }
    }
    drop((subscribers, publisher));
    block_on(server.stop());
}
