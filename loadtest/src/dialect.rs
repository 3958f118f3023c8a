//! What is said inside the frames: two of fanwire's dialects, and the verbatim one that peers speak.

use crate::placeholders::{ID_BYTES, Placeholders, SubscriptionId};
use clap::ValueEnum;
use serde_json::Value;

/// Language of the server under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dialect {
    /// fanwire's gateway dialect: JSON messages with a type and data
    Gateway,
    /// fanwire's analytics dialect: each subscriber finds the id of its subscription in each message;
    /// the publisher is a gateway session at /ws
    Analytics,
    /// for peers: SUB is answered by OK, ECHO… is sent back, any other text goes to all subscribers
    /// as it is
    Verbatim,
}

/// What a message of the server means to someone who waits for an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The awaited one, and the id that the server gave.
    Awaited(Option<SubscriptionId>),
    /// Something else, to be skipped: a greeting, a presence notice.
    Other,
    /// The server rejects; its own words.
    Rejected(String),
}

/// What is waited for while a connection is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// Confirmation of the token.
    Authenticated,
    /// Confirmation of the subscription.
    Subscribed,
    /// The answer to [`Dialect::request`].
    Answer,
}

/// Sixteen letters without any order, which compress about as well as JSON does: to a half.
const PADDING: [u8; 8_192] = {
    let mut padding = [0; 8_192];
    let (mut state, mut at) = (1_u64, 0);
    while at < padding.len() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        padding[at] = b"abcdefghijklmnoz"[(state >> 60) as usize];
        at += 1;
    }
    padding
};

/// What stands before and after the stamp and its padding.
type Wrapping = (&'static str, &'static str);

const GATEWAY_DELIVERY: Wrapping = (r#"{"type":"m","channel":"bench","data":""#, r#""}"#);
const GATEWAY_PUBLISH: Wrapping = (
    r#"{"type":"publish","data":{"channel":"bench","type":"m","data":""#,
    r#""}}"#,
);
const ANALYTICS_DELIVERY: Wrapping = (
    r#"{"type":"data","data":{"event":{"for":"all","text":""#,
    concat!(
        r#""},"subscription_type":"events"},"subscription_id":"____________________","#,
        r#""timestamp":"____-__-__T__:__:__.___Z"}"#
    ),
);
const ANALYTICS_PUBLISH: Wrapping = (
    r#"{"type":"publish","data":{"channel":"stream:events","type":"m","data":{"for":"all","text":""#,
    r#""}}}"#,
);
const VERBATIM: Wrapping = ("", "");
/// `s`, 8 hexadecimal digits, `t`, 14 hexadecimal digits.
const STAMP_BYTES: usize = 24;

impl Dialect {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Analytics => "analytics",
            Self::Verbatim => "verbatim",
        }
    }

    /// What the publisher speaks, and at which path if not at the subscribers'.
    pub(crate) fn publisher(self) -> (Self, Option<&'static str>) {
        match self {
            Self::Analytics => (Self::Gateway, Some("/ws")),
            other => (other, None),
        }
    }

    /// The subscription request; only analytics subscribers have a filter. Every filter matches
    /// every publication, and each number's is another one.
    pub(crate) fn subscribe(self, filter: Option<u32>) -> String {
        match (self, filter) {
            (Self::Gateway, _) => r#"{"type":"subscribe","data":{"channel":"bench"}}"#.to_owned(),
            (Self::Analytics, None) => {
                r#"{"type":"subscribe","data":{"type":"events"}}"#.to_owned()
            }
            (Self::Analytics, Some(number)) => format!(
                r#"{{"type":"subscribe","data":{{"type":"events","filters":{{"for":["all","{number}"]}}}}}}"#
            ),
            (Self::Verbatim, _) => "SUB".to_owned(),
        }
    }

    /// A subscription of another channel; the verbatim dialect has only one.
    pub(crate) fn subscribe_to(self, channel: &str) -> String {
        match self {
            Self::Verbatim => "SUB".to_owned(),
            Self::Gateway | Self::Analytics => {
                format!(r#"{{"type":"subscribe","data":{{"channel":"{channel}"}}}}"#)
            }
        }
    }

    /// A publication of `bytes` bytes on a channel without subscribers; in the verbatim dialect
    /// nobody may have subscribed at all.
    pub(crate) fn unheard_publication(self, bytes: usize) -> String {
        let (before, after) = match self {
            Self::Verbatim => VERBATIM,
            Self::Gateway | Self::Analytics => (
                r#"{"type":"publish","data":{"channel":"nobody","type":"m","data":""#,
                r#""}}"#,
            ),
        };
        let padding = bytes.saturating_sub(before.len() + after.len());
        format!("{before}{}{after}", "x".repeat(padding))
    }

    /// The request that `echo` repeats.
    pub(crate) fn request(self) -> &'static str {
        match self {
            Self::Gateway | Self::Analytics => r#"{"type":"ping"}"#,
            Self::Verbatim => "ECHO 0123456789abcdef",
        }
    }

    /// Whether a message answers [`Dialect::request`].
    pub(crate) fn answers_request(self, message: &[u8]) -> bool {
        match self {
            Self::Gateway | Self::Analytics => {
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
    pub(crate) fn classify(self, awaited: Awaited, message: &[u8]) -> Reply {
        if self == Self::Verbatim {
            return if message == b"OK" {
                Reply::Awaited(None)
            } else {
                Reply::Other
            };
        }
        let Ok(json) = serde_json::from_slice::<Value>(message) else {
            return Reply::Rejected(format!("a message that is not JSON: {}", shorten(message)));
        };
        let kind = json["type"].as_str().unwrap_or_default();
        match awaited {
            Awaited::Answer if self.answers_request(message) => Reply::Awaited(None),
            Awaited::Authenticated if kind == "auth_success" => Reply::Awaited(None),
            Awaited::Subscribed if kind == "subscribed" && self == Self::Analytics => {
                let id = json["subscription_id"].as_str().unwrap_or_default();
                match id.as_bytes().try_into() {
                    Ok(id) => Reply::Awaited(Some(id)),
                    Err(_) => Reply::Rejected(format!("`{id}` is no id of {ID_BYTES} bytes")),
                }
            }
            Awaited::Subscribed if kind == "subscribed" && json["data"]["channel"] == "bench" => {
                Reply::Awaited(None)
            }
            _ if kind.contains("error") => Reply::Rejected(shorten(message)),
            _ => Reply::Other,
        }
    }

    /// Whether a message, parsed as JSON, carries a publication.
    pub(crate) fn is_delivery(self, json: &Value) -> bool {
        match self {
            Self::Gateway => json["type"] == "m" && json["channel"] == "bench",
            Self::Analytics => json["type"] == "data",
            Self::Verbatim => true,
        }
    }

    /// What the server writes into a delivery by itself.
    pub(crate) fn placeholders(self) -> Option<Placeholders> {
        let (_, after) = self.delivery_wrapping();
        Placeholders::of(after)
    }

    /// Least payload bytes of a delivery in this dialect.
    pub(crate) fn delivery_bytes_min(self) -> usize {
        let (before, after) = self.delivery_wrapping();
        before.len() + STAMP_BYTES + after.len()
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
        let wrapping = match self {
            Self::Gateway => GATEWAY_PUBLISH,
            Self::Analytics => ANALYTICS_PUBLISH,
            Self::Verbatim => VERBATIM,
        };
        self.write(wrapping, sequence, sent_ns, delivery_bytes, out);
    }

    /// What each subscriber must get, exactly but for [`Dialect::placeholders`]: `delivery_bytes` bytes
    /// with sequence number and time of sending.
    pub(crate) fn delivery(
        self,
        sequence: u64,
        sent_ns: u64,
        delivery_bytes: usize,
        out: &mut Vec<u8>,
    ) {
        self.write(
            self.delivery_wrapping(),
            sequence,
            sent_ns,
            delivery_bytes,
            out,
        );
    }

    fn delivery_wrapping(self) -> Wrapping {
        match self {
            Self::Gateway => GATEWAY_DELIVERY,
            Self::Analytics => ANALYTICS_DELIVERY,
            Self::Verbatim => VERBATIM,
        }
    }

    fn write(
        self,
        (before, after): Wrapping,
        sequence: u64,
        sent_ns: u64,
        delivery_bytes: usize,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(before.as_bytes());
        out.push(b's');
        write_hexadecimal(sequence, 8, out);
        out.push(b't');
        write_hexadecimal(sent_ns, 14, out);
        let padding = delivery_bytes.saturating_sub(self.delivery_bytes_min());
        out.extend(PADDING.iter().cycle().take(padding));
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

/// Where a message differs from what it should be, for an error text.
pub(crate) fn difference(message: &[u8], expected: &[u8]) -> String {
    /// Bytes shown before the first difference.
    const BEFORE: usize = 40;
    let mut pairs = message.iter().zip(expected);
    let at = pairs.position(|(byte, wanted)| byte != wanted);
    let at = at.unwrap_or(message.len().min(expected.len()));
    let from = at.saturating_sub(BEFORE);
    format!(
        "at byte {at} got {} instead of {}",
        shorten(&message[from..]),
        shorten(&expected[from..])
    )
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
    fn all_dialects_deliver_exactly_the_asked_bytes() {
        for dialect in [Dialect::Gateway, Dialect::Analytics, Dialect::Verbatim] {
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
        let padding = str::from_utf8(&PADDING[..7]).unwrap();
        let expected = format!("s00000001t00000000000002{padding}");
        assert_eq!(delivery["data"], expected);
        assert_eq!(publication["data"]["data"], delivery["data"]);
        assert_eq!(publication["data"]["channel"], "bench");
    }

    #[test]
    fn analytics_messages_are_the_documented_json() {
        let (mut delivery, mut publication) = (Vec::new(), Vec::new());
        let least = Dialect::Analytics.delivery_bytes_min();
        Dialect::Analytics.delivery(1, 2, least + 3, &mut delivery);
        Dialect::Analytics.publication(1, 2, least + 3, &mut publication);
        let (delivery, publication): (Value, Value) = (
            serde_json::from_slice(&delivery).unwrap(),
            serde_json::from_slice(&publication).unwrap(),
        );
        let event = &delivery["data"]["event"];
        let padding = str::from_utf8(&PADDING[..3]).unwrap();
        let expected = format!("s00000001t00000000000002{padding}");
        assert_eq!(event["text"], expected);
        assert_eq!(&publication["data"]["data"], event);
        assert_eq!(publication["data"]["channel"], "stream:events");
        assert_eq!(delivery["data"]["subscription_type"], "events");
        assert_eq!(delivery["subscription_id"], "_".repeat(ID_BYTES));
        assert!(Dialect::Analytics.placeholders().is_some());
        assert_eq!(Dialect::Gateway.placeholders(), None);
    }

    #[test]
    fn filters_differ_and_match_what_is_published() {
        let filter = |number| {
            let request = Dialect::Analytics.subscribe(Some(number));
            let json: Value = serde_json::from_str(&request).unwrap();
            json["data"]["filters"].clone()
        };
        assert_ne!(filter(1), filter(2));
        assert_eq!(filter(1)["for"][0], "all");
    }

    #[test]
    fn an_analytics_subscription_is_confirmed_with_its_id() {
        let classify =
            |text: &str| Dialect::Analytics.classify(Awaited::Subscribed, text.as_bytes());
        let confirmed = r#"{"type":"subscribed","subscription_id":"sub_0000000000000001"}"#;
        let id = *b"sub_0000000000000001";
        assert_eq!(classify(confirmed), Reply::Awaited(Some(id)));
        let odd = r#"{"type":"subscribed","subscription_id":"1"}"#;
        assert!(matches!(classify(odd), Reply::Rejected(_)));
    }

    #[test]
    fn a_difference_is_shown_where_it_begins() {
        let words = difference(b"abcX", b"abcd");
        assert_eq!(words, "at byte 3 got abcX instead of abcd");
        assert!(difference(b"ab", b"abc").starts_with("at byte 2 got ab "));
    }

    #[test]
    fn replies_are_told_apart() {
        let classify = |awaited, text: &str| Dialect::Gateway.classify(awaited, text.as_bytes());
        let subscribed = r#"{"type":"subscribed","data":{"channel":"bench"}}"#;
        assert_eq!(
            classify(Awaited::Subscribed, subscribed),
            Reply::Awaited(None)
        );
        assert_eq!(classify(Awaited::Authenticated, subscribed), Reply::Other);
        assert_eq!(
            classify(Awaited::Subscribed, r#"{"type":"welcome"}"#),
            Reply::Other
        );
        let rejection = r#"{"type":"auth_error","data":{"message":"expired"}}"#;
        assert_eq!(
            classify(Awaited::Authenticated, rejection),
            Reply::Rejected(rejection.to_owned())
        );
        assert!(matches!(
            classify(Awaited::Subscribed, "oops"),
            Reply::Rejected(_)
        ));
        assert_eq!(
            Dialect::Verbatim.classify(Awaited::Subscribed, b"OK"),
            Reply::Awaited(None)
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
