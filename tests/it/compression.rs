//! permessage-deflate (RFC 7692): what is agreed on, what is shared, and what a stranger can send.

use crate::harness::{Client, Frame, Raw, Server, deflate, frame_bytes, inflate, upgrade_request};
use fanwire::{Builder, Compression, DialectId, Listener};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// A server in development mode that compresses.
fn compressing(change: impl FnOnce(Builder) -> Builder) -> Server {
    Server::with(|builder| change(builder.dev().set("compression", "deflate")))
}

/// The answer to an offer, if there is one.
fn answer(address: SocketAddr, offer: &str) -> Option<String> {
    let mut raw = Raw::connect(address);
    let header = format!("Sec-WebSocket-Extensions: {offer}\r\n");
    raw.write(upgrade_request("/ws", &header).as_bytes());
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let line = lines.find(|(name, _)| *name == "Sec-WebSocket-Extensions");
    line.map(|(_, value)| value.to_owned())
}

/// A client of gateway that has subscribed, with so much of what it offers.
fn subscribed(address: SocketAddr, window_bits: Option<u8>, data: &Value) -> Raw {
    let mut raw = match window_bits {
        Some(bits) => Raw::compressing(address, "/ws", "", bits),
        None => Raw::open(address, "/ws", ""),
    };
    raw.send(&json!({"type": "subscribe", "data": data}).to_string());
    let answer: Value = serde_json::from_str(&raw.read_text()).unwrap();
    assert_eq!(answer["type"], "subscribed", "{answer}");
    raw
}

/// What subscribers of gateway receive.
fn message(data: &Value) -> String {
    format!(r#"{{"type":"m","channel":"news","data":{data}}}"#)
}

/// Characters without any order.
fn noise() -> impl Iterator<Item = char> {
    let mut state = 1_u64;
    std::iter::repeat_with(move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(u8::try_from(state >> 57).unwrap())
    })
    .filter(|c| c.is_ascii_graphic() && !['"', '\\'].contains(c))
}

/// JSON of some length that becomes much smaller.
fn long_data(bytes: usize) -> Value {
    let items = (0..bytes / 40).map(|n| json!({"id": n * n, "user": format!("user {}", n % 9)}));
    items.collect()
}

#[test]
fn an_offer_is_answered_where_the_listener_compresses() {
    let server = compressing(|builder| builder);
    let plain = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let expected = Some(plain.to_owned());
    assert_eq!(
        answer(server.address, "permessage-deflate; client_max_window_bits"),
        expected
    );
    let small = "foo, permessage-deflate; x, permessage-deflate; server_max_window_bits=10";
    assert_eq!(
        answer(server.address, small),
        Some(format!("{plain}; server_max_window_bits=10"))
    );
    let declined = "permessage-deflate; server_max_window_bits=8";
    assert_eq!(answer(server.address, declined), None);
    let without = Server::dev();
    assert_eq!(answer(without.address, "permessage-deflate"), None);
    // Each listener by its own, and the profile analytics as its legacy server.
    let address = ([127, 0, 0, 1], 0).into();
    let builder = fanwire::Server::builder().dev();
    let server = Server::of(builder.listeners([
        Listener::of(DialectId::Gateway, address),
        Listener::of(DialectId::Gateway, address).with_compression(Compression::Deflate),
        Listener::of(DialectId::Analytics, address),
        Listener::of(DialectId::Analytics, address).with_compression(Compression::Off),
    ]));
    let offers = [false, true, true, false];
    for (listener, is_accepted) in offers.into_iter().enumerate() {
        let answer = answer(server.address_of(listener), "permessage-deflate");
        assert_eq!(answer.is_some(), is_accepted, "listener {listener}");
    }
}

#[test]
fn a_publication_is_compressed_once_for_all_who_receive_the_same_text() {
    let server = compressing(|builder| builder);
    let channel = json!({"channel": "news"});
    let mut all: Vec<_> = (0..20)
        .map(|number| subscribed(server.address, [Some(15), None][number % 2], &channel))
        .collect();
    let data = long_data(1_000);
    let expected = message(&data);
    server.program().broadcast("news", "m", &data).unwrap();
    for raw in &mut all {
        assert_eq!(raw.read_text(), expected);
    }
    assert_eq!(all.iter().map(|raw| raw.compressed_count).sum::<u32>(), 10);
    let metric = |name: &str| server.metric(&format!("fanwire_{name}"));
    assert_eq!(metric("compressions_total"), 1);
    assert_eq!(metric("encodes_total{variant=\"gateway_deflate\""), 1);
    assert_eq!(metric("encodes_total{variant=\"gateway\""), 1);
    let input_bytes = metric("compression_input_bytes_total");
    assert_eq!(input_bytes, expected.len() as u64);
    assert!(metric("compression_output_bytes_total") < input_bytes / 2);
    // Also by a client, whose message is compressed, too.
    let publication = json!({"channel": "news", "type": "m", "data": data});
    all[0].send(&json!({"type": "publish", "data": publication}).to_string());
    for raw in &mut all {
        assert_eq!(raw.read_text(), expected);
    }
    assert_eq!(metric("compressions_total"), 2);
    assert!(metric("inflations_total") > 10);
}

#[test]
fn what_is_short_or_does_not_become_smaller_is_sent_as_it_is() {
    let server = compressing(|builder| builder.set("compression_bytes_min", "100"));
    let mut raw = subscribed(server.address, Some(15), &json!({"channel": "news"}));
    assert_eq!(raw.compressed_count, 0);
    let mut check = |data: &Value, is_compressed: bool| {
        server.program().broadcast("news", "m", data).unwrap();
        let text: Value = serde_json::from_str(&raw.read_text()).unwrap();
        assert_eq!(&text["data"], data);
        let count = std::mem::take(&mut raw.compressed_count);
        assert_eq!(count, u32::from(is_compressed), "{data}");
    };
    check(&json!("aaaaaaaaaaaaaaaa"), false);
    check(&json!("a".repeat(100)), true);
    check(&json!("0".repeat(3 << 20)), false);
    check(&json!(noise().take(100).collect::<String>()), false);
}

#[test]
fn each_client_finds_its_own_values_in_compressed_frames() {
    let server = compressing(|builder| builder.set("history", vec!["news* messages=9"]));
    let windows = [Some(15), Some(9), Some(12), None];
    // Positions, of this publication and of the one before.
    let data = json!({"channel": "news", "previous": true});
    let subscribe = |bits| subscribed(server.address, bits, &data);
    let mut gateway: Vec<_> = windows.into_iter().map(subscribe).collect();
    // Subscription ids: the server's, and others of another length.
    let mut analytics: Vec<_> = windows
        .into_iter()
        .flat_map(|bits| {
            [
                None,
                Some("x"),
                Some("an id that is longer than the server's"),
            ]
            .map(|id| (bits, id))
        })
        .map(|(bits, id)| {
            let mut raw = match bits {
                Some(bits) => Raw::compressing(server.address, "/analytics", "", bits),
                None => Raw::open(server.address, "/analytics", ""),
            };
            let data = json!({"type": "events", "subscription_id": id});
            raw.send(&match id {
                Some(_) => json!({"type": "subscribe", "data": data}).to_string(),
                None => json!({"type": "subscribe", "data": {"type": "events"}}).to_string(),
            });
            let answer: Value = serde_json::from_str(&raw.read_text()).unwrap();
            let own = answer["subscription_id"].as_str().unwrap().to_owned();
            assert!(id.is_none_or(|id| id == own), "{answer}");
            (raw, own)
        })
        .collect();
    for _ in 0..3 {
        let data = long_data(2_000);
        server.program().broadcast("news", "m", &data).unwrap();
        server.program().broadcast_event(&data).unwrap();
        let texts: Vec<_> = gateway.iter_mut().map(Raw::read_text).collect();
        let (plain, compressed) = texts.split_last().unwrap();
        let text: Value = serde_json::from_str(plain).unwrap();
        assert!(
            text["position"].is_string() && text["previous"].is_string(),
            "{text}"
        );
        assert_eq!(text["data"], data);
        compressed.iter().for_each(|text| assert_eq!(text, plain));
        for (raw, own) in &mut analytics {
            let text: Value = serde_json::from_str(&raw.read_text()).unwrap();
            assert_eq!(text["subscription_id"], **own);
            assert_eq!(text["data"]["event"], data);
        }
    }
    let counts = gateway.iter().map(|raw| raw.compressed_count);
    assert_eq!(counts.collect::<Vec<_>>(), [3, 3, 3, 0]);
    let counts = analytics.iter().map(|(raw, _)| raw.compressed_count);
    assert_eq!(counts.sum::<u32>(), 3 * 9);
    // Twice for each dialect, as 9 and 12 bits have the same window.
    assert_eq!(server.metric("fanwire_compressions_total"), 3 * 4);
    // The same from the history, for those that were not there.
    let began = json!({"channel": "news", "previous": true});
    let recovered = windows.map(|bits| {
        let mut raw = match bits {
            Some(bits) => Raw::compressing(server.address, "/ws", "", bits),
            None => Raw::open(server.address, "/ws", ""),
        };
        raw.send(&json!({"type": "history", "data": {"channel": "news"}}).to_string());
        let history: Value = serde_json::from_str(&raw.read_text()).unwrap();
        let first = &history["data"]["messages"][0]["position"];
        assert!(first.is_string(), "{history}");
        let mut data = began.clone();
        data["recover"] = first.clone();
        raw.send(&json!({"type": "subscribe", "data": data}).to_string());
        let answer = raw.read_text();
        assert!(answer.contains(r#""recovered":true"#), "{answer}");
        let texts = [raw.read_text(), raw.read_text()];
        assert_eq!(raw.compressed_count, if bits.is_some() { 3 } else { 0 });
        texts
    });
    let [large, small, other, plain] = recovered;
    for compressed in [large, small, other] {
        assert_eq!(compressed, plain);
    }
}

#[test]
fn references_stay_within_the_window_that_a_client_asks_for() {
    let server = compressing(|builder| builder);
    // The same every 600 bytes, which a window of 512 does not reach.
    let part: String = noise().take(600).collect();
    let data = json!(part.repeat(40));
    let mut clients: Vec<_> = (9..=15)
        .map(|bits| subscribed(server.address, Some(bits), &json!({"channel": "news"})))
        .collect();
    server.program().broadcast("news", "m", &data).unwrap();
    let expected = message(&data);
    for raw in &mut clients {
        assert_eq!(raw.read_text(), expected);
        assert_eq!(raw.compressed_count, 1);
    }
    assert_eq!(server.metric("fanwire_compressions_total"), 2);
}

#[test]
fn compressed_messages_of_clients_come_in_any_form_and_length() {
    let server = compressing(|builder| builder);
    let mut receiver = Client::subscribed(server.address, "news");
    let mut raw = Raw::compressing(server.address, "/ws", "", 15);
    let publication = |data: &Value| {
        let data = json!({"channel": "news", "type": "m", "data": data});
        json!({"type": "publish", "data": data}).to_string()
    };
    let mut check = |raw: &mut Raw, bytes: &[u8], data: &Value| {
        raw.write(bytes);
        let text: Value = serde_json::from_str(&receiver.receive()).unwrap();
        assert_eq!(&text["data"], data);
    };
    let mut lengths = vec![40, 3_000, 5_000, 60_000, 900_000];
    for bytes in lengths.drain(..) {
        let data = long_data(bytes);
        let payload = deflate(publication(&data).as_bytes());
        check(&mut raw, &frame_bytes(0xc1, &payload), &data);
        // In three frames, with a ping between them.
        let (first, rest) = payload.split_at(payload.len() / 3);
        let (second, third) = rest.split_at(rest.len() / 2);
        let frames = [
            frame_bytes(0x41, first),
            frame_bytes(0x89, b"ping"),
            frame_bytes(0x00, second),
            frame_bytes(0x80, third),
        ];
        check(&mut raw, &frames.concat(), &data);
        assert_eq!(raw.read(), Frame::Pong(b"ping".to_vec()));
    }
    // Also as they are, and with a final block (RFC 7692 7.2.3.4).
    check(
        &mut raw,
        &frame_bytes(0x81, publication(&json!(1)).as_bytes()),
        &json!(1),
    );
    // JSON in a binary message.
    let payload = deflate(publication(&json!(3)).as_bytes());
    check(&mut raw, &frame_bytes(0xc2, &payload), &json!(3));
    // One large message, and small ones behind it in the same packet: in their order.
    let data = long_data(50_000);
    let large = frame_bytes(0xc1, &deflate(publication(&data).as_bytes()));
    let small = frame_bytes(0xc1, &deflate(publication(&json!(2)).as_bytes()));
    check(&mut raw, &[large, small].concat(), &data);
    check(&mut raw, b"", &json!(2));
}

#[test]
fn bad_compressed_messages_end_their_session_and_nobody_elses() {
    let server = compressing(|builder| builder.set("gateway.message_bytes_max", "4 MiB"));
    let mut bystander = Client::subscribed(server.address, "news");
    let mut publisher = Client::open(server.address, "/ws");
    let mut check = |name: &str, bytes: &[u8], code: u16, label: &str| {
        let series = format!("fanwire_protocol_errors_total{{error=\"{label}\"");
        let before = server.metric(&series);
        let mut raw = Raw::compressing(server.address, "/ws", "", 15);
        raw.write(bytes);
        assert_eq!(raw.read(), Frame::Close(code, "protocol".into()), "{name}");
        assert_eq!(raw.read(), Frame::End, "{name}");
        assert_eq!(server.metric(&series), before + 1, "{name}");
        publisher.publish("news", "1");
        bystander.receive();
    };
    let compressed = |payload: &[u8]| frame_bytes(0xc1, payload);
    let bomb = deflate(&vec![b'0'; 100 << 20]);
    assert!(bomb.len() < 110_000);
    check("a bomb", &compressed(&bomb), 1009, "too_large");
    let (first, last) = bomb.split_at(50_000);
    let parts = [frame_bytes(0x41, first), frame_bytes(0x80, last)].concat();
    check("a bomb in parts", &parts, 1009, "too_large");
    let small_bomb = deflate(&vec![b'0'; 2_000_000]);
    assert!(small_bomb.len() < 3_000);
    check("a ratio", &compressed(&small_bomb), 1009, "deflate_ratio");
    let noise: Vec<_> = (0..5_000_000_u32)
        .map(|n| (n.wrapping_mul(n) >> 7).to_be_bytes()[3])
        .collect();
    check("too long", &compressed(&deflate(&noise)), 1009, "too_large");
    let text = json!({"type": "ping", "data": long_data(500)}).to_string();
    let payload = deflate(text.as_bytes());
    for cut in [1, 10, payload.len() / 2, payload.len() - 2] {
        check("cut short", &compressed(&payload[..cut]), 1007, "deflate");
    }
    check("garbage", &compressed(&[0xff; 100]), 1007, "deflate");
    check("no UTF-8", &compressed(&deflate(b"\"\xff\"")), 1007, "utf8");
    let late = [frame_bytes(0x01, b"a"), frame_bytes(0xc0, &payload)].concat();
    check("late bit", &late, 1002, "reserved_bits");
    check("ping", &frame_bytes(0xc9, b"ping"), 1002, "reserved_bits");
    check(
        "other bit",
        &frame_bytes(0xa1, &payload),
        1002,
        "reserved_bits",
    );
    // What is valid in itself, from a client that has not agreed on it.
    let mut raw = Raw::open(server.address, "/ws", "");
    raw.write(&compressed(&payload));
    assert_eq!(raw.read(), Frame::Close(1002, "protocol".into()));
}

#[test]
fn an_answer_is_compressed_for_its_client_alone() {
    let server = compressing(|builder| builder.set("history", vec!["news* messages=99"]));
    for number in 0..20 {
        server.program().broadcast("news", "m", &number).unwrap();
    }
    let request = json!({"type": "history", "data": {"channel": "news"}}).to_string();
    let mut plain = Raw::open(server.address, "/ws", "");
    plain.send(&request);
    let expected = plain.read_text();
    let mut raw = Raw::open(
        server.address,
        "/ws",
        "Sec-WebSocket-Extensions: permessage-deflate\r\n",
    );
    raw.send(&request);
    match raw.read() {
        Frame::Compressed(payload) => {
            assert!(payload.len() < expected.len() / 2);
            assert_eq!(inflate(&payload, 15), expected.as_bytes());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn binary_publications_are_not_compressed_and_keep_their_place_among_those_that_are() {
    let server = compressing(|builder| builder);
    let mut plain = Raw::open(server.address, "/ws", "");
    let mut raw = Raw::compressing(server.address, "/ws", "", 15);
    for client in [&mut plain, &mut raw] {
        client.send(
            &json!({"type": "subscribe", "data": {"channel": "news", "binary": true}}).to_string(),
        );
        assert!(client.read_text().contains("subscribed"));
    }
    let bytes = vec![b'x'; 2_000];
    let data = long_data(2_000);
    for _ in 0..3 {
        server.program().broadcast("news", "m", &data).unwrap();
        server.program().broadcast_binary("news", &bytes).unwrap();
    }
    for client in [&mut plain, &mut raw] {
        for _ in 0..3 {
            assert_eq!(client.read_text(), message(&data));
            let expected = [b"\x01\x02\0\x04news", &bytes[..]].concat();
            assert_eq!(client.read(), Frame::Binary(expected));
        }
    }
    assert_eq!(raw.compressed_count, 3);
}
