//! Do the metrics say what clients did and how long it took?

use crate::harness::{Client, Frame, Raw, Server, http_get, token, upgrade_request};

/// The value of one series, with all its labels.
fn value(text: &str, series: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    line.parse().unwrap()
}

fn text(server: &Server) -> String {
    http_get(server.address, "/metrics/prometheus").1
}

fn read_until(session: &mut Raw, expected: &str) {
    while !session.read_text().contains(expected) {}
}

/// Waits for metrics that a shard updates once a second.
fn await_text(server: &Server, is_expected: impl Fn(&str) -> bool) {
    let clock = fanwire::base::now::Clock::start();
    let mut text = server.program().prometheus_metrics();
    while !is_expected(&text) {
        assert!(clock.now().monotonic_ms < 20_000, "{text}");
        std::thread::yield_now();
        text = server.program().prometheus_metrics();
    }
}

#[test]
fn the_metrics_of_the_documents_count_what_clients_do() {
    let server = Server::dev();
    let address = server.address;
    let mut lost = Raw::connect(address);
    lost.write(upgrade_request("/nowhere", "").as_bytes());
    lost.read_head();
    let path = format!("/monitoring?token={}", token("ann", &["publish"]));
    let mut sessions: Vec<_> = (0..3).map(|_| Raw::open(address, &path, "")).collect();
    for session in &mut sessions {
        session.send(r#"{"type":"SUBSCRIBE","property_id":"house-7"}"#);
        read_until(session, r#""type":"SUBSCRIBED""#);
    }
    sessions[0].send(r#"{"type":"PING"}"#);
    read_until(&mut sessions[0], r#""type":"PONG""#);
    sessions[0].send(r#"{"type":"DANCE"}"#);
    read_until(&mut sessions[0], r#""type":"ERROR""#);
    let publish = r#"{"type":"PUBLISH","property_id":"house-7","message":{"type":"X"}}"#;
    sessions[0].send(publish);
    for session in &mut sessions {
        read_until(session, r#""type":"X""#);
    }
    let property = "websocket_subscriptions_total{property_id=\"house-7\"}";
    await_text(&server, |text| text.contains(&format!("{property} 3\n")));
    let of_type = |kind: &str, direction: &str| {
        format!("websocket_messages_total{{type=\"{kind}\",direction=\"{direction}\"}}")
    };
    server.await_metric(&of_type("publication", "outbound"), 3);
    let now = text(&server);
    for (kind, direction, expected) in [
        ("subscribe", "inbound", 3.0),
        ("subscribed", "outbound", 3.0),
        ("ping", "inbound", 1.0),
        ("pong", "outbound", 1.0),
        ("publish", "inbound", 1.0),
        ("malformed", "inbound", 1.0),
        ("error", "outbound", 1.0),
    ] {
        assert_eq!(value(&now, &of_type(kind, direction)), expected, "{kind}");
    }
    assert_eq!(
        value(&now, "websocket_connections_total{status=\"accepted\"}"),
        3.0
    );
    assert!(value(&now, "websocket_connections_total{status=\"rejected\"}") >= 1.0);
    assert_eq!(value(&now, "websocket_active_connections"), 3.0);
    assert_eq!(
        value(
            &now,
            "websocket_subscriptions_total{property_id=\"__other__\"}"
        ),
        0.0
    );
    // The first message of a shard is measured.
    let measured = "websocket_message_duration_seconds_count{type=";
    let measured = now.lines().filter(|line| line.starts_with(measured));
    let measured: f64 = measured
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert!(measured >= 1.0, "{now}");
    assert_eq!(
        value(&now, "websocket_connection_duration_seconds_count"),
        0.0
    );
    for mut session in sessions {
        session.write(&crate::harness::frame_bytes(0x88, &[3, 232]));
        while session.read() != Frame::End {}
    }
    server.await_metric("websocket_connection_duration_seconds_count", 3);
    server.await_metric("websocket_active_connections", 0);
    await_text(&server, |text| !text.contains("house-7"));
}

#[test]
fn a_session_that_is_rejected_after_its_upgrade_counts_as_rejected() {
    let server = Server::with(|builder| builder.dev().set("connections_max", 1_u64));
    let _first = Client::open(server.address, "/ws");
    let mut second = Raw::open(server.address, "/ws", "");
    assert_eq!(second.read(), Frame::Close(1013, "capacity".into()));
    let now = text(&server);
    assert_eq!(
        value(&now, "websocket_connections_total{status=\"accepted\"}"),
        1.0
    );
    assert_eq!(
        value(&now, "websocket_connections_total{status=\"rejected\"}"),
        1.0
    );
}

#[test]
fn times_are_measured_from_accept_to_the_last_subscriber() {
    let server = Server::dev();
    let mut subscribers: Vec<_> = (0..20)
        .map(|_| Client::subscribed(server.address, "news"))
        .collect();
    let mut publisher = Client::open(server.address, "/ws");
    for round in 0..130 {
        publisher.publish("news", &round.to_string());
    }
    for subscriber in &mut subscribers {
        (0..130).for_each(|_| drop(subscriber.receive()));
    }
    for metric in [
        "fanwire_publish_latency_seconds",
        "fanwire_turn_duration_seconds",
        "fanwire_sends_per_submission",
        "fanwire_accept_delay_seconds",
        "fanwire_handshake_duration_seconds",
    ] {
        let count = server.metric(&format!("{metric}_count"));
        assert!(count > 0, "{metric}");
    }
    let now = text(&server);
    // Each of the three is measured on both shards, unless an earlier one was not finished.
    let measured = server.metric("fanwire_publish_latency_seconds_count");
    assert!((1..=6).contains(&measured), "{measured}");
    for shard in [0, 1] {
        let sum = value(
            &now,
            &format!("fanwire_publish_latency_seconds_sum{{shard=\"{shard}\"}}"),
        );
        assert!((0.0..60.0).contains(&sum), "{sum}");
    }
    assert_eq!(
        server.metric("fanwire_handshake_duration_seconds_count"),
        21
    );
}

#[test]
fn the_process_and_its_build_are_described() {
    let server = Server::dev();
    let now = text(&server);
    assert!(now.contains(&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))));
    assert!(value(&now, "process_resident_memory_bytes") > 1_000_000.0);
    assert!(value(&now, "process_cpu_seconds_total") > 0.0);
    assert!(value(&now, "process_open_fds") > 3.0);
    assert!(value(&now, "websocket_uptime_seconds") < 600.0);
    assert_eq!(
        value(&now, "fanwire_memory_bytes{kind=\"ring\"}"),
        8_388_608.0
    );
    let kinds = ["history", "waiting", "receive_buffers", "other"];
    let of = |kind| value(&now, &format!("fanwire_memory_bytes{{kind=\"{kind}\"}}"));
    let [_, _, receive_buffers, other] = kinds.map(of);
    // Two shards.
    assert!((2.0 * 65_536.0..=2.0 * 4_194_304.0).contains(&receive_buffers));
    assert!(other < value(&now, "process_resident_memory_bytes") * 1.5);
}
