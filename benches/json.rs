//! What does a byte of a message cost a shard, whatever is in it?
//!
//! Prints nanoseconds per byte; with `cargo bench` for messages of 1 MB, in tests for small ones.
//! A shard may spend 5 µs and 5 ns per byte.

mod support;

use fanwire::json::{self, Document};
use std::hint::black_box;
use std::time::Instant;
use support::{NOW, connect, connect_at, flush, masked, shard};

const RUNS: usize = 20;

/// Hostile and ordinary data of about `bytes` bytes.
fn cases(bytes: usize) -> Vec<(&'static str, String)> {
    let repeat = |text: &str| text.repeat(bytes / text.len());
    let list = |element: &str| {
        let elements = repeat(&format!("{element},"));
        format!("[{}]", elements.trim_end_matches(','))
    };
    let members = |member: &str| {
        let members = repeat(&format!("{member},"));
        format!("{{{}}}", members.trim_end_matches(','))
    };
    let decimal = format!("0.{}", "1234567890".repeat(28));
    let nested = format!("{}{}", "[".repeat(60), "]".repeat(60));
    vec![
        ("decimals of 280 digits", list(&decimal)),
        ("0,0,...", list("0")),
        ("1e400", list("1e400")),
        ("[[[[ beyond the limit", "[".repeat(bytes)),
        ("[[[[ within the limit", list(&nested)),
        ("[],[],...", list("[]")),
        ("short names", members(r#""":0"#)),
        ("short names of filters", members(r#""a":0"#)),
        ("short names of no filter", members(r#""b":0"#)),
        ("short escaped names", members(r#""\u0061":0"#)),
        ("one name repeated", members(r#""channel":0"#)),
        ("one name of a filter", members(r#""user_id":"x""#)),
        ("names like one of a filter", like_user_id(bytes)),
        ("escaped names", members(r#""\u0063hannel":0"#)),
        ("objects with paths", members(r#""a":{}"#)),
        ("objects around paths", members(r#""a":{"b":1}"#)),
        (
            "objects in objects with paths",
            format!("{}{}{}", r#"{"l":"#.repeat(14), list("{}"), "}".repeat(14)),
        ),
        ("escapes", format!("\"{}\"", repeat(r"\n"))),
        (
            "escapes of surrogates",
            format!("\"{}\"", repeat(r"\ud83d\ude00")),
        ),
        ("a long string", format!("\"{}\"", repeat("x"))),
        ("empty strings", list(r#""""#)),
        ("short strings", list(r#""abc""#)),
        ("spaces", format!("{}0", repeat(" "))),
        ("one number", repeat("1")),
        (
            "events",
            list(
                r#"{"event_id":"6b0f3f0e","type":"user_action","duration":1.25,"tags":["a","b"]}"#,
            ),
        ),
    ]
}

/// Names that differ from a name of a filter in one byte.
fn like_user_id(bytes: usize) -> String {
    let names = (b'a'..=b'z').map(|letter| format!(r#""user_{}d":0,"#, char::from(letter)));
    let names: String = names.collect();
    let members = names.repeat(bytes / names.len());
    format!("{{{}}}", members.trim_end_matches(','))
}

/// Nanoseconds per byte of the fastest of some runs.
fn measure(bytes: usize, mut run: impl FnMut()) -> f64 {
    let runs = (0..RUNS).map(|_| {
        #[expect(clippy::disallowed_methods, reason = "a bench measures time")]
        let start = Instant::now();
        run();
        start.elapsed().as_nanos()
    });
    let fastest = runs.min().expect("there are some runs");
    fastest as f64 / bytes as f64
}

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let bytes = if is_bench { 1_000_000 } else { 1_000 };
    let mut shard = shard();
    let gateway = connect(&mut shard);
    let analytics = connect_at(&mut shard, "/analytics");
    let deep = ["l"; 15].join(".");
    for filter in [
        r#"{"a.b":[1,"x",[0]]}"#,
        r#"{"user_id":"user1"}"#,
        r#"{"event_type":["login","logout"],"source":"web"}"#,
        &format!(r#"{{"{deep}":1}}"#),
    ] {
        let subscribe =
            format!(r#"{{"type":"subscribe","data":{{"type":"events","filters":{filter}}}}}"#);
        shard.receive(analytics, &mut masked(&subscribe), NOW);
    }
    flush(&mut shard);
    println!(
        "ns per byte of {bytes}: check, fields, all of a publication to a channel with filters"
    );
    for (name, data) in cases(bytes) {
        let text = format!(
            r#"{{"type":"publish","data":{{"channel":"stream:events","type":"m","data":{data}}}}}"#
        );
        let check = measure(text.len(), || {
            let _ = black_box(json::check(black_box(&text)));
        });
        let fields = measure(text.len(), || {
            let document = Document::new(black_box(&text));
            let object = document.object().expect("the text begins as an object");
            let [kind, body] = object.fields(["type", "data"]);
            let body = body.and_then(|body| body.object());
            let channel = body.map(|body| body.fields(["type", "data", "channel"]));
            black_box((kind, channel));
        });
        let message = masked(&text);
        let mut copies: Vec<_> = (0..RUNS).map(|_| message.clone()).collect();
        let all = measure(text.len(), || {
            let mut copy = copies.pop().expect("one for each run");
            shard.receive(gateway, &mut copy, NOW);
            while shard.is_congested() || shard.has_unread() {
                shard.retry_unsent(NOW);
                shard.drain_ring(NOW);
                flush(&mut shard);
            }
        });
        println!("{name:28} {check:6.2} {fields:6.2} {all:6.2}");
    }
}
