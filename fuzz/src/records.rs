//! Publications through the ring: one record or several, in each form that a subscriber receives.
//!
//! The first byte of an input says what is published (bit 0: binary or JSON), for whom (bits 1 to 3) and how
//! large it is (bits 4 to 7: so many times the rest, and more than a record holds); the rest is the data. Those
//! for whom it is must receive just these data, and nobody else anything.

use super::{CHECKED, Fixture, POSITION_BYTES};
use fanwire::base::DialectId;
use fanwire::broker::{BroadcastTarget, Data, Publication};
use fanwire::shard::Publisher;
use serde_json::Value;
use std::sync::Arc;

const CHANNEL: &str = "a channel \u{e9}";
/// Times the data, for the largest ones.
const REPEATED: usize = 60;

/// Publishes what the input says.
pub fn publish(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let payload = match first >> 4 {
        0 => rest.to_vec(),
        count @ 1..=12 => rest.repeat(usize::from(count)),
        _ => rest.repeat(REPEATED),
    };
    let mut fixture = Fixture::new(DialectId::Gateway);
    // Of two users; the second one takes binary messages.
    for (client, binary) in [(0, ""), (1, r#","binary":true"#)] {
        fixture.connect(
            client,
            CHECKED,
            &format!("?token=user{client}/role{client}/publish/"),
        );
        let subscribe =
            format!(r#"{{"type":"subscribe","data":{{"channel":"{CHANNEL}"{binary}}}}}"#);
        fixture.say(client, 1, subscribe.as_bytes());
    }
    let text = String::from_utf8_lossy(&payload);
    let json = Value::from(&*text).to_string();
    let is_binary = first & 1 != 0;
    let target = match first >> 1 & 7 {
        0 => BroadcastTarget::User("user1"),
        1 => BroadcastTarget::Role("role0"),
        2 => BroadcastTarget::Permission("publish"),
        3 => BroadcastTarget::User("nobody"),
        _ => BroadcastTarget::All,
    };
    let are_meant = match target {
        BroadcastTarget::User("user1") => [false, true],
        BroadcastTarget::Role(_) => [true, false],
        BroadcastTarget::User(_) => [false, false],
        _ => [true, true],
    };
    let publication = Publication {
        target,
        data: match is_binary {
            true => Data::Binary(&payload),
            false => Data::Json(&json),
        },
        ..Publication::new(CHANNEL, "kind", "")
    };
    let (process_state, counters) = (Arc::clone(&fixture.process_state), Arc::default());
    let publisher = Publisher::new(&fixture.ring, process_state, counters, |_, _| {});
    let published = publisher.publish(&publication, fixture.now);
    published.expect("the ring is empty, and the names are right");
    // What is larger than the ring is written as it is read.
    while !publisher.retry(fixture.now) {
        fixture.deliver_all();
    }
    fixture.deliver_all();
    for (client, is_meant) in are_meant.into_iter().enumerate() {
        let client = fixture.clients[client].as_ref().expect("it stays");
        let (was_binary, received) = &client.last;
        if is_binary {
            let takes = is_meant && client.id.slot() == fixture.slot(1);
            assert_eq!(*was_binary, takes);
            assert!(!takes || received.ends_with(&payload), "another payload");
            let length = 4 + CHANNEL.len() + payload.len();
            assert!(
                !takes || received.len() == length,
                "{POSITION_BYTES} bytes more or less"
            );
            continue;
        }
        let message: Value = serde_json::from_slice(received).expect("JSON");
        match is_meant {
            true => assert_eq!(message["data"], *text),
            false => assert_eq!(message["type"], "subscribed"),
        }
    }
    fixture.end();
}

impl Fixture {
    fn slot(&self, client: usize) -> u32 {
        self.clients[client].as_ref().expect("it stays").id.slot()
    }
}
