//! Does the generator see what is there? All commands against a small server of another make,
//! honest and dishonest.

mod server;

use serde_json::Value;
use server::{Character, Language, Manner};
use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Command, Output},
    thread,
};

const HONEST: Character = Character {
    language: Language::Verbatim,
    manner: Manner::Honest,
    victim: 0,
};
const GATEWAY: Character = Character {
    language: Language::Gateway,
    ..HONEST
};
const ANALYTICS: Character = Character {
    language: Language::Analytics,
    ..HONEST
};

fn loadtest(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fanwire-loadtest"))
        .args(arguments.split_whitespace())
        .output()
        .expect("the program was built for this test")
}

/// Runs a command against a server; returns the exit code and the JSON result.
fn measure(character: Character, command: &str, options: &str) -> (i32, Value) {
    let address = server::start(character);
    let dialect = match character.language {
        Language::Verbatim => "verbatim",
        Language::Gateway => "gateway",
        Language::Analytics => "analytics",
    };
    let pid = std::process::id();
    let line = format!(
        "{command} --json --url ws://{address}/ws --dialect {dialect} --pid {pid} {options}"
    );
    let output = loadtest(&line);
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let json = serde_json::from_str(&text).unwrap_or_else(|_| {
        panic!(
            "`{line}` printed {text} {}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    (output.status.code().expect("it ended by itself"), json)
}

fn figure(json: &Value, key: &str) -> f64 {
    json[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no {key} in {json}"))
}

#[test]
fn an_honest_fanout_is_clean_and_counted_to_the_last_delivery() {
    for (character, pace) in [
        (HONEST, "--in-flight 1"),
        (HONEST, "--in-flight 16"),
        (GATEWAY, "--in-flight 4"),
        (GATEWAY, "--rate 500"),
        (ANALYTICS, "--in-flight 4"),
        (ANALYTICS, "--in-flight 16 --filters 7"),
    ] {
        let options = format!("--subscribers 20 --samples 3 --publications 100 --size 200 {pace}");
        let (code, json) = measure(character, "fanout", &options);
        assert_eq!(code, 0, "{json}");
        assert_eq!(figure(&json, "publications"), 100.0);
        assert_eq!(figure(&json, "deliveries"), 2000.0);
        assert_eq!(
            figure(&json, "samples_received"),
            3.0 * 120.0,
            "warm-up included"
        );
        assert!(figure(&json, "delivery_p50_us") > 0.0);
        assert!(figure(&json, "fanout_max_us") >= figure(&json, "delivery_p50_us"));
        assert!(figure(&json, "server_cpu_ns_per_delivery") > 0.0);
    }
}

#[test]
fn a_timed_fanout_ends_by_itself() {
    let (code, json) = measure(
        HONEST,
        "fanout",
        "--subscribers 5 --samples 1 --seconds 0.3 --size 64",
    );
    assert_eq!(code, 0, "{json}");
    assert!(figure(&json, "publications") > 10.0);
    assert_eq!(
        figure(&json, "deliveries"),
        5.0 * figure(&json, "publications")
    );
}

#[test]
fn large_messages_over_many_reads_arrive_whole() {
    let options = "--subscribers 4 --samples 1 --publications 20 --size 100000 --in-flight 4";
    let (code, json) = measure(HONEST, "fanout", options);
    assert_eq!(code, 0, "{json}");
    assert_eq!(figure(&json, "deliveries"), 80.0);
}

#[test]
fn every_misdeed_is_reported_as_what_it_is() {
    // Samples subscribe first: 0 and 1 are samples, the others are counted.
    for (manner, key) in [
        (Manner::Loses, "lost_total"),
        (Manner::Swaps, "out_of_order_total"),
        (Manner::Repeats, "duplicates_total"),
        (Manner::Alters, "altered_total"),
        (Manner::Closes, "disconnects_total"),
    ] {
        for (victim, prefix) in [(5, ""), (0, "samples_")] {
            let character = Character {
                language: Language::Verbatim,
                manner,
                victim,
            };
            let options =
                "--subscribers 10 --samples 2 --publications 60 --in-flight 4 --patience 1";
            let (code, json) = measure(character, "fanout", options);
            assert_eq!(code, 1, "{manner:?} of {victim}: {json}");
            assert!(!json["failures"].as_array().unwrap().is_empty());
            if manner != Manner::Closes || victim == 5 {
                assert_eq!(
                    figure(&json, &format!("{prefix}{key}")),
                    1.0,
                    "{manner:?} of {victim}: {json}"
                );
            } else {
                assert!(figure(&json, "samples_lost_total") > 0.0, "{json}");
            }
            let untouched = if victim == 5 { "samples_" } else { "" };
            for clean in [
                "lost_total",
                "out_of_order_total",
                "duplicates_total",
                "altered_total",
            ] {
                assert_eq!(
                    figure(&json, &format!("{untouched}{clean}")),
                    0.0,
                    "{manner:?} of {victim}"
                );
            }
        }
    }
}

#[test]
fn a_delivery_with_the_id_of_another_subscriber_is_an_alteration() {
    for (victim, key) in [(5, "altered_total"), (0, "samples_altered_total")] {
        let character = Character {
            manner: Manner::Confuses,
            victim,
            ..ANALYTICS
        };
        let options = "--subscribers 10 --samples 2 --publications 60 --size 200 --in-flight 4";
        let (code, json) = measure(character, "fanout", options);
        assert_eq!(code, 1, "{json}");
        for other in ["altered_total", "samples_altered_total"] {
            assert_eq!(
                figure(&json, other),
                f64::from(u8::from(other == key)),
                "{json}"
            );
        }
        assert!(json.to_string().contains("sub_000000000000000"), "{json}");
    }
}

#[test]
fn echo_measures_round_trips() {
    for (character, connections) in [(HONEST, 1), (HONEST, 20), (GATEWAY, 20), (ANALYTICS, 20)] {
        let options = format!("--connections {connections} --seconds 1");
        let (code, json) = measure(character, "echo", &options);
        assert_eq!(code, 0, "{json}");
        assert!(figure(&json, "requests") > 100.0);
        assert!(figure(&json, "round_trip_p50_us") > 0.0);
        assert_eq!(figure(&json, "unanswered_total"), 0.0);
    }
}

#[test]
fn connect_counts_every_connection_kept_or_closed() {
    for (character, options) in [
        (HONEST, "--subscribe"),
        (HONEST, "--close"),
        (GATEWAY, "--token good --subscribe"),
        (GATEWAY, "--token good --subscribe --in-flight 20"),
        (ANALYTICS, "--token good --subscribe"),
    ] {
        let (code, json) = measure(character, "connect", &format!("--connections 50 {options}"));
        assert_eq!(code, 0, "{json}");
        assert_eq!(figure(&json, "connections"), 50.0);
        assert!(figure(&json, "server_cpu_ns_per_connection") > 0.0);
    }
}

#[test]
fn idle_holds_connections_and_reports_memory() {
    let (code, json) = measure(
        GATEWAY,
        "idle",
        "--connections 50 --token good --subscribe --hold 1",
    );
    assert_eq!(code, 0, "{json}");
    assert_eq!(figure(&json, "connections"), 50.0);
    assert!(json["server_bytes_per_connection"].is_number());
}

#[test]
fn a_bystander_is_measured_beside_every_load() {
    let loads = [
        (GATEWAY, "--publishers 2"),
        (GATEWAY, "--pings 2"),
        (GATEWAY, "--unauthenticated 2"),
        (GATEWAY, "--leavers 20 --channels 3"),
        (GATEWAY, "--reconnecting 250"),
        (GATEWAY, "--large"),
        (GATEWAY, "--never-read 2"),
        (HONEST, "--publishers 2"),
        (HONEST, "--leavers 20"),
    ];
    for (character, load) in loads {
        let token = ["", "--token good"][usize::from(character.language == Language::Gateway)];
        let (code, json) = measure(
            character,
            "neighbours",
            &format!("{load} {token} --seconds 1"),
        );
        assert_eq!(code, 0, "{load}: {json}");
        for when in ["alone", "beside"] {
            assert!(
                figure(&json, &format!("{when}_requests")) > 100.0,
                "{load}: {json}"
            );
            assert!(
                figure(&json, &format!("{when}_round_trip_p99_us")) > 0.0,
                "{load}: {json}"
            );
        }
        assert!(
            figure(&json, "load_per_s") > 0.0 || load.starts_with("--never-read"),
            "{load}: {json}"
        );
        assert!(figure(&json, "server_busy_percent") > 0.0, "{load}: {json}");
    }
}

#[test]
fn a_bystander_notices_a_server_that_stalls_under_the_load() {
    let character = Character {
        manner: Manner::Stalls,
        ..HONEST
    };
    let (code, json) = measure(character, "neighbours", "--publishers 1 --seconds 2");
    assert_eq!(code, 0, "slow is no failure: {json}");
    // The server sleeps 30 ms at a time.
    assert!(
        figure(&json, "beside_round_trip_p50_us") > 10_000.0,
        "{json}"
    );
    assert!(
        figure(&json, "alone_round_trip_p50_us") < 10_000.0,
        "{json}"
    );
}

#[test]
fn a_bystander_or_reader_that_the_server_ends_is_a_failure() {
    for (manner, options, key) in [
        (
            Manner::ClosesAsker,
            "--publishers 1",
            "alone_disconnects_total",
        ),
        (
            Manner::Closes,
            "--large --seconds 4",
            "readers_closed_total",
        ),
        (Manner::Loses, "--large --seconds 6", "readers_lost_total"),
    ] {
        let character = Character { manner, ..HONEST };
        let (code, json) = measure(character, "neighbours", options);
        assert_eq!(code, 1, "{manner:?}: {json}");
        assert_eq!(figure(&json, key), 1.0, "{manner:?}: {json}");
    }
}

const RECOVERY: &str = "--token good --clients 20 --messages 50 --bystanders 2 --seconds 1";

#[test]
fn clients_that_recover_are_counted_to_the_last_message_beside_a_live_channel() {
    for (clients, more) in [
        (20, ""),
        (20, "--channels 3 --size 300"),
        (450, "--rate 1000"),
    ] {
        let options = RECOVERY.replace("clients 20", &format!("clients {clients}"));
        let (code, json) = measure(GATEWAY, "recovery", &format!("{options} {more}"));
        assert_eq!(code, 0, "{json}");
        let clients = f64::from(clients);
        assert_eq!(figure(&json, "recovered_messages"), 50.0 * clients);
        assert_eq!(figure(&json, "completed_total"), clients);
        for key in [
            "before_delivery_p99_us",
            "before_publications",
            "client_max_us",
            "recovered_per_s",
            "recovery_seconds",
            "server_cpu_ns_per_recovered_message",
        ] {
            assert!(figure(&json, key) > 0.0, "{key}: {json}");
        }
    }
}

#[test]
fn every_misdeed_towards_a_client_that_recovers_is_reported_as_what_it_is() {
    const COUNTERS: [&str; 6] = [
        "recovery_lost_total",
        "recovery_out_of_order_total",
        "recovery_duplicates_total",
        "recovery_altered_total",
        "not_recovered_total",
        "recovery_disconnects_total",
    ];
    let check = |manner, key| {
        let character = Character { manner, ..GATEWAY };
        let (code, json) = measure(character, "recovery", &format!("{RECOVERY} --patience 1"));
        assert_eq!(code, 1, "{manner:?}: {json}");
        // Who is closed after 30 of 51 has lost the others too.
        let also_lost = f64::from(u8::from(manner == Manner::Closes)) * 21.0;
        for counter in COUNTERS {
            let expected = match counter {
                _ if counter == key => 1.0,
                "recovery_lost_total" => also_lost,
                _ => 0.0,
            };
            let found = figure(&json, counter);
            assert_eq!(found, expected, "{manner:?} {counter}: {json}");
        }
        assert_eq!(figure(&json, "live_lost_total"), 0.0, "{json}");
    };
    thread::scope(|scope| {
        for (manner, key) in [
            (Manner::Loses, "recovery_lost_total"),
            (Manner::Swaps, "recovery_out_of_order_total"),
            (Manner::Repeats, "recovery_duplicates_total"),
            (Manner::Alters, "recovery_altered_total"),
            (Manner::Forgets, "not_recovered_total"),
            (Manner::Closes, "recovery_disconnects_total"),
        ] {
            scope.spawn(move || check(manner, key));
        }
    });
}

#[test]
fn failures_are_told_in_the_servers_words() {
    let gateway = server::start(GATEWAY);
    let output = loadtest(&format!("connect --url ws://{gateway}/ --token bad"));
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("bad token"), "{words}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        stream
            .write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
    });
    let output = loadtest(&format!("echo --url ws://{address}/"));
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("server said 503"), "{words}");
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    for line in [
        "fanout --url http://x --subscribers 10",
        "fanout --url ws://127.0.0.1:1/ --subscribers 10 --size 10",
        "fanout --url ws://127.0.0.1:1/ --subscribers 10 --rate 1 --in-flight 2",
        "fanout --url ws://127.0.0.1:1/ --subscribers 4 --samples 4",
        "fanout --url ws://127.0.0.1:1/ --subscribers 10 --filters 2",
        "fanout --url ws://127.0.0.1:1/ --subscribers 10 --dialect analytics --size 128",
        "neighbours --url ws://127.0.0.1:1/",
        "neighbours --url ws://127.0.0.1:1/ --pings 1 --large",
        "neighbours --url ws://127.0.0.1:1/ --pings 1 --channels 2",
        "neighbours --url ws://127.0.0.1:1/ --dialect verbatim --leavers 1 --channels 2",
        "neighbours --url ws://127.0.0.1:1/ --dialect analytics --pings 1",
        "recovery --url ws://127.0.0.1:1/ --dialect verbatim",
        "recovery --url ws://127.0.0.1:1/ --clients 0",
        "idle",
        "nonsense",
    ] {
        assert_eq!(loadtest(line).status.code(), Some(2), "{line}");
    }
}
