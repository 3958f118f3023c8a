//! Do the inputs that fuzzing has found still do no harm?
//!
//! `fuzz/corpora` has some for each target, one in each line, in base64; `fuzz/run.sh` begins with them. What
//! a target checks is in `fuzz/src`.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may panic like the test itself"
)]

// The same code as in the targets, where not all of it is for one target.
#[allow(
    dead_code,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "it is linted by nobody there"
)]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use fanwire::DialectId;
use std::fs;
use std::path::Path;

/// Calls `target` with each of its inputs.
fn replay(name: &str, target: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpora");
    let corpus = fs::read_to_string(folder.join(format!("{name}.txt"))).unwrap();
    let mut count = 0;
    for line in corpus.lines() {
        // A failure is replayed with this input.
        println!("{name}: {line}");
        target(&BASE64.decode(line).unwrap());
        count += 1;
    }
    assert!(count >= 10, "{count} inputs of {name}");
}

#[test]
fn the_decoder_decodes_them() {
    replay("decoder", targets::decoder::decode);
}

#[test]
fn messages_are_inflated_and_deflated() {
    replay("deflate", targets::deflate::deflate);
}

#[test]
fn request_heads_are_answered() {
    replay("head", targets::head::request);
}

#[test]
fn request_heads_of_proxies_are_answered() {
    replay("proxy", targets::head::request_of_proxy);
}

#[test]
fn connections_with_tls_say_what_arrives() {
    replay("tls", targets::tls::talk);
}

#[test]
fn publications_arrive() {
    replay("records", targets::records::publish);
}

#[test]
fn settings_are_read_or_rejected() {
    replay("settings", targets::settings::read);
}

#[test]
fn each_dialect_is_spoken() {
    for dialect in DialectId::ALL {
        replay(dialect.name(), |input| targets::play(dialect, input));
    }
}
