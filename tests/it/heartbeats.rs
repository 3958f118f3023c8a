//! Who does not answer pings, as real sockets and the kernels between them see it?

use crate::harness::{Frame, Raw, Server, frame_bytes, upgrade_request};
use fanwire::base::now::Clock;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const TIMED_OUT: &str = "fanwire_closes_total{reason=\"pong_timeout\"";

fn server() -> Server {
    Server::with(|builder| {
        let builder = builder.dev().set("gateway.ping_interval", "300ms");
        builder.set("gateway.pong_timeout", "600ms")
    })
}

#[test]
fn a_client_that_does_not_answer_pings_is_closed_though_its_kernel_acknowledges_them() {
    let server = server();
    let clock = Clock::start();
    let silent = Raw::open(server.address, "/ws", "");
    let mut reading = Raw::open(server.address, "/ws", "");
    assert_eq!(reading.read_silently(), Frame::Ping);
    let closed = Frame::Close(1008, "pong_timeout".into());
    assert_eq!(reading.read_silently(), closed);
    server.await_metric(TIMED_OUT, 2);
    assert!(clock.now().monotonic_ms > 900, "too early");
    drop(silent);
}

#[test]
fn a_client_on_a_slow_line_stays_while_it_acknowledges_what_is_ahead_of_the_ping() {
    const MESSAGE_BYTES: usize = 1_500_000;
    let server = server();
    let address = server.address.into();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.connect(&address).unwrap();
    let mut slow = TcpStream::from(socket);
    let subscribe = br#"{"type":"subscribe","data":{"channel":"news"}}"#;
    slow.write_all(upgrade_request("/ws", "").as_bytes())
        .unwrap();
    slow.write_all(&frame_bytes(0x81, subscribe)).unwrap();
    let mut received = Vec::new();
    let mut read = |is_enough: &dyn Fn(&[u8]) -> bool, pause: Duration| {
        let mut buffer = [0; 16 * 1024];
        while !is_enough(&received) {
            let count = slow.read(&mut buffer).unwrap();
            assert!(count > 0, "closed after {} bytes", received.len());
            received.extend_from_slice(&buffer[..count]);
            std::thread::sleep(pause);
        }
    };
    read(&|bytes| bytes.ends_with(br#""news"}}"#), Duration::ZERO);
    let publish = |text: &str| server.program().broadcast("news", "m", &text).unwrap();
    publish(&"x".repeat(MESSAGE_BYTES));
    let clock = Clock::start();
    // The slow line.
    read(
        &|bytes| bytes.len() > MESSAGE_BYTES,
        Duration::from_millis(20),
    );
    // Far longer than its ping may be unanswered, if nothing were ahead of it.
    assert!(clock.now().monotonic_ms > 1_200);
    publish("the end");
    let is_end = |bytes: &[u8]| {
        bytes
            .windows(9)
            .rev()
            .take(100)
            .any(|it| it == b"\"the end\"")
    };
    read(&is_end, Duration::ZERO);
    assert_eq!(server.metric(TIMED_OUT), 0);
    // Its kernel still acknowledges everything, but it answers nothing.
    slow.read_to_end(&mut received).unwrap();
    assert_eq!(server.metric(TIMED_OUT), 1);
}
