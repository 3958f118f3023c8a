//! One encode, every shard, in order.

use crate::harness::{Client, Frame, Raw, Server};
use async_tungstenite::tungstenite::Message;

#[test]
fn a_publication_is_encoded_once_and_reaches_subscribers_of_all_shards() {
    let server = Server::dev();
    let mut subscribers: Vec<_> = (0..200)
        .map(|_| Client::subscribed(server.address, "news"))
        .collect();
    let mut publisher = Client::open(server.address, "/ws");
    for number in 0..100 {
        publisher.publish("news", &number.to_string());
    }
    for subscriber in &mut subscribers {
        for number in 0..100 {
            let expected = format!(r#"{{"type":"m","channel":"news","data":{number}}}"#);
            assert_eq!(subscriber.receive(), expected);
        }
    }
    assert_eq!(
        server.metric("fanwire_encodes_total{variant=\"gateway\""),
        100
    );
    assert_eq!(
        server.metric("fanwire_encodes_total{variant=\"monitoring\""),
        0
    );
    server.await_metric("fanwire_deliveries_total", 20_000);
    for shard in ["0", "1"] {
        let records = server.metric(&format!("fanwire_ring_records_total{{shard=\"{shard}\""));
        assert_eq!(records, 100, "each shard reads each record once");
    }
    assert_eq!(server.metric("fanwire_dropped_total"), 0);
}

#[test]
fn both_dialects_hear_a_channel_each_in_its_own_words() {
    let server = Server::dev();
    let mut gateway = Client::subscribed(server.address, "prop:7");
    let mut monitoring = Client::open(server.address, "/monitoring");
    monitoring.receive();
    monitoring.send(r#"{"type":"SUBSCRIBE","property_id":"7"}"#);
    assert_eq!(
        monitoring.receive(),
        r#"{"type":"SUBSCRIBED","property_id":"7"}"#
    );
    gateway.send(r#"{"type":"publish","data":{"channel":"prop:7","type":"UP","data":{"n":1}}}"#);
    let received = gateway.receive();
    let (start, rest) = received.split_once(r#""position":""#).unwrap();
    assert_eq!(start, r#"{"type":"UP","channel":"prop:7","#);
    assert!(rest.ends_with(r#"","data":{"n":1}}"#), "{rest}");
    assert_eq!(monitoring.receive(), r#"{"type":"UP","n":1}"#);
    assert_eq!(server.metric("fanwire_encodes_total"), 2);
}

#[test]
fn a_message_larger_than_a_record_of_the_ring_arrives_whole() {
    let server = Server::dev();
    let mut raw = Raw::open(server.address, "/monitoring", "");
    raw.read_text();
    raw.send(r#"{"type":"SUBSCRIBE","property_id":"7"}"#);
    raw.read_text();
    let body = format!(r#"{{"type":"BIG","text":"{}"}}"#, "é".repeat(4_000_000));
    raw.send(&format!(
        r#"{{"type":"PUBLISH","property_id":"7","message":{body}}}"#
    ));
    assert_eq!(raw.read_text(), r#"{"type":"PUBLISHED","property_id":"7"}"#);
    assert_eq!(raw.read_text(), body);
}

#[test]
fn one_connection_too_many_is_told_to_try_later() {
    let server = Server::with(|builder| builder.dev().set("connections_max", 2));
    let first = Client::subscribed(server.address, "news");
    let second = Client::subscribed(server.address, "news");
    let mut third = Raw::open(server.address, "/ws", "");
    assert_eq!(third.read(), Frame::Close(1013, "capacity".into()));
    assert_eq!(server.metric("fanwire_closes_total{reason=\"capacity\""), 1);
    drop((first, second));
    server.await_metric("fanwire_sessions", 0);
    Client::subscribed(server.address, "news");
}

#[test]
fn draining_says_goodbye_after_what_was_published() {
    let server = Server::dev();
    let mut subscriber = Client::subscribed(server.address, "news");
    let mut publisher = Client::subscribed(server.address, "news");
    publisher.publish("news", "1");
    publisher.receive();
    server.drain();
    let expected = r#"{"type":"m","channel":"news","data":1}"#;
    assert_eq!(subscriber.receive(), expected);
    for client in [&mut subscriber, &mut publisher] {
        match client.next() {
            Some(Message::Close(Some(close))) => {
                assert_eq!((u16::from(close.code), &*close.reason), (1001, "shutdown"));
            }
            other => panic!("a close was expected, not {other:?}"),
        }
        assert!(client.next().is_none());
    }
}
