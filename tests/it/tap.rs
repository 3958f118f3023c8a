//! Does `fanwire tap` see what is published, and does the server not notice?

use crate::harness::Client;
use crate::process::Process;
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

struct Tap {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tap {
    /// It must not miss what was published before: it begins with the oldest.
    fn start(server: &Process, arguments: &[&str]) -> Self {
        let mut child = command()
            .args(["tap", "--oldest", "--pid", &server.child.id().to_string()])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // Ends only what this test started.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server whose ring holds less than two of the longest messages.
fn with_small_ring(shards: &str) -> Process {
    let mut command = command();
    command.env("FANWIRE_RING_BYTES", "1MiB").args([
        "serve",
        "--dev",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "none",
        "--shards",
        shards,
    ]);
    Process::of(command, "token ")
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanwire"));
    command.env_clear();
    command
}

#[test]
fn what_is_published_is_seen_whoever_receives_it() {
    let server = with_small_ring("2");
    let mut tap = Tap::start(&server, &["news", "room:*", "long"]);
    let mut client = Client::subscribed(server.address, "news");
    client.publish("other", "0");
    client.publish("news", r#"{"a": [1.50]}"#);
    client.publish("room:a", "2");
    // Longer than a record of the ring.
    client.publish("long", &format!("\"{}\"", "x".repeat(1_000_000)));
    let seen = tap.next();
    assert_eq!(
        (&seen["channel"], &seen["type"]),
        (&"news".into(), &"m".into())
    );
    assert_eq!(seen["data"]["a"][0], 1.5);
    assert_eq!(seen["encoded_for"], serde_json::json!(["gateway"]));
    let seen = tap.next();
    assert_eq!(
        (&seen["channel"], &seen["data"]),
        (&"room:a".into(), &2.into())
    );
    let seen = tap.next();
    assert_eq!(seen["channel"], "long");
    assert_eq!(seen["data"].as_str().unwrap().len(), 1_000_000);
    assert!(client.receive().contains("1.50"));
}

#[test]
fn a_tap_that_is_stopped_holds_nobody_and_is_told_what_it_missed() {
    let server = with_small_ring("1");
    let mut client = Client::subscribed(server.address, "news");
    let mut tap = Tap::start(&server, &["news"]);
    client.publish("news", "\"first\"");
    assert_eq!(tap.next()["data"], "first");
    assert!(client.receive().contains("first"));
    tap.signal("STOP");
    // Many times what the ring holds.
    let data = format!("\"{}\"", "x".repeat(50_000));
    for _ in 0..160 {
        client.publish("news", &data);
        assert!(client.receive().contains("xxx"));
    }
    tap.signal("CONT");
    // It goes on at the newest anchor, which may be behind what is published meanwhile.
    let is_back = Arc::new(AtomicBool::new(false));
    let publisher = {
        let is_back = Arc::clone(&is_back);
        std::thread::spawn(move || {
            let mut count = 0;
            while count == 0 || !is_back.load(Ordering::Relaxed) {
                client.publish("news", &count.to_string());
                assert!(client.receive().contains(&count.to_string()));
                count += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            count
        })
    };
    let mut seen = 1;
    let mut number = None;
    while number.is_none() {
        number = tap.next()["data"].as_u64();
        seen += 1;
    }
    is_back.store(true, Ordering::Relaxed);
    let count: u64 = publisher.join().unwrap();
    while number != Some(count - 1) {
        number = tap.next()["data"].as_u64();
        seen += 1;
    }
    tap.signal("INT");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut tap.child.stderr.take().unwrap(), &mut said).unwrap();
    let missed = said.lines().map(|line| {
        let count = line.strip_prefix("fanwire: missed ").unwrap();
        count.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    let missed: u64 = missed.sum();
    assert!(missed > 0, "{said}");
    assert_eq!(seen + missed, 161 + count);
}

#[test]
fn a_tap_ends_with_its_server_and_says_when_there_is_none() {
    let server = with_small_ring("1");
    let mut tap = Tap::start(&server, &[]);
    let mut client = Client::open(server.address, "/ws");
    client.publish("news", "1");
    assert_eq!(tap.next()["data"], 1);
    drop(server);
    assert!(tap.child.wait().unwrap().success());
    let none = command().args(["tap", "--pid", "1"]).output().unwrap();
    assert_eq!(none.status.code(), Some(1));
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(said.contains("no running server found"), "{said}");
}
