//! Binary messages: through the gateway dialect, and text in binary frames.

use crate::harness::{Frame, Raw, SECRET, Server, frame_bytes, http, token};
use crate::library::{Embedded, builder};
use crate::limits::per_hour;
use crate::process::Directory;
use fanwire::auth::{Grant, issue};
use fanwire::base::now::Clock;
use fanwire::{Builder, Denied, ShardCount, block_on};
use serde_json::{Value, json};

const SKIPPED: &str = "fanwire_binary_skipped_total{";
/// The length of a position.
const POSITION_BYTES: usize = 22;

/// A frame of a client that publishes.
fn publish(channel: &str, payload: &[u8]) -> Vec<u8> {
    frame_bytes(0x82, &message(1, channel, &[], payload))
}

/// A binary message of this kind.
fn message(kind: u8, channel: &str, positions: &[&str], payload: &[u8]) -> Vec<u8> {
    let channel_bytes = u16::try_from(channel.len()).unwrap().to_be_bytes();
    let start = [&[1, kind], &channel_bytes[..], channel.as_bytes()].concat();
    [&start, positions.concat().as_bytes(), payload].concat()
}

fn subscribe(raw: &mut Raw, fields: &str) -> Value {
    raw.send(&format!(
        r#"{{"type":"subscribe","data":{{"channel":"news"{fields}}}}}"#
    ));
    let answer: Value = serde_json::from_str(&raw.read_text()).unwrap();
    assert_eq!(answer["type"], "subscribed", "{answer}");
    answer["data"].clone()
}

fn subscriber(server: &Server, fields: &str) -> Raw {
    let mut raw = Raw::open(server.address, "/ws", "");
    subscribe(&mut raw, fields);
    raw
}

fn text(number: usize) -> Frame {
    Frame::Text(format!(
        r#"{{"type":"m","channel":"news","data":{number}}}"#
    ))
}

fn error(reason: &str) -> Frame {
    let data = format!(r#"{{"type":"error","data":{{"error":"{reason}"}}}}"#);
    Frame::Text(data)
}

/// The kind, the positions and the payload of a binary message on `news`.
fn parsed(frame: Frame) -> (u8, Vec<String>, Vec<u8>) {
    let Frame::Binary(bytes) = frame else {
        panic!("a binary message was expected, not {frame:?}");
    };
    assert_eq!(bytes[0], 1, "the version");
    assert_eq!(&bytes[2..8], b"\0\x04news");
    let count = usize::from(bytes[1].saturating_sub(2));
    let (positions, payload) = bytes[8..].split_at(count * POSITION_BYTES);
    let positions = positions.chunks(POSITION_BYTES);
    let positions = positions.map(|it| String::from_utf8(it.to_vec()).unwrap());
    (bytes[1], positions.collect(), payload.to_vec())
}

#[test]
fn those_who_asked_receive_binary_messages_in_the_order_of_all_and_the_others_text_only() {
    for shards in [1, 2] {
        let server = Server::with(|builder| builder.dev().shards(ShardCount::Fixed(shards)));
        let mut takers: Vec<_> = (0..4)
            .map(|_| subscriber(&server, r#","binary":true"#))
            .collect();
        let mut others: Vec<_> = (0..3).map(|_| subscriber(&server, "")).collect();
        let mut publisher = Raw::open(server.address, "/ws", "");
        let payload = |number: usize| [&[0xff, 0, b'{'], &*vec![7; number * 40]].concat();
        for number in 0..200 {
            let data = format!(r#""channel":"news","type":"m","data":{number}"#);
            publisher.send(&format!(r#"{{"type":"publish","data":{{{data}}}}}"#));
            publisher.write(&publish("news", &payload(number)));
        }
        for number in 0..200 {
            for taker in &mut takers {
                assert_eq!(taker.read(), text(number));
                let expected = message(2, "news", &[], &payload(number));
                assert_eq!(taker.read(), Frame::Binary(expected));
            }
            for other in &mut others {
                assert_eq!(other.read(), text(number));
            }
        }
        server.await_metric(SKIPPED, 600);
        // The program publishes too, and one message larger than a record of the ring.
        let large = vec![0xfe; 3 << 20];
        server.program().broadcast_binary("news", &large).unwrap();
        for taker in &mut takers {
            let expected = message(2, "news", &[], &large);
            assert!(taker.read() == Frame::Binary(expected));
        }
        server.await_metric(SKIPPED, 603);
    }
}

#[test]
fn clients_of_other_dialects_receive_no_binary_messages() {
    let server = Server::dev();
    let mut monitoring = Raw::open(server.address, "/monitoring", "");
    monitoring.read_text();
    monitoring.send(r#"{"type":"SUBSCRIBE","property_id":"7"}"#);
    assert!(monitoring.read_text().contains("SUBSCRIBED"));
    let mut publisher = Raw::open(server.address, "/ws", "");
    publisher.write(&publish("prop:7", b"\0"));
    server.await_metric(SKIPPED, 1);
    publisher
        .send(r#"{"type":"publish","data":{"channel":"prop:7","data":{"type":"UPDATE","n":1}}}"#);
    assert_eq!(monitoring.read_text(), r#"{"type":"UPDATE","n":1}"#);
}

#[test]
fn a_binary_publication_has_the_rules_and_limits_of_any_other() {
    let server = Server::with(|builder| {
        let builder = builder.set("gateway.message_bytes_max", "20 KiB");
        builder.set("gateway.rate_limit", per_hour(40))
    });
    let mut raw = Raw::open(server.address, "/ws", "");
    raw.write(&publish("news", b"\0"));
    assert_eq!(raw.read(), error("Authentication required"));
    let auth = |raw: &mut Raw, permissions: &[&str]| {
        let token = token("ann", permissions);
        raw.send(&format!(
            r#"{{"type":"auth","data":{{"token":"{token}"}}}}"#
        ));
        assert!(raw.read_text().contains("auth_success"));
    };
    auth(&mut raw, &[]);
    raw.write(&publish("news", b"\0"));
    assert_eq!(raw.read(), error("Permission denied"));
    auth(&mut raw, &["publish"]);
    for (payload, reason) in [
        (message(1, "all", &[], b""), "Channel is reserved"),
        (message(1, "prop:7", &[], b""), "Permission denied"),
        (message(1, "", &[], b""), "Invalid channel"),
        (message(1, &"c".repeat(257), &[], b""), "Invalid channel"),
        (message(1, "a\0b", &[], b""), "Invalid channel"),
        (b"\x01\x01\0\x01\xff".to_vec(), "Invalid channel"),
        (b"\x01\x01\xff\xffnews".to_vec(), "Invalid channel"),
        (b"\x01\x02\0\x04news".to_vec(), "Invalid kind"),
        (b"\x02\x01\0\x04news".to_vec(), "Invalid version"),
        (b"\x01\x01\0".to_vec(), "Invalid header"),
        (Vec::new(), "Invalid header"),
        (b"{\xff".to_vec(), "Invalid JSON"),
    ] {
        raw.write(&frame_bytes(0x82, &payload));
        assert_eq!(raw.read(), error(reason), "{payload:x?}");
    }
    server.await_metric("fanwire_message_errors_total{error=\"field\"", 9);
    subscribe(&mut raw, r#","binary":true"#);
    raw.write(&publish("news", b""));
    assert_eq!(parsed(raw.read()), (2, Vec::new(), Vec::new()));
    let mut count = 0;
    let last = loop {
        raw.write(&publish("news", b"\0"));
        match raw.read() {
            Frame::Binary(_) => count += 1,
            frame => break frame,
        }
    };
    // 40 messages an hour of the user; two came before the user was known.
    assert_eq!(count, 40 - 16);
    assert_eq!(last, error("Rate limit exceeded"));
    raw.write(&publish("news", &[0; 20 << 10]));
    assert_eq!(raw.read(), Frame::Close(1009, "protocol".into()));
}

#[test]
fn tenants_have_binary_messages_of_their_own() {
    let of = |tenant: &str, user: &str| {
        let grant = Grant::new(user)
            .with_tenant(tenant)
            .with_permission("publish");
        let token = issue(&grant, SECRET.as_bytes(), 3_600, Clock::start().now()).unwrap();
        format!("/ws?token={token}")
    };
    let server = Server::with(|builder| builder.set("gateway.rate_limit", "off"));
    let open = |tenant: &str| {
        let mut raw = Raw::open(server.address, &of(tenant, "ann"), "");
        assert!(raw.read_text().contains("auth_success"));
        subscribe(&mut raw, r#","binary":true"#);
        raw
    };
    let [mut one, mut two] = ["one", "two"].map(open);
    for (raw, payload) in [(&mut one, b"1"), (&mut two, b"2")] {
        raw.write(&publish("news", payload));
        assert_eq!(parsed(raw.read()), (2, Vec::new(), payload.to_vec()));
    }
}

#[test]
fn middleware_sees_binary_messages_as_json() {
    let server = Server::with(|builder| {
        builder.dev().middleware(|_, message| {
            let json: Value = serde_json::from_str(message.data).unwrap();
            if message.kind == "publish" && json["data"]["data"] == "AP8=" {
                assert_eq!(json["data"]["encoding"], "base64");
                let channel = json["data"]["channel"].as_str().unwrap();
                return Err(Denied::because(format!("not on {channel}")));
            }
            Ok(())
        })
    });
    let mut raw = subscriber(&server, r#","binary":true"#);
    raw.write(&publish("news", b"\0\xff"));
    assert_eq!(raw.read(), error("not on news"));
    raw.write(&publish("news", b"\0"));
    assert_eq!(parsed(raw.read()), (2, Vec::new(), b"\0".to_vec()));
}

fn with_history(builder: Builder) -> Builder {
    builder.dev().set("history", vec!["news messages=100"])
}

#[test]
fn a_history_has_binary_messages_for_those_who_come_back() {
    for shards in [1, 2] {
        let server = Server::with(|builder| {
            let builder = with_history(builder).shards(ShardCount::Fixed(shards));
            let builder = builder.set("client_http", vec!["api"]);
            builder.set("api_keys", vec!["reader=0123456789abcdef read"])
        });
        let start = subscribe(&mut Raw::open(server.address, "/ws", ""), "")["position"].clone();
        let mut taker = subscriber(&server, r#","binary":true"#);
        let mut with_previous = subscriber(&server, r#","binary":true,"previous":true"#);
        let mut positions = Vec::new();
        for number in 0..4_u8 {
            match number % 2 {
                0 => taker.write(&publish("news", &[0, number])),
                _ => taker.send(&format!(
                    r#"{{"type":"publish","data":{{"channel":"news","data":{number}}}}}"#
                )),
            }
            if number % 2 == 1 {
                let json: Value = serde_json::from_str(&taker.read_text()).unwrap();
                positions.push(json["position"].as_str().unwrap().to_owned());
                with_previous.read_text();
                continue;
            }
            let (kind, own, payload) = parsed(taker.read());
            assert_eq!((kind, payload), (3, vec![0, number]));
            positions.extend(own);
            let (kind, both, payload) = parsed(with_previous.read());
            assert_eq!((kind, payload), (4, vec![0, number]));
            assert_eq!(both[0], positions[usize::from(number)]);
            if number > 0 {
                assert_eq!(both[1], positions[usize::from(number) - 1]);
            }
        }
        // Some recover with binary messages and some without, one after the other.
        let recover = format!(r#","recover":{start}"#);
        for _ in 0..3 {
            let mut taker = subscriber(&server, &format!(r#"{recover},"binary":true"#));
            let mut other = subscriber(&server, &recover);
            for (number, own) in positions.iter().enumerate() {
                if number % 2 == 1 {
                    for raw in [&mut taker, &mut other] {
                        let json: Value = serde_json::from_str(&raw.read_text()).unwrap();
                        assert_eq!(json["data"], number);
                    }
                } else {
                    let own = vec![own.clone()];
                    let payload = vec![0, u8::try_from(number).unwrap()];
                    assert_eq!(parsed(taker.read()), (3, own, payload));
                }
            }
        }
        // Requests for the history are answered in JSON.
        taker.send(r#"{"type":"history","data":{"channel":"news"}}"#);
        let history: Value = serde_json::from_str(&taker.read_text()).unwrap();
        let messages = &history["data"]["messages"];
        assert_eq!(messages[0]["type"], "binary");
        assert_eq!(messages[0]["encoding"], "base64");
        assert_eq!(messages[0]["data"], "AAA=");
        assert_eq!(
            (&messages[1]["data"], &messages[1]["encoding"]),
            (&json!(1), &Value::Null)
        );
        assert_eq!(messages[2]["data"], "AAI=");
        let request = "GET /api/channels/news/history HTTP/1.1\r\nHost: t\r\n\
                       X-API-Key: 0123456789abcdef\r\nConnection: close\r\n\r\n";
        let (status, body) = http(server.address, request);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 200, "{body}");
        let publications = &body["publications"];
        assert_eq!(publications[2]["data"], "AAI=");
        assert_eq!(publications[2]["encoding"], "base64");
        assert_eq!(publications[3]["encoding"], Value::Null);
        let entries = server.program().history("news", None, 10).unwrap().entries;
        let entries = entries.iter().map(|entry| (entry.is_binary, &*entry.data));
        let expected = [
            (true, "\"AAA=\""),
            (false, "1"),
            (true, "\"AAI=\""),
            (false, "3"),
        ];
        assert_eq!(entries.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn binary_messages_survive_a_restart_and_wait_for_who_is_offline() {
    let directory = Directory::new("binary");
    let store = directory.path.canonicalize().unwrap().join("store");
    let start = || {
        let builder = builder().set("history", vec!["news messages=100"]);
        let builder = builder.set("gateway.offline_queue", true);
        Embedded::of(builder.set("store", store.to_str().unwrap()))
    };
    let come = |program: &Embedded| {
        let path = format!("/ws?token={}", token("ann", &["publish"]));
        let mut raw = Raw::open(program.server.addresses()[0], &path, "");
        assert!(raw.read_text().contains("auth_success"));
        subscribe(&mut raw, r#","binary":true"#);
        raw
    };
    let program = start();
    let mut raw = come(&program);
    raw.write(&publish("news", b"\0 live"));
    assert_eq!(parsed(raw.read()).2, b"\0 live");
    drop(raw);
    let mut sessions = 1;
    while sessions > 0 {
        sessions = block_on(program.server.stats()).active_connections;
    }
    program
        .server
        .broadcast_binary("news", b"\0 missed")
        .unwrap();
    block_on(program.server.stored()).unwrap();
    drop(program);

    let program = start();
    program
        .server
        .broadcast_binary("news", b"\0 later")
        .unwrap();
    let mut raw = come(&program);
    for expected in [&b"\0 missed"[..], b"\0 later"] {
        let (kind, _, payload) = parsed(raw.read());
        assert_eq!((kind, &*payload), (3, expected));
    }
}

#[test]
fn text_in_a_binary_frame_is_json_where_the_legacy_server_took_it() {
    let server = Server::dev();
    for (path, greeting, sent, expected) in [
        ("/ws", false, r#"{"type":"ping"}"#, r#"{"type":"pong"}"#),
        (
            "/ws",
            false,
            " [] ",
            r#"{"type":"error","data":{"error":"Invalid JSON"}}"#,
        ),
        (
            "/monitoring",
            true,
            r#"{"type":"PING"}"#,
            r#"{"type":"PONG"}"#,
        ),
        (
            "/analytics",
            false,
            r#"{"type":"ping"}"#,
            r#"{"type":"pong""#,
        ),
    ] {
        let mut raw = Raw::open(server.address, path, "");
        if greeting {
            raw.read_text();
        }
        raw.write(&frame_bytes(0x82, sent.as_bytes()));
        let answer = raw.read_text();
        assert!(answer.starts_with(expected), "{path}: {answer}");
    }
    for path in ["/monitoring", "/analytics"] {
        let mut raw = Raw::open(server.address, path, "");
        raw.write(&frame_bytes(0x82, b"\xff"));
        raw.write(&frame_bytes(0x82, b""));
        let mut answers = 0;
        while answers < 2 {
            answers += usize::from(raw.read_text().contains("Invalid JSON"));
        }
    }
    let binary = "fanwire_protocol_errors_total{error=\"binary\"";
    for (count, path) in ["/ws/connect", "/notifications"].into_iter().enumerate() {
        let mut raw = Raw::open(server.address, path, "");
        raw.write(&frame_bytes(0x82, br#"{"type":"ping"}"#));
        let last = loop {
            match raw.read() {
                Frame::Text(_) => {}
                frame => break frame,
            }
        };
        assert_eq!(last, Frame::Close(1003, "protocol".into()), "{path}");
        assert_eq!(server.metric(binary), count as u64 + 1);
    }
}

#[test]
fn binary_publications_wait_for_room_in_the_ring_like_all_others() {
    let server = Server::with(|builder| {
        let builder = builder.dev().shards(ShardCount::Fixed(2));
        builder.set("ring_bytes", "64 KiB")
    });
    let mut taker = subscriber(&server, r#","binary":true"#);
    let mut publisher = Raw::open(server.address, "/ws", "");
    let payload = |number: u32| number.to_be_bytes().repeat(2_000);
    let writer = std::thread::spawn(move || {
        for number in 0..1_000 {
            publisher.write(&publish("news", &payload(number)));
        }
        publisher
    });
    for number in 0..1_000 {
        assert_eq!(parsed(taker.read()).2, payload(number), "{number}");
    }
    drop(writer.join().unwrap());
}
