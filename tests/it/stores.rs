//! The durable store of a server: what survives a restart, a kill and a full disk.

use crate::harness::{Raw, http_get};
use crate::library::{Embedded, builder};
use crate::process::{Directory, Process};
use fanwire::block_on;
use serde_json::{Value, json};
use std::process::Command;
use std::thread;
use std::time::Duration;

const HISTORY: &str = "prop:* messages=100000 bytes=64MiB";

fn store_of(directory: &Directory) -> String {
    let path = directory.path.canonicalize().unwrap().join("store");
    path.to_str().unwrap().to_owned()
}

fn data(history: &fanwire::ChannelHistory) -> Vec<String> {
    let entries = history.entries.iter();
    entries.map(|entry| entry.data.clone()).collect()
}

#[test]
fn a_program_finds_its_histories_again_and_not_what_it_has_deleted() {
    let directory = Directory::new("restart");
    let store = store_of(&directory);
    let start = || {
        let settings = builder().set("history", vec!["news* messages=3"]);
        Embedded::of(settings.set("store", store.as_str()))
    };
    let program = start();
    let server = &program.server;
    for number in 0..5 {
        server.broadcast("news", "m", &number).unwrap();
    }
    server.broadcast("news-2", "m", &"deleted").unwrap();
    for user in ["ann", "bob"] {
        let target = fanwire::BroadcastTarget::User(user);
        server.broadcast_to("news-3", target, "m", &user).unwrap();
    }
    let before = server.history("news", None, 10).unwrap();
    server.delete_history("news-2");
    server.delete_user_history("ann");
    block_on(server.stored()).unwrap();
    let newest = before.position.clone();
    drop(program);

    let program = start();
    let server = &program.server;
    let after = server.history("news", None, 10).unwrap();
    assert_eq!(data(&after), ["2", "3", "4"]);
    let times = |history: &fanwire::ChannelHistory| {
        let entries = history.entries.iter();
        entries.map(|entry| entry.unix_ms).collect::<Vec<_>>()
    };
    assert_eq!(times(&after), times(&before));
    assert_eq!(data(&server.history("news-2", None, 10).unwrap()), [""; 0]);
    assert_eq!(
        data(&server.history("news-3", None, 10).unwrap()),
        ["\"bob\""]
    );
    // A position of before counts, and what is published now follows it.
    server.broadcast("news", "m", &5).unwrap();
    let missed = server.history("news", Some(&newest), 10).unwrap();
    assert_eq!(
        (data(&missed), missed.is_complete),
        (vec!["5".into()], true)
    );
    let first = &before.entries[0].position;
    let missed = server.history("news", Some(first), 10).unwrap();
    assert!(missed.is_complete, "nothing after it is gone");
    assert_eq!(data(&missed), ["3", "4", "5"]);
    drop(program);

    // Another limit, and no history any more.
    let settings = builder().set("history", vec!["news* messages=1"]);
    let program = Embedded::of(settings.set("store", store.as_str()));
    let server = &program.server;
    assert_eq!(data(&server.history("news", None, 10).unwrap()), ["5"]);

    let missed = server.history("news", Some(&newest), 10).unwrap();
    assert!(missed.is_complete, "{missed:?}");
    let missed = server.history("news", Some(first), 10).unwrap();
    assert!(!missed.is_complete, "{missed:?}");
    drop(program);

    // While a channel has no history, what is published there is not stored.
    let settings = builder().set("history", vec!["other messages=1"]);
    let program = Embedded::of(settings.set("store", store.as_str()));
    assert_eq!(program.server.history("news", None, 10), None);
    program.server.broadcast("news", "m", &6).unwrap();
    drop(program);
    let program = start();
    let server = &program.server;
    let kept = server.history("news", None, 10).unwrap();
    assert_eq!(data(&kept), ["3", "4", "5"]);
    let missed = server.history("news", Some(&newest), 10).unwrap();
    assert!(!missed.is_complete, "{missed:?}");
}

#[test]
fn two_servers_do_not_share_a_store() {
    let directory = Directory::new("shared");
    let store = store_of(&directory);
    let program = Embedded::of(builder().set("store", store.as_str()));
    let error = builder().set("store", store.as_str()).start().unwrap_err();
    assert!(
        error.to_string().contains("is in use by process"),
        "{error}"
    );
    drop(program);
}

/// Writes the settings that have no flag; the file's path.
fn settings(directory: &Directory) -> String {
    let path = directory.path.join("fanwire.toml");
    let secret = crate::harness::SECRET;
    let text = format!(
        "history = [\"{HISTORY}\"]\nstore_bytes_max = \"8 MiB\"\ndrain_close_timeout = \"300ms\"\njwt_secret = \"{secret}\"\n"
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A server of its own process with a store, the sync policy and a history of properties.
fn start(directory: &Directory, policy: &str) -> Process {
    let (settings, store) = (settings(directory), store_of(directory));
    let arguments = ["--dev", "--shards", "2", "--config", &settings];
    Process::start(&[&arguments[..], &["--store", &store, "--store-sync", policy]].concat())
}

fn read(raw: &mut Raw) -> Value {
    serde_json::from_str(&raw.read_text()).unwrap()
}

/// A client of the monitoring dialect.
fn monitoring(server: &Process) -> Raw {
    let mut raw = Raw::open(server.address, "/monitoring", "");
    assert_eq!(read(&mut raw)["type"], "WELCOME");
    raw
}

fn publish(raw: &mut Raw, property: u64, number: u64) {
    let message = json!({"type": "PUBLISH", "property_id": property.to_string(),
        "message": {"type": "M", "n": number}});
    raw.send(&message.to_string());
}

/// What the history of a property has.
fn history(server: &Process, property: u64) -> Vec<u64> {
    let mut raw = Raw::open(server.address, "/ws", "");
    let mut numbers = Vec::new();
    let mut after = Value::Null;
    loop {
        let mut request = json!({"channel": format!("prop:{property}"), "limit": 1_000});
        if !after.is_null() {
            request["after"] = after;
        }
        raw.send(&json!({"type": "history", "data": request}).to_string());
        let mut answer = read(&mut raw);
        let page = answer["data"]["messages"].take();
        let page = page.as_array().unwrap_or_else(|| panic!("{answer}"));
        numbers.extend(page.iter().map(|it| it["data"]["n"].as_u64().unwrap()));
        if answer["data"]["complete"] == true {
            return numbers;
        }
        after = answer["data"]["position"].take();
    }
}

#[test]
fn what_was_acknowledged_survives_kills() {
    let directory = Directory::new("kills");
    let store = store_of(&directory);
    let mut acknowledged: Vec<Vec<u64>> = vec![Vec::new(); 3];
    let mut number = 0;
    for round in 0..8 {
        let mut server = start(&directory, "always");
        for (property, expected) in acknowledged.iter().enumerate() {
            let found = history(&server, property as u64);
            let found_of_them = found.iter().filter(|it| expected.contains(it));
            assert!(
                found_of_them.eq(expected),
                "round {round}: {found:?}, acknowledged {expected:?}"
            );
        }
        let mut clients: Vec<_> = (0..3).map(|_| monitoring(&server)).collect();
        // The kill comes in the middle: some are not acknowledged yet.
        for _ in 0..15 {
            for (property, client) in clients.iter_mut().enumerate() {
                number += 1;
                publish(client, property as u64, number);
            }
            for (property, client) in clients.iter_mut().enumerate() {
                let answer = read(client);
                assert_eq!(answer["type"], "PUBLISHED", "{answer}");
                let first = number - 2;
                acknowledged[property].push(first + property as u64);
            }
        }
        for (property, client) in clients.iter_mut().enumerate() {
            for unsure in 0..round {
                publish(client, property as u64, 1_000_000 + round * 10 + unsure);
            }
        }
        thread::sleep(Duration::from_millis(round));
        server.child.kill().unwrap();
        server.child.wait().unwrap();
    }
    assert_eq!(acknowledged.iter().map(Vec::len).sum::<usize>(), 8 * 45);
    // The tool agrees.
    let _ = start(&directory, "always");
    let verified = Command::new(env!("CARGO_BIN_EXE_fanwire"))
        .args(["store", "verify", &store])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(!said.contains("damaged  "), "{said}");
}

/// Subscribes at a position; whether the client recovers.
fn recovers(server: &Process, position: &Value) -> bool {
    let mut raw = Raw::open(server.address, "/ws", "");
    let data = json!({"channel": "prop:1", "recover": position});
    raw.send(&json!({"type": "subscribe", "data": data}).to_string());
    let answer = read(&mut raw);
    assert_eq!(answer["type"], "subscribed", "{answer}");
    answer["data"]["recovered"].as_bool().unwrap()
}

#[test]
fn clients_recover_across_a_restart_and_are_told_when_they_cannot() {
    for (policy, end, recovered) in [
        ("always", "KILL", true),
        ("1s", "TERM", true),
        ("never", "TERM", true),
        ("1s", "KILL", false),
        ("never", "KILL", false),
    ] {
        let directory = Directory::new("recovery");
        let mut server = start(&directory, policy);
        let mut client = monitoring(&server);
        let mut subscriber = Raw::open(server.address, "/ws", "");
        subscriber.send(r#"{"type":"subscribe","data":{"channel":"prop:1"}}"#);
        assert_eq!(read(&mut subscriber)["type"], "subscribed");
        let mut positions = Vec::new();
        for number in 0..5 {
            publish(&mut client, 1, number);
            assert_eq!(read(&mut client)["type"], "PUBLISHED");
            positions.push(read(&mut subscriber)["position"].take());
        }
        // One client does not answer the close frame.
        drop(client);
        server.signal(end);
        server.child.wait().unwrap();
        drop(subscriber);

        let mut server = start(&directory, policy);
        for position in &positions {
            assert_eq!(recovers(&server, position), recovered, "{policy}, {end}");
        }
        if end == "KILL" {
            // The policy of the process that was killed counts; nothing has been written for its time.
            server.child.kill().unwrap();
            server.child.wait().unwrap();
            server = start(&directory, "always");
            assert_eq!(recovers(&server, &positions[0]), recovered);
        }
        let mut client = monitoring(&server);
        publish(&mut client, 1, 5);
        assert_eq!(read(&mut client)["type"], "PUBLISHED");
        assert_eq!(recovers(&server, &positions[0]), recovered);
        server.signal("TERM");
        server.child.wait().unwrap();
    }
}

#[test]
fn users_who_were_away_receive_what_they_missed_across_restarts() {
    let directory = Directory::new("offline");
    let connect = |server: &Process, user: &str| {
        let token = crate::harness::token(user, &["publish"]);
        let mut raw = Raw::open(server.address, &format!("/monitoring?token={token}"), "");
        assert_eq!(read(&mut raw)["type"], "WELCOME");
        assert_eq!(read(&mut raw)["type"], "AUTHENTICATED");
        raw.send(r#"{"type":"SUBSCRIBE","property_id":"1"}"#);
        assert_eq!(read(&mut raw)["type"], "SUBSCRIBED");
        raw
    };
    let start = || start(&directory, "always");
    let mut server = start();
    // One user is away when the server is killed, the other is there.
    drop(connect(&server, "away"));
    let _there = connect(&server, "there");
    thread::sleep(Duration::from_millis(600));
    let mut publisher = monitoring(&server);
    publish(&mut publisher, 1, 1);
    assert_eq!(read(&mut publisher)["type"], "PUBLISHED");
    // What the journal looks at now and then.
    thread::sleep(Duration::from_millis(600));
    server.child.kill().unwrap();
    server.child.wait().unwrap();

    let mut server = start();
    let mut publisher = monitoring(&server);
    publish(&mut publisher, 1, 2);
    assert_eq!(read(&mut publisher)["type"], "PUBLISHED");
    server.signal("TERM");
    server.child.wait().unwrap();

    let server = start();
    let mut away = connect(&server, "away");
    assert_eq!(read(&mut away)["n"], 1);
    assert_eq!(read(&mut away)["n"], 2);
    let mut there = connect(&server, "there");
    assert_eq!(read(&mut there)["n"], 2, "it was sent the first");
}

#[test]
fn with_a_full_disk_delivery_goes_on_and_health_says_so() {
    let (directory, elsewhere) = (Directory::new("disk"), Directory::new("disk-settings"));
    let mount = directory.path.canonicalize().unwrap();
    let mount = mount.to_str().unwrap();
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs -o size=6m none \"$0\" || exit 77; \
        head -c 4M /dev/zero > \"$0/filler\"; exec \"$@\"";
    let namespaces = if rustix::process::geteuid().is_root() {
        "-m"
    } else {
        "-rm"
    };
    command
        .args([namespaces, "sh", "-c", script, mount])
        .args([
            env!("CARGO_BIN_EXE_fanwire"),
            "serve",
            "--listen",
            "127.0.0.1:0",
        ])
        .args(["--dev", "--shards", "1", "--store-sync", "always"])
        .args(["--store", &format!("{mount}/store")])
        .args(["--config", &settings(&elsewhere)]);
    let server = Process::of(command, "token ");
    let health =
        || -> Value { serde_json::from_str(&http_get(server.address, "/health").1).unwrap() };
    assert_eq!(health()["components"]["store"]["status"], "healthy");
    let mut client = monitoring(&server);
    let mut subscriber = monitoring(&server);
    subscriber.send(r#"{"type":"SUBSCRIBE","property_id":"1"}"#);
    assert_eq!(read(&mut subscriber)["type"], "SUBSCRIBED");
    let filler = "x".repeat(50_000);
    let mut sent = 0;
    // After an error the store may find room for something smaller, so both may take a few rounds.
    let (mut is_in_health, mut is_in_metrics) = (false, false);
    while !(is_in_health && is_in_metrics) {
        let message = json!({"type": "PUBLISH", "property_id": "1",
            "message": {"type": "M", "n": sent, "filler": filler}});
        client.send(&message.to_string());
        assert_eq!(read(&mut subscriber)["n"], sent);
        sent += 1;
        assert!(sent < 1_000, "the disk is never full");
        let now = health();
        if now["status"] == "degraded" {
            assert_eq!(now["components"]["store"]["status"], "failed", "{now}");
            is_in_health = true;
        }
        let metrics = http_get(server.address, "/metrics/prometheus").1;
        is_in_metrics |= metrics.contains("fanwire_store_up 0");
    }
    // It is delivered all the same.
    publish(&mut client, 1, 77);
    assert_eq!(read(&mut subscriber)["n"], 77);
    let process = server.child.id().to_string();
    let is_free = Command::new("nsenter")
        .args(["-t", &process, "-m", "rm", &format!("{mount}/filler")])
        .status();
    assert!(is_free.unwrap().success());
    // Each was answered; those that found the disk full were told so.
    let mut errors = 0;
    for _ in 0..=sent {
        let answer = read(&mut client);
        if answer["type"] == "ERROR" {
            assert!(answer.to_string().contains("but not stored"), "{answer}");
            errors += 1;
        } else {
            assert_eq!(answer["type"], "PUBLISHED", "{answer}");
        }
    }
    assert!((1..sent).contains(&errors), "{errors} of {sent}");
    for _ in 0..2_000 {
        if health()["status"] == "healthy" {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("{}", health());
}
