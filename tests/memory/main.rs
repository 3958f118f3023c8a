//! How much memory do hostile messages take? Counted by the allocator, so no test depends on time.

#[path = "../../benches/support/mod.rs"]
mod support;

use fanwire::base::limits::{FILTER_MEMORY_BYTES, FILTER_MEMORY_PER_TEXT_BYTE};
use fanwire::base::offline::OfflineUsers;
use fanwire::base::{History, HistoryLimits, HistoryRule, NameKey, Now, ProcessState};
use fanwire::broker::Publication;
use fanwire::broker::filters::{Filter, FilterIndex};
use fanwire::json::JsonReader;
use fanwire::shard::Publisher;
use fanwire_ring::{Ring, RingConfig};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::Arc;
use support::{NOW, connect, connect_at, flush, masked, shard};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for the whole process, its test harness included: so this is one test.
#[test]
fn messages_and_filters_take_bounded_memory() {
    a_message_is_read_without_memory_for_what_is_in_it();
    a_publication_to_a_channel_with_filters_takes_a_small_multiple_of_its_bytes();
    a_filter_takes_512_bytes_and_8_for_each_of_its_text();
    what_many_filters_needed_is_free_when_they_are_gone();
    a_publication_in_the_history_takes_its_bytes_and_64();
    what_many_histories_needed_is_free_when_they_are_too_old();
}

/// Bytes of the data of a hostile message.
const BYTES: usize = 200_000;

fn hostile() -> Vec<(&'static str, String)> {
    let repeat = |text: &str| text.repeat(BYTES / text.len());
    let list = |element: &str| {
        let elements = repeat(&format!("{element},"));
        format!("[{}]", elements.trim_end_matches(','))
    };
    let members = |member: &str| {
        format!(
            "{{{}}}",
            repeat(&format!("{member},")).trim_end_matches(',')
        )
    };
    vec![
        ("zeros", list("0")),
        ("decimals", list(&format!("0.{}", "1234567890".repeat(28)))),
        (
            "brackets",
            list(&format!("{}{}", "[".repeat(50), "]".repeat(50))),
        ),
        ("names", members(r#""":0"#)),
        ("one name", members(r#""a":{"b":0}"#)),
        ("escaped names", members(r#""\u0061":0"#)),
        ("escapes", format!("\"{}\"", repeat(r"\u0061"))),
        ("spaces", format!("{}0", repeat(" "))),
        ("number", repeat("1")),
    ]
}

fn a_message_is_read_without_memory_for_what_is_in_it() {
    let mut shard = shard();
    let id = connect(&mut shard);
    flush(&mut shard);
    for (name, data) in hostile() {
        let text = format!(r#"{{"x":{data},"type":"ping"}}"#);
        let mut message = masked(&text);
        let region = Region::new(ALLOCATOR);
        shard.receive(id, &mut message, NOW);
        let allocated = region.change().bytes_allocated;
        assert!(flush(&mut shard) < 100, "a pong, no error");
        assert!(allocated < 1_024, "{name}: {allocated} bytes");
    }
}

fn a_publication_to_a_channel_with_filters_takes_a_small_multiple_of_its_bytes() {
    let mut shard = shard();
    let publisher = connect(&mut shard);
    let subscriber = connect_at(&mut shard, "/analytics");
    let filter =
        r#"{"type":"subscribe","data":{"type":"events","filters":{"a.b":[1,"x",[0],{}],"":1}}}"#;
    shard.receive(subscriber, &mut masked(filter), NOW);
    flush(&mut shard);
    for (name, data) in hostile() {
        let text = format!(
            r#"{{"type":"publish","data":{{"channel":"stream:events","type":"m","data":{data}}}}}"#
        );
        let mut message = masked(&text);
        let region = Region::new(ALLOCATOR);
        shard.receive(publisher, &mut message, NOW);
        while shard.has_unread() {
            shard.drain_ring(NOW);
            flush(&mut shard);
        }
        // The message is encoded once, assembled from fragments once and copied to a run.
        let allocated = region.change().bytes_allocated;
        assert!(allocated < 8 * text.len(), "{name}: {allocated} bytes");
    }
}

/// The text of the filter of a number.
type Text = fn(usize) -> String;

/// Filters that differ by their number, of as little text as possible for what they contain.
fn filters() -> Vec<(&'static str, Text)> {
    fn list(count: usize, element: impl Fn(usize) -> String) -> String {
        (0..count).map(element).collect::<Vec<_>>().join(",")
    }
    vec![
        ("one value", |number| format!(r#"{{"a":{number}}}"#)),
        ("one path", |number| format!(r#"{{"p{number}":1}}"#)),
        ("256 numbers", |number| {
            let values = list(256, |value| (number * 256 + value).to_string());
            format!(r#"{{"a":[{values}]}}"#)
        }),
        ("256 common numbers", |number| {
            format!(
                r#"{{"a":[{},"{number}"]}}"#,
                list(255, |value| value.to_string())
            )
        }),
        ("32 paths", |number| {
            let keys = list(32, |key| format!(r#""{:x}":1"#, number * 32 + key));
            format!("{{{keys}}}")
        }),
        ("32 short paths", |number| {
            let names = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef".chars();
            let keys: Vec<_> = names.map(|name| format!(r#""{name}":{number}"#)).collect();
            format!("{{{}}}", keys.join(","))
        }),
        ("large texts", |number| {
            format!(r#"{{"a":"{}{number}"}}"#, "x".repeat(10_000))
        }),
        ("large numbers", |number| {
            let values = list(200, |value| format!("{}e19", number * 200 + value));
            format!(r#"{{"a":[{values}]}}"#)
        }),
        ("15 KiB", |number| {
            let keys = list(16, |key| {
                format!(
                    r#""{key}":[{}]"#,
                    list(200, |value| (number + value).to_string())
                )
            });
            format!("{{{keys}}}")
        }),
        ("nested paths", |number| {
            let keys = list(8, |key| format!(r#""first{key}.second{number}.third":1"#));
            format!("{{{keys}}}")
        }),
    ]
}

fn a_filter_takes_512_bytes_and_8_for_each_of_its_text() {
    let mut reader = JsonReader::default();
    for (name, text) in filters() {
        for count in [1, 2, 5, 17, 33, 130] {
            let (mut index, mut allowed) = (FilterIndex::default(), 0);
            let mut ids = Vec::with_capacity(count);
            // The memory that the reader keeps is not the filters'.
            drop(Filter::parse(&text(count), &mut reader));
            let region = Region::new(ALLOCATOR);
            for number in 0..count {
                let text = text(number);
                let filter = Filter::parse(&text, &mut reader);
                let filter = filter.expect(name).expect("it has keys");
                allowed += FILTER_MEMORY_BYTES + FILTER_MEMORY_PER_TEXT_BYTE * text.len();
                ids.push(index.insert(filter));
            }
            let change = region.change();
            let used = change.bytes_allocated - change.bytes_deallocated;
            assert!(
                used <= allowed,
                "{count} of {name}: {used} of {allowed} bytes"
            );
            for id in ids {
                index.remove(id);
            }
            let change = region.change();
            let left = change
                .bytes_allocated
                .saturating_sub(change.bytes_deallocated);
            assert!(left < 512, "{count} of {name}: {left} bytes are left");
        }
    }
}

fn what_many_filters_needed_is_free_when_they_are_gone() {
    let mut shard = shard();
    let publisher = connect(&mut shard);
    let analyst = connect_at(&mut shard, "/analytics");
    let subscribe = r#"{"type":"subscribe","data":{"channel":"news"}}"#;
    shard.receive(publisher, &mut masked(subscribe), NOW);
    flush(&mut shard);
    let mut say = |id, text: &str| {
        shard.receive(id, &mut masked(text), NOW);
        while shard.has_unread() {
            shard.drain_ring(NOW);
        }
        flush(&mut shard);
    };
    let mut visit = |filters: usize| {
        for number in 0..filters {
            let data = format!(
                r#"{{"type":"events","subscription_id":"s{number}","filters":{{"a":[{number},"all"]}}}}"#
            );
            say(analyst, &format!(r#"{{"type":"subscribe","data":{data}}}"#));
        }
        let publish = |channel| {
            format!(r#"{{"type":"publish","data":{{"channel":"{channel}","data":{{"a":"all"}}}}}}"#)
        };
        say(publisher, &publish("stream:events"));
        for number in 0..filters {
            let data = format!(r#"{{"subscription_id":"s{number}"}}"#);
            say(
                analyst,
                &format!(r#"{{"type":"unsubscribe","data":{data}}}"#),
            );
        }
        // What is needed no more is freed after some deliveries.
        for _ in 0..3_000 {
            say(publisher, &publish("news"));
        }
    };
    visit(1);
    let region = Region::new(ALLOCATOR);
    visit(1_000);
    let change = region.change();
    let left = change
        .bytes_allocated
        .saturating_sub(change.bytes_deallocated);
    // The lists of the session keep their length.
    assert!(left < 64 * 1_024, "{left} bytes");
}

const AGE_MS: u64 = 60_000;

/// A publisher on channels with a history of 1,000 publications.
fn history() -> (Publisher, Arc<ProcessState>) {
    let rule = HistoryRule {
        literal: "news:".into(),
        is_prefix: true,
        limits: HistoryLimits {
            messages_max: 1_000,
            bytes_max: 1 << 20,
            age_ms: AGE_MS,
        },
    };
    let history = History::new(1, vec![rule], 1, 1 << 32);
    let state = Arc::new(
        ProcessState::new(1, u64::MAX)
            .with_history(history, OfflineUsers::new(10, NameKey::random())),
    );
    let config = RingConfig {
        capacity_bytes: 1 << 20,
        readers_max: 1,
    };
    let ring = Ring::new(config).expect("a small ring");
    let publisher = Publisher::new(&ring, Arc::clone(&state), Arc::default(), |_, _| {});
    (publisher, state)
}

fn publish(publisher: &Publisher, channel: &str, data: &str) {
    let publication = Publication::new(channel, "m", data);
    let published = publisher.publish(&publication, NOW);
    published.expect("nobody reads the ring");
}

fn a_publication_in_the_history_takes_its_bytes_and_64() {
    // Many, so that what a channel takes for itself does not count.
    const MESSAGES: usize = 1_000;
    const CHANNELS: usize = 10;
    let (publisher, state) = history();
    let data = format!("\"{}\"", "x".repeat(198));
    let region = Region::new(ALLOCATOR);
    let mut text_bytes = 0;
    for channel in 0..CHANNELS {
        let channel = format!("news:{channel:03}");
        for _ in 0..MESSAGES {
            publish(&publisher, &channel, &data);
            text_bytes += channel.len() + 1 + data.len();
        }
    }
    let stats = region.change();
    let taken = stats.bytes_allocated - stats.bytes_deallocated;
    assert_eq!(state.history.stats().messages, (MESSAGES * CHANNELS) as u64);
    let overhead = (taken - text_bytes) as f64 / (MESSAGES * CHANNELS) as f64;
    println!("a publication in the history takes its text and {overhead:.1} bytes");
    assert!(overhead <= 64.0, "{overhead}");
}

fn what_many_histories_needed_is_free_when_they_are_too_old() {
    let (publisher, state) = history();
    let region = Region::new(ALLOCATOR);
    let taken = || {
        let stats = region.change();
        stats.bytes_allocated as i64 - stats.bytes_deallocated as i64
    };
    let mut most = 0;
    // A million channels in all.
    for round in 0..20 {
        for channel in 0..50_000 {
            publish(&publisher, &format!("news:{round}:{channel}"), "1");
        }
        most = most.max(taken());
        // Publishers of many channels cannot exceed `history_bytes_max` by what channels cost.
        let counted = state.history.stats().bytes as i64;
        assert!(taken() < counted * 5 / 4, "{} of {counted}", taken());
        let later = Now::at(NOW.monotonic_ms + AGE_MS + 1_000, NOW.unix_ms);
        for turn in 0..64 * 64 {
            state.history.sweep(turn, later.monotonic_ms);
        }
        assert_eq!(state.history.stats().channels, 0);
        let left = taken();
        println!("50,000 histories took at most {most} bytes; {left} are left");
        // What the last ones of them have lost.
        assert!(left < 4 << 20, "{left} of {most}");
    }
}
