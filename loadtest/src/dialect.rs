//! What is said inside the frames: fanwire's gateway dialect, or the verbatim one that peers speak.

use clap::ValueEnum;
use serde_json::Value;

/// Language of the server under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dialect {
    /// fanwire's gateway dialect: JSON messages with a type and data
    Gateway,
    /// for peers: SUB is answered by OK, ECHO… is sent back, any other text goes to all subscribers
    /// as it is
    Verbatim,
}

/// What a message of the server means to someone who waits for an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The awaited one.
    Awaited,
    /// Something else, to be skipped: a greeting, a presence notice.
    Other,
    /// The server refuses; its own words.
    Refused(String),
}

/// What is waited for while a connection is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// Confirmation of the token.
    Authenticated,
    /// Confirmation of the subscription.
    Subscribed,
}

const GATEWAY_DELIVERY: (&str, &str) = (r#"{"type":"m","channel":"bench","data":""#, r#""}"#);
const GATEWAY_PUBLISH: (&str, &str) = (
    r#"{"type":"publish","data":{"channel":"bench","type":"m","data":""#,
    r#""}}"#,
);
/// `s`, 8 hexadecimal digits, `t`, 14 hexadecimal digits.
const STAMP_BYTES: usize = 24;

impl Dialect {
    /// The subscription request.
    pub(crate) fn subscribe(self) -> &'static str {
        match self {
            Self::Gateway => r#"{"type":"subscribe","data":{"channel":"bench"}}"#,
            Self::Verbatim => "SUB",
        }
    }

    /// The request that `echo` repeats.
    pub(crate) fn request(self) -> &'static str {
        match self {
            Self::Gateway => r#"{"type":"ping"}"#,
            Self::Verbatim => "ECHO 0123456789abcdef",
        }
    }

    /// Whether a message answers [`Dialect::request`].
    pub(crate) fn answers_request(self, message: &[u8]) -> bool {
        match self {
            Self::Gateway => {
                const PONG: &[u8] = br#""type":"pong""#;
                message.windows(PONG.len()).any(|window| window == PONG)
            }
            Self::Verbatim => message == self.request().as_bytes(),
        }
    }

    /// The first message of a connection that has to prove who it is.
    pub(crate) fn authenticate(token: &str) -> String {
        serde_json::json!({"type": "auth", "data": {"token": token}}).to_string()
    }

    /// Reads one message of the server during set-up.
    pub(crate) fn judge(self, awaited: Awaited, message: &[u8]) -> Reply {
        if self == Self::Verbatim {
            return if message == b"OK" {
                Reply::Awaited
            } else {
                Reply::Other
            };
        }
        let Ok(json) = serde_json::from_slice::<Value>(message) else {
            return Reply::Refused(format!("a message that is not JSON: {}", shorten(message)));
        };
        let kind = json["type"].as_str().unwrap_or_default();
        match awaited {
            Awaited::Authenticated if kind == "auth_success" => Reply::Awaited,
            Awaited::Subscribed if kind == "subscribed" && json["data"]["channel"] == "bench" => {
                Reply::Awaited
            }
            _ if kind.contains("error") => Reply::Refused(shorten(message)),
            _ => Reply::Other,
        }
    }

    /// Least payload bytes of a delivery in this dialect.
    pub(crate) fn delivery_bytes_min(self) -> usize {
        self.wrapping(GATEWAY_DELIVERY).0.len()
            + STAMP_BYTES
            + self.wrapping(GATEWAY_DELIVERY).1.len()
    }

    /// What the publisher sends so that subscribers get [`Dialect::delivery`] with the same
    /// arguments.
    pub(crate) fn publication(
        self,
        sequence: u64,
        sent_ns: u64,
        delivery_bytes: usize,
        out: &mut Vec<u8>,
    ) {
        self.write(GATEWAY_PUBLISH, sequence, sent_ns, delivery_bytes, out);
    }

    /// Exactly what each subscriber must get: `delivery_bytes` bytes with sequence number and time
    /// of sending.
    pub(crate) fn delivery(
        self,
        sequence: u64,
        sent_ns: u64,
        delivery_bytes: usize,
        out: &mut Vec<u8>,
    ) {
        self.write(GATEWAY_DELIVERY, sequence, sent_ns, delivery_bytes, out);
    }

    fn wrapping(self, gateway: (&'static str, &'static str)) -> (&'static str, &'static str) {
        match self {
            Self::Gateway => gateway,
            Self::Verbatim => ("", ""),
        }
    }

    fn write(
        self,
        gateway: (&'static str, &'static str),
        sequence: u64,
        sent_ns: u64,
        delivery_bytes: usize,
        out: &mut Vec<u8>,
    ) {
        let (before, after) = self.wrapping(gateway);
        out.extend_from_slice(before.as_bytes());
        out.push(b's');
        write_hexadecimal(sequence, 8, out);
        out.push(b't');
        write_hexadecimal(sent_ns, 14, out);
        let padding = delivery_bytes.saturating_sub(self.delivery_bytes_min());
        out.extend((b'a'..=b'z').cycle().take(padding));
        out.extend_from_slice(after.as_bytes());
    }
}

/// Sequence number and time of sending, found wherever they stand in a message.
pub(crate) fn find_stamp(message: &[u8]) -> Option<(u64, u64)> {
    message.windows(STAMP_BYTES).find_map(|window| {
        if window[0] != b's' || window[9] != b't' {
            return None;
        }
        Some((
            read_hexadecimal(&window[1..9])?,
            read_hexadecimal(&window[10..])?,
        ))
    })
}

/// The front of a message, for an error text.
pub(crate) fn shorten(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let mut short: String = text.chars().take(160).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn write_hexadecimal(value: u64, digit_count: u32, out: &mut Vec<u8>) {
    out.extend(
        (0..digit_count)
            .rev()
            .map(|digit| b"0123456789abcdef"[(value >> (4 * digit) & 15) as usize]),
    );
}

fn read_hexadecimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |sum, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_deliver_exactly_the_asked_bytes() {
        for dialect in [Dialect::Gateway, Dialect::Verbatim] {
            for bytes in [dialect.delivery_bytes_min(), 64, 128, 1000] {
                let (mut delivery, mut publication) = (Vec::new(), Vec::new());
                dialect.delivery(7, 1_234_567, bytes, &mut delivery);
                dialect.publication(7, 1_234_567, bytes, &mut publication);
                assert_eq!(delivery.len(), bytes.max(dialect.delivery_bytes_min()));
                assert_eq!(find_stamp(&delivery), Some((7, 1_234_567)));
                assert_eq!(find_stamp(&publication), Some((7, 1_234_567)));
            }
        }
    }

    #[test]
    fn gateway_messages_are_the_documented_json() {
        let (mut delivery, mut publication) = (Vec::new(), Vec::new());
        Dialect::Gateway.delivery(1, 2, 71, &mut delivery);
        Dialect::Gateway.publication(1, 2, 71, &mut publication);
        let (delivery, publication): (Value, Value) = (
            serde_json::from_slice(&delivery).unwrap(),
            serde_json::from_slice(&publication).unwrap(),
        );
        assert_eq!(delivery["data"], "s00000001t00000000000002abcdefg");
        assert_eq!(publication["data"]["data"], delivery["data"]);
        assert_eq!(publication["data"]["channel"], "bench");
    }

    #[test]
    fn replies_are_told_apart() {
        let judge = |awaited, text: &str| Dialect::Gateway.judge(awaited, text.as_bytes());
        let subscribed = r#"{"type":"subscribed","data":{"channel":"bench"}}"#;
        assert_eq!(judge(Awaited::Subscribed, subscribed), Reply::Awaited);
        assert_eq!(judge(Awaited::Authenticated, subscribed), Reply::Other);
        assert_eq!(
            judge(Awaited::Subscribed, r#"{"type":"welcome"}"#),
            Reply::Other
        );
        let refusal = r#"{"type":"auth_error","data":{"message":"expired"}}"#;
        assert_eq!(
            judge(Awaited::Authenticated, refusal),
            Reply::Refused(refusal.to_owned())
        );
        assert!(matches!(
            judge(Awaited::Subscribed, "oops"),
            Reply::Refused(_)
        ));
        assert_eq!(
            Dialect::Verbatim.judge(Awaited::Subscribed, b"OK"),
            Reply::Awaited
        );
    }

    #[test]
    fn only_a_pong_or_the_echo_answers_the_request() {
        assert!(Dialect::Gateway.answers_request(br#"{"type":"pong","data":{}}"#));
        assert!(!Dialect::Gateway.answers_request(br#"{"type":"ping"}"#));
        assert!(Dialect::Verbatim.answers_request(b"ECHO 0123456789abcdef"));
        assert!(!Dialect::Verbatim.answers_request(b"ECHO"));
    }

    #[test]
    fn a_message_without_stamp_has_none() {
        assert_eq!(find_stamp(b"s0000000gt00000000000000"), None);
        assert_eq!(find_stamp(b""), None);
    }
}
