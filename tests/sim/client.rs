//! A virtual client: bytes it sends, bytes it has received.

use fanwire::base::{ConnectionId, DialectId, FrameEncoding};
use fanwire::ws::{Deflater, Inflater};
use std::collections::HashSet;

/// A publication as a client receives it; its text says no more than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) number: u64,
    pub(crate) channel: usize,
    pub(crate) padding_bytes: usize,
}

impl Received {
    /// The whole text in which a client of `dialect` must find it.
    pub(crate) fn text(self, dialect: DialectId) -> String {
        let Self { channel, .. } = self;
        let message = self.message();
        match dialect {
            DialectId::Gateway => {
                format!(r#"{{"type":"m","channel":"prop:{channel}","data":{message}}}"#)
            }
            _ => message,
        }
    }

    /// The data, which clients of the monitoring dialect receive as it is.
    fn message(self) -> String {
        let Self {
            number, channel, ..
        } = self;
        let padding = "x".repeat(self.padding_bytes);
        format!(r#"{{"type":"m","number":{number},"channel":{channel},"p":"{padding}"}}"#)
    }
}

/// A WebSocket client without a socket.
pub(crate) struct Client {
    pub(crate) shard: usize,
    pub(crate) id: ConnectionId,
    pub(crate) dialect: DialectId,
    /// Whether it has offered compression, and so compresses its publications.
    compresses: bool,
    /// Publications that came compressed.
    pub(crate) compressed_count: usize,
    /// The kernel's side of the socket: it takes no bytes.
    pub(crate) is_blocked: bool,
    pub(crate) is_gone: bool,
    /// Code and reason of the server's close frame.
    pub(crate) close: Option<(u16, String)>,
    unread: Vec<u8>,
    is_upgraded: bool,
    /// Publications received, in order.
    pub(crate) received: Vec<Received>,
    /// The channels whose subscription was acknowledged, and not yet its end.
    subscribed: HashSet<usize>,
    /// Subscriptions and their ends that were asked for, and those that were acknowledged.
    pub(crate) requested: usize,
    pub(crate) acknowledged: usize,
    pub(crate) pings: usize,
    /// The payloads of the pongs received.
    pub(crate) pongs: Vec<Vec<u8>>,
}

/// The dialects whose clients subscribe to a channel by its name.
pub(crate) const DIALECTS: [DialectId; 2] = [DialectId::Gateway, DialectId::Monitoring];

pub(crate) fn request(dialect: DialectId) -> Vec<u8> {
    let path = match dialect {
        DialectId::Gateway => "/ws",
        DialectId::Analytics => "/analytics",
        DialectId::Assist => "/ws/connect",
        _ => "/monitoring",
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// The same that offers compression.
pub(crate) fn compressing_request(dialect: DialectId, parameters: &str) -> Vec<u8> {
    let mut request = String::from_utf8(request(dialect)).unwrap();
    request.truncate(request.len() - 2);
    request.push_str("Sec-WebSocket-Extensions: permessage-deflate");
    request.push_str(parameters);
    request.push_str("\r\n\r\n");
    request.into_bytes()
}

/// The payload of a compressed message.
pub(crate) fn deflate(text: &[u8]) -> Vec<u8> {
    let (mut deflater, mut payload) = (Deflater::new(6), Vec::new());
    assert!(deflater.deflate(FrameEncoding::Deflate, text, &mut [], &mut payload));
    payload
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
            compresses: false,
            compressed_count: 0,
            is_blocked: false,
            is_gone: false,
            close: None,
            unread: Vec::new(),
            is_upgraded: false,
            received: Vec::new(),
            subscribed: HashSet::new(),
            requested: 0,
            acknowledged: 0,
            pings: 0,
            pongs: Vec::new(),
        }
    }

    /// The same that has offered compression.
    pub(crate) fn compressing(self) -> Self {
        Self {
            compresses: true,
            ..self
        }
    }

    pub(crate) fn subscribe(&mut self, channel: usize) -> Vec<u8> {
        self.requested += 1;
        frame(1, self.channel_message("subscribe", channel).as_bytes())
    }

    pub(crate) fn unsubscribe(&mut self, channel: usize) -> Vec<u8> {
        self.requested += 1;
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

    pub(crate) fn publish(&self, publication: Received) -> Vec<u8> {
        let channel = publication.channel;
        let message = publication.message();
        let message = match self.dialect {
            DialectId::Gateway => format!(
                r#"{{"type":"publish","data":{{"channel":"prop:{channel}","type":"m","data":{message}}}}}"#
            ),
            _ => format!(r#"{{"type":"PUBLISH","property_id":"{channel}","message":{message}}}"#),
        };
        if self.compresses {
            return frame(0x41, &deflate(message.as_bytes()));
        }
        frame(1, message.as_bytes())
    }

    /// Takes bytes from the server and reads what is whole.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        if !self.is_upgraded {
            let end = b"\r\n\r\n";
            let Some(at) = self.unread.windows(4).position(|window| window == end) else {
                return;
            };
            assert!(self.unread.starts_with(b"HTTP/1.1 101 "));
            self.unread.drain(..at + 4);
            self.is_upgraded = true;
        }
        let unread = std::mem::take(&mut self.unread);
        let mut at = 0;
        while let Some((opcode, payload)) = whole_frame(&unread[at..]) {
            assert_eq!(self.close, None, "nothing comes after the close frame");
            let start = at + payload.start;
            at += payload.end;
            let payload = &unread[start..at];
            match opcode {
                1 => self.read(std::str::from_utf8(payload).unwrap()),
                0x41 => {
                    assert!(self.compresses, "it was not agreed on");
                    let mut inflater = Inflater::default();
                    let text = inflater.inflate(payload, 1 << 24).unwrap();
                    self.read(std::str::from_utf8(text).unwrap());
                    self.compressed_count += 1;
                }
                8 => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    let reason = std::str::from_utf8(&payload[2..]).unwrap();
                    self.close = Some((code, reason.to_owned()));
                }
                9 => self.pings += 1,
                10 => self.pongs.push(payload.to_vec()),
                opcode => panic!("opcode {opcode} from the server"),
            }
        }
        self.unread = unread[at..].to_vec();
    }

    fn read(&mut self, text: &str) {
        if let Some(channel) = self.acknowledgement("subscribed", text) {
            self.subscribed.insert(channel);
            self.acknowledged += 1;
        } else if let Some(channel) = self.acknowledgement("unsubscribed", text) {
            self.subscribed.remove(&channel);
            self.acknowledged += 1;
        } else if let Some(received) = publication(text) {
            assert_eq!(text, received.text(self.dialect));
            assert!(
                self.subscribed.contains(&received.channel),
                "{text} came without a subscription"
            );
            self.received.push(received);
        } else {
            let is_known = ["WELCOME", "PUBLISHED"]
                .iter()
                .any(|kind| text.starts_with(&format!(r#"{{"type":"{kind}","#)));
            let is_known = is_known || text == r#"{"type":"pong"}"#;
            assert!(is_known, "the server sent {text}");
        }
    }

    /// The channel, if `text` acknowledges this request.
    fn acknowledgement(&self, kind: &str, text: &str) -> Option<usize> {
        let rest = match self.dialect {
            DialectId::Gateway => {
                let start = format!(r#"{{"type":"{kind}","data":{{"channel":"prop:"#);
                text.strip_prefix(&start)?.strip_suffix("\"}}")?
            }
            _ => {
                let kind = kind.to_uppercase();
                let start = format!(r#"{{"type":"{kind}","property_id":""#);
                text.strip_prefix(&start)?.strip_suffix("\"}")?
            }
        };
        rest.parse().ok()
    }

    /// Whether it reads no more of a frame that has begun.
    pub(crate) fn has_part_of_a_frame(&self) -> bool {
        !self.unread.is_empty()
    }
}

/// What a publication's text says, wherever it stands in it.
fn publication(text: &str) -> Option<Received> {
    let (_, rest) = text.split_once(r#""number":"#)?;
    let (number, rest) = rest.split_once(r#","channel":"#)?;
    let (channel, rest) = rest.split_once(r#","p":""#)?;
    let (padding, _) = rest.split_once('"')?;
    Some(Received {
        number: number.parse().ok()?,
        channel: channel.parse().ok()?,
        padding_bytes: padding.len(),
    })
}

/// Opcode and payload range of the frame at the start of `bytes`, if it is whole.
pub(crate) fn whole_frame(bytes: &[u8]) -> Option<(u8, std::ops::Range<usize>)> {
    let [first, second, ..] = *bytes else {
        return None;
    };
    assert_eq!(
        first & 0xb0,
        0x80,
        "the server sends whole frames, and nothing that is not defined"
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
    (bytes.len() >= start + length).then_some((first & 0x4f, start..start + length))
}
