//! How much memory do hostile messages take? Counted by the allocator, so no test depends on time.

#[path = "../../benches/support/mod.rs"]
mod support;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};
use support::{NOW, connect, connect_at, flush, masked, shard};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for the whole process, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
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

#[test]
fn a_message_is_read_without_memory_for_what_is_in_it() {
    let _alone = alone();
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

#[test]
fn a_publication_to_a_channel_with_filters_takes_a_small_multiple_of_its_bytes() {
    let _alone = alone();
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
