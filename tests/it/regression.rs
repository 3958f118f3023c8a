//! Faults that were found once, one test each.

use crate::harness::{Frame, Raw, Server, frame_bytes, upgrade_request};

#[test]
fn frames_in_the_same_packet_as_the_request_are_read() {
    let server = Server::dev();
    let mut raw = Raw::connect(server.address);
    let mut bytes = upgrade_request("/ws", "").into_bytes();
    bytes.extend(frame_bytes(0x81, br#"{"type":"ping"}"#));
    bytes.extend(frame_bytes(0x88, &[3, 232]));
    raw.write(&bytes);
    raw.read_head();
    assert_eq!(raw.read_text(), r#"{"type":"pong"}"#);
    assert_eq!(raw.read(), Frame::Close(1000, String::new()));
    assert_eq!(raw.read(), Frame::End);
}
