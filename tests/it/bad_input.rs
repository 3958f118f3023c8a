//! Everything a stranger can send: the right answer, a counter, and nobody else disturbed.

use crate::harness::{Client, Frame, Raw, Server, frame_bytes};

/// A server, and a bystander who must go on receiving.
struct Scene {
    server: Server,
    bystander: Client,
    publisher: Client,
    published: u32,
}

impl Scene {
    fn new() -> Self {
        let server = Server::dev();
        Self {
            bystander: Client::subscribed(server.address, "news"),
            publisher: Client::open(server.address, "/ws"),
            server,
            published: 0,
        }
    }

    fn check_bystander(&mut self) {
        self.published += 1;
        let number = self.published.to_string();
        self.publisher.publish("news", &number);
        let expected = format!(r#"{{"type":"m","channel":"news","data":{number}}}"#);
        assert_eq!(self.bystander.receive(), expected);
    }

    /// `bytes` of an upgraded client end its session with `code` and add one to `series`.
    fn check_closed(&mut self, name: &str, bytes: &[u8], code: u16, label: &str) {
        let series = format!("fanwire_protocol_errors_total{{error=\"{label}\"");
        let before = self.server.metric(&series);
        let mut raw = Raw::open(self.server.address, "/ws", "");
        raw.write(bytes);
        assert_eq!(raw.read(), Frame::Close(code, "protocol".into()), "{name}");
        assert_eq!(raw.read(), Frame::End, "{name}");
        assert_eq!(self.server.metric(&series), before + 1, "{name}");
        self.check_bystander();
    }

    /// `text` is answered with an error and adds one to `series`; the session lives on.
    fn check_refused(&mut self, text: &str, error: &str, label: &str) {
        let series = format!("fanwire_message_errors_total{{error=\"{label}\"");
        let before = self.server.metric(&series);
        let mut raw = Raw::open(self.server.address, "/ws", "");
        raw.send(text);
        let expected = format!(r#"{{"type":"error","data":{{"error":"{error}"}}}}"#);
        assert_eq!(raw.read_text(), expected);
        raw.send(r#"{"type":"ping"}"#);
        assert_eq!(raw.read_text(), r#"{"type":"pong"}"#);
        assert_eq!(self.server.metric(&series), before + 1, "{error}");
        self.check_bystander();
    }

    /// A request is answered with a status before any session, and adds one to `series`.
    fn check_status(&mut self, request: &str, status: u16, reason: &str) {
        let series = format!("fanwire_connections_rejected_total{{reason=\"{reason}\"");
        let before = self.server.metric(&series);
        assert_eq!(
            crate::harness::http(self.server.address, request).0,
            status,
            "{reason}"
        );
        assert_eq!(self.server.metric(&series), before + 1, "{reason}");
        self.check_bystander();
    }
}

#[test]
fn frames_against_the_rfc_close_the_session_with_their_code() {
    let mut scene = Scene::new();
    let text = |first| frame_bytes(first, b"hello");
    for (name, bytes, code, label) in [
        ("unmasked", vec![0x81, 2, b'h', b'i'], 1002, "unmasked"),
        ("reserved bit", text(0xc1), 1002, "reserved_bits"),
        ("unknown opcode", text(0x83), 1002, "opcode"),
        ("fragmented ping", text(0x09), 1002, "control"),
        ("stray continuation", text(0x80), 1002, "fragmentation"),
        ("not UTF-8", frame_bytes(0x81, b"ok\xff"), 1007, "utf8"),
        (
            "close code 1005",
            frame_bytes(0x88, &[3, 237]),
            1002,
            "close_payload",
        ),
        (
            "oversized",
            frame_bytes(0x81, &[b'x'; 1_048_577])[..20].to_vec(),
            1009,
            "too_large",
        ),
        (
            "length not minimal",
            vec![0x81, 0xfe, 0, 5, 1, 2, 3, 4],
            1002,
            "length",
        ),
    ] {
        scene.check_closed(name, &bytes, code, label);
    }
}

#[test]
fn messages_that_mean_nothing_are_answered() {
    let mut scene = Scene::new();
    let deep = format!(
        r#"{{"type":{}1{}}}"#,
        "[".repeat(500_000),
        "]".repeat(500_000)
    );
    for (text, error, label) in [
        ("{\"type\":", "Invalid JSON", "json"),
        ("[]", "Invalid JSON", "json"),
        ("", "Invalid JSON", "json"),
        (&*deep, "JSON nested too deep", "depth"),
        (
            r#"{"type":"explode"}"#,
            "Unknown message type",
            "unknown_type",
        ),
        (r#"{"typ":"ping"}"#, "Unknown message type", "unknown_type"),
        (
            r#"{"type":"subscribe","data":{"channel":3}}"#,
            "Invalid channel",
            "field",
        ),
        (
            r#"{"type":"subscribe","data":{"channel":"a\u0000b"}}"#,
            "Invalid channel",
            "field",
        ),
    ] {
        scene.check_refused(text, error, label);
    }
    let long = format!(
        r#"{{"type":"subscribe","data":{{"channel":"{}"}}}}"#,
        "c".repeat(257)
    );
    scene.check_refused(&long, "Invalid channel", "field");
}

#[test]
fn requests_that_are_none_are_refused() {
    let mut scene = Scene::new();
    let upgrade = |path: &str| crate::harness::upgrade_request(path, "");
    let huge = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    scene.check_status(&huge, 431, "head_too_large");
    scene.check_status("\x16\x03\x01 hello\r\n\r\n", 400, "bad_request");
    scene.check_status(&upgrade("/nowhere"), 404, "unknown_path");
    scene.check_status(&upgrade("/ws").replace(": 13", ": 8"), 426, "version");
    let keyless = upgrade("/ws").replace("Sec-WebSocket-Key", "X-Key");
    scene.check_status(&keyless, 400, "bad_request");
}

#[test]
fn a_truncated_frame_and_a_sudden_end_disturb_nobody() {
    let mut scene = Scene::new();
    let mut raw = Raw::open(scene.server.address, "/ws", "");
    raw.write(&frame_bytes(0x81, br#"{"type":"ping"}"#)[..9]);
    drop(raw);
    let abrupt = "fanwire_protocol_errors_total{error=\"abrupt_end\"";
    scene.server.await_metric(abrupt, 1);
    scene.check_bystander();
    drop(Raw::connect(scene.server.address));
    scene
        .server
        .await_metric("fanwire_connections_rejected_total{reason=\"abandoned\"", 1);
    scene.check_bystander();
}

#[test]
fn a_half_closed_socket_ends_its_session() {
    let mut scene = Scene::new();
    let mut raw = Raw::open(scene.server.address, "/ws", "");
    raw.send(r#"{"type":"ping"}"#);
    assert_eq!(raw.read_text(), r#"{"type":"pong"}"#);
    raw.shut_down_write();
    assert_eq!(raw.read(), Frame::End);
    scene.check_bystander();
}

#[test]
fn a_client_that_never_reads_is_reset_and_others_are_not() {
    let mut scene = Scene::new();
    let mut stuck = Raw::open(scene.server.address, "/ws", "");
    stuck.send(r#"{"type":"subscribe","data":{"channel":"flood"}}"#);
    stuck.read_text();
    let data = format!("\"{}\"", "x".repeat(100_000));
    let slow = "fanwire_closes_total{reason=\"slow_consumer\"";
    // The socket's buffers take some megabytes before the send queue begins to fill.
    for _ in 0..2_000 {
        scene.publisher.publish("flood", &data);
        if scene.server.metric(slow) == 1 {
            break;
        }
    }
    assert_eq!(scene.server.metric(slow), 1);
    assert!(
        scene
            .server
            .metric("fanwire_dropped_total{reason=\"slow_consumer\"")
            > 0
    );
    scene.check_bystander();
    // What had reached its host is all that it reads when it wakes up.
    let mut texts = 0;
    let last = loop {
        match stuck.read() {
            Frame::Text(text) => assert_eq!(text.len(), 100_000 + 40),
            other => break other,
        }
        texts += 1;
    };
    assert!(texts < 100, "the kernel has let go of the rest: {texts}");
    assert_eq!(last, Frame::End);
}
