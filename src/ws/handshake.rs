//! The opening handshake (RFC 6455 4.2): which upgrades are accepted, and the answer.

use base64::{Engine, engine::general_purpose::STANDARD};

/// RFC 6455 1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The key is sixteen bytes in base64.
const KEY_CHARACTERS: usize = 24;
/// The only version in use (RFC 6455 4.1).
pub const VERSION: &str = "13";

/// Whether `key` can be a `Sec-WebSocket-Key`: base64 of sixteen bytes.
#[must_use]
pub fn is_key(key: &str) -> bool {
    let mut decoded = [0; 18];
    key.len() == KEY_CHARACTERS && STANDARD.decode_slice(key, &mut decoded) == Ok(16)
}

/// The `Sec-WebSocket-Accept` value for `key`.
#[must_use]
pub fn accept_value(key: &str) -> String {
    let mut sha1 = sha1_smol::Sha1::new();
    sha1.update(key.as_bytes());
    sha1.update(ACCEPT_GUID);
    STANDARD.encode(sha1.digest().bytes())
}

/// The complete answer that switches the connection to WebSocket, with the subprotocol and the
/// extension that the server has chosen.
#[must_use]
pub fn switching_protocols(
    key: &str,
    subprotocol: Option<&str>,
    extension: Option<&str>,
) -> String {
    let accept = accept_value(key);
    let mut answer = String::with_capacity(192);
    answer.push_str("HTTP/1.1 101 Switching Protocols\r\n");
    answer.push_str("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ");
    answer.push_str(&accept);
    if let Some(subprotocol) = subprotocol {
        answer.push_str("\r\nSec-WebSocket-Protocol: ");
        answer.push_str(subprotocol);
    }
    if let Some(extension) = extension {
        answer.push_str("\r\nSec-WebSocket-Extensions: ");
        answer.push_str(extension);
    }
    answer.push_str("\r\n\r\n");
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_gives_its_accept_value() {
        // RFC 6455 1.3.
        let accept = accept_value("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn keys_are_sixteen_bytes_in_base64() {
        assert!(is_key("dGhlIHNhbXBsZSBub25jZQ=="));
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=*",
            "AAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(!is_key(key), "{key}");
        }
    }
}
