//! What is said on the channels that are recovered, and whether it is what was published.

use crate::{
    dialect::{Dialect, shorten},
    frames::{TEXT, encode_client},
};
use serde_json::{Value, json};

/// Length of a position in the gateway dialect, bytes.
const POSITION_BYTES: usize = 22;
const AFTER_POSITION: &str = r#"","data":""#;
const END: &str = r#""}"#;
/// `s`, 8 hexadecimal digits.
const SEQUENCE_BYTES: usize = 9;

/// Where a client has stopped.
pub(super) type Position = [u8; POSITION_BYTES];

/// The publications of all channels: number `n` has the same data on each.
#[derive(Debug)]
pub(super) struct Messages {
    /// What stands before the position, by channel.
    fronts: Vec<String>,
    /// The data, by sequence number.
    data: Vec<String>,
}

/// What a client was told about its subscription.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subscribed {
    pub(super) position: Option<Position>,
    pub(super) recovered: Option<bool>,
}

/// What a message is.
#[derive(Debug)]
pub(super) enum Message {
    Subscribed(Subscribed),
    /// A publication with its sequence number and position.
    Delivery(u64, Position),
    /// A publication that is not as published, and which one it is, if that can be read.
    Altered(Option<u64>, String),
    Rejected(String),
    Other,
}

/// The name of a channel.
fn name(channel: u32) -> String {
    format!("recovery-{channel}")
}

impl Messages {
    /// So many publications, delivered in `bytes` bytes each (or the least possible number).
    pub(super) fn new(channels: u32, count: u32, bytes: usize) -> Self {
        let front = |channel| {
            let channel = name(channel);
            format!(r#"{{"type":"m","channel":"{channel}","position":""#)
        };
        let fronts: Vec<String> = (0..channels).map(front).collect();
        let longest = fronts.iter().map(String::len).max().unwrap_or_default();
        let least = longest + POSITION_BYTES + AFTER_POSITION.len() + SEQUENCE_BYTES + END.len();
        let padding = "x".repeat(bytes.saturating_sub(least));
        let data = (0..count).map(|sequence| format!("s{sequence:08x}{padding}"));
        Self {
            fronts,
            data: data.collect(),
        }
    }

    /// Appends the frame that publishes number `sequence` on a channel.
    pub(super) fn publish(&self, sequence: u32, channel: u32, out: &mut Vec<u8>) {
        let (channel, data) = (name(channel), &self.data[sequence as usize]);
        let text = format!(
            r#"{{"type":"publish","data":{{"channel":"{channel}","type":"m","data":"{data}"}}}}"#
        );
        encode_client(TEXT, text.as_bytes(), out);
    }

    /// Appends the frame that subscribes to a channel, and recovers it from a position.
    pub(super) fn subscribe(channel: u32, recover: Option<&Position>, out: &mut Vec<u8>) {
        let text = match recover {
            None => Dialect::Gateway.subscribe_to(&name(channel)),
            Some(position) => {
                let position = String::from_utf8_lossy(position);
                let data = json!({"channel": name(channel), "recover": position});
                json!({"type": "subscribe", "data": data}).to_string()
            }
        };
        encode_client(TEXT, text.as_bytes(), out);
    }

    /// Reads what a subscriber of this channel receives.
    pub(super) fn read(&self, channel: u32, message: &[u8]) -> Message {
        match message.strip_prefix(self.fronts[channel as usize].as_bytes()) {
            Some(rest) => self.read_delivery(rest).unwrap_or_else(|| {
                let sequence = self.sequence_of(rest);
                Message::Altered(sequence.map(u64::from), shorten(message))
            }),
            None => read_other(message),
        }
    }

    fn read_delivery(&self, rest: &[u8]) -> Option<Message> {
        let sequence = self.sequence_of(rest)?;
        let (position, rest) = rest.split_first_chunk()?;
        let data = rest.strip_prefix(AFTER_POSITION.as_bytes())?;
        let data = data.strip_suffix(END.as_bytes())?;
        let is_right = data == self.data[sequence as usize].as_bytes();
        is_right.then_some(Message::Delivery(sequence.into(), *position))
    }

    /// Which publication it says that it is, from what follows the front.
    fn sequence_of(&self, rest: &[u8]) -> Option<u32> {
        let data = rest.get(POSITION_BYTES + AFTER_POSITION.len()..)?;
        let digits = std::str::from_utf8(data.get(1..SEQUENCE_BYTES)?).ok()?;
        let sequence = u32::from_str_radix(digits, 16).ok()?;
        ((sequence as usize) < self.data.len()).then_some(sequence)
    }
}

fn read_other(message: &[u8]) -> Message {
    let Ok(json) = serde_json::from_slice::<Value>(message) else {
        return Message::Rejected(shorten(message));
    };
    match json["type"].as_str().unwrap_or_default() {
        "subscribed" => {
            let position = json["data"]["position"].as_str().unwrap_or_default();
            Message::Subscribed(Subscribed {
                position: position.as_bytes().try_into().ok(),
                recovered: json["data"]["recovered"].as_bool(),
            })
        }
        "m" => Message::Altered(None, shorten(message)),
        kind if kind.contains("error") => Message::Rejected(shorten(message)),
        _ => Message::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_known_by_its_channel_and_data_and_altered_otherwise() {
        let messages = Messages::new(2, 3, 128);
        let data = &messages.data[2];
        let delivery = format!(
            r#"{{"type":"m","channel":"recovery-1","position":"00000001-0000000000002","data":"{data}"}}"#
        );
        assert_eq!(delivery.len(), 128);
        let read = |channel, text: &str| messages.read(channel, text.as_bytes());
        let position = *b"00000001-0000000000002";
        assert!(
            matches!(read(1, &delivery), Message::Delivery(2, its) if its == position),
            "{delivery}"
        );
        assert!(matches!(read(0, &delivery), Message::Altered(..)));
        for (from, to) in [("xx", "xy"), ("s00000002", "s00000003"), ("}", "")] {
            let altered = delivery.replacen(from, to, 1);
            assert!(
                matches!(read(1, &altered), Message::Altered(..)),
                "{altered}"
            );
        }
    }

    #[test]
    fn a_subscription_gives_the_position_and_whether_it_was_recovered() {
        let text = br#"{"type":"subscribed","data":{"channel":"recovery-0","position":"00000001-0000000000002","recovered":false}}"#;
        let Message::Subscribed(told) = Messages::new(1, 1, 0).read(0, text) else {
            panic!("not read as a subscription");
        };
        assert_eq!(told.position, Some(*b"00000001-0000000000002"));
        assert_eq!(told.recovered, Some(false));
    }
}
