//! A virtual client: bytes it sends, bytes it has received.

use fanwire::base::{ConnectionId, DialectId};

/// A WebSocket client without a socket.
pub(crate) struct Client {
    pub(crate) shard: usize,
    pub(crate) id: ConnectionId,
    pub(crate) dialect: DialectId,
    /// The kernel's side of the socket: it takes no bytes.
    pub(crate) is_blocked: bool,
    /// It never reads again.
    pub(crate) is_stuck: bool,
    pub(crate) is_gone: bool,
    pub(crate) close_code: Option<u16>,
    received: Vec<u8>,
    is_upgraded: bool,
    /// Numbers of the publications received, in order.
    pub(crate) numbers: Vec<u64>,
    pub(crate) pings: usize,
}

/// The dialects whose clients subscribe to a channel by its name.
pub(crate) const DIALECTS: [DialectId; 2] = [DialectId::Gateway, DialectId::Monitoring];

pub(crate) fn request(dialect: DialectId) -> Vec<u8> {
    let path = match dialect {
        DialectId::Gateway => "/ws",
        DialectId::Analytics => "/analytics",
        _ => "/monitoring",
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// A masked frame from a client.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x1a, 0xb2, 0x3c, 0xd4];
    let mut bytes = vec![0x80 | opcode];
    if payload.len() < 126 {
        bytes.push(0x80 | u8::try_from(payload.len()).unwrap());
    } else if let Ok(length) = u16::try_from(payload.len()) {
        bytes.push(0x80 | 126);
        bytes.extend(length.to_be_bytes());
    } else {
        bytes.push(0x80 | 127);
        bytes.extend((payload.len() as u64).to_be_bytes());
    }
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

impl Client {
    pub(crate) fn new(shard: usize, id: ConnectionId, dialect: DialectId) -> Self {
        Self {
            shard,
            id,
            dialect,
            is_blocked: false,
            is_stuck: false,
            is_gone: false,
            close_code: None,
            received: Vec::new(),
            is_upgraded: false,
            numbers: Vec::new(),
            pings: 0,
        }
    }

    pub(crate) fn subscribe(&self, channel: usize) -> Vec<u8> {
        frame(1, self.channel_message("subscribe", channel).as_bytes())
    }

    pub(crate) fn unsubscribe(&self, channel: usize) -> Vec<u8> {
        frame(1, self.channel_message("unsubscribe", channel).as_bytes())
    }

    fn channel_message(&self, kind: &str, channel: usize) -> String {
        match self.dialect {
            DialectId::Gateway => {
                format!(r#"{{"type":"{kind}","data":{{"channel":"prop:{channel}"}}}}"#)
            }
            _ => {
                let kind = kind.to_uppercase();
                format!(r#"{{"type":"{kind}","property_id":"{channel}"}}"#)
            }
        }
    }

    /// A publication that carries `number` and `padding` bytes.
    pub(crate) fn publish(&self, channel: usize, number: u64, padding: usize) -> Vec<u8> {
        let padding = "x".repeat(padding);
        let message = match self.dialect {
            DialectId::Gateway => format!(
                r#"{{"type":"publish","data":{{"channel":"prop:{channel}","type":"m","data":{{"number":{number},"p":"{padding}"}}}}}}"#
            ),
            _ => format!(
                r#"{{"type":"PUBLISH","property_id":"{channel}","message":{{"type":"m","number":{number},"p":"{padding}"}}}}"#
            ),
        };
        frame(1, message.as_bytes())
    }

    /// Takes bytes from the server and reads what is whole.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        if !self.is_upgraded {
            let end = b"\r\n\r\n";
            let Some(at) = self.received.windows(4).position(|window| window == end) else {
                return;
            };
            assert!(self.received.starts_with(b"HTTP/1.1 101 "));
            self.received.drain(..at + 4);
            self.is_upgraded = true;
        }
        let mut at = 0;
        while let Some((opcode, payload)) = whole_frame(&self.received[at..]) {
            at += payload.end;
            let payload = &self.received[at - payload.len()..at];
            match opcode {
                1 => {
                    let text = std::str::from_utf8(payload).unwrap();
                    if let Some((_, rest)) = text.split_once("\"number\":") {
                        let digits = rest.split(|digit: char| !digit.is_ascii_digit());
                        self.numbers
                            .push(digits.into_iter().next().unwrap().parse().unwrap());
                    } else {
                        assert!(!text.contains("rror"), "the server refused: {text}");
                    }
                }
                8 => {
                    assert_eq!(self.close_code, None, "one close frame");
                    self.close_code = Some(u16::from_be_bytes([payload[0], payload[1]]));
                }
                9 => self.pings += 1,
                opcode => panic!("opcode {opcode} from the server"),
            }
        }
        self.received.drain(..at);
        assert!(
            self.close_code.is_none() || self.received.is_empty(),
            "nothing after the close"
        );
    }
}

/// Opcode and payload range of the frame at the start of `bytes`, if it is whole.
pub(crate) fn whole_frame(bytes: &[u8]) -> Option<(u8, std::ops::Range<usize>)> {
    let [first, second, ..] = *bytes else {
        return None;
    };
    assert_eq!(
        first & 0xf0,
        0x80,
        "the server sends whole frames without extensions"
    );
    let (start, length) = match second {
        126 => (
            4,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap())),
        ),
        127 => {
            let length = u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap());
            (10, usize::try_from(length).unwrap())
        }
        length => (2, usize::from(length)),
    };
    (bytes.len() >= start + length).then_some((first & 0x0f, start..start + length))
}
