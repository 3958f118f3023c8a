//! A webhook is told which users are online and which channels are occupied, in order and until it
//! knows; receivers that hang, refuse and lie.

use crate::backend::{Answer, Backend};
use crate::callbacks::{SECRETS, check_signature};
use crate::harness::{Client, Server, token};
use fanwire::base::now::Clock;
use fanwire::{Builder, StopOutcome, block_on};
use serde_json::{Value, json};
use std::time::Duration;

/// Longest wait for a webhook, milliseconds.
const PATIENCE_MS: u64 = 20_000;

fn accepting() -> Backend {
    Backend::new(|_| Answer::Http(204, String::new()))
}

fn telling(backend: &Backend, builder: Builder) -> Builder {
    builder
        .set("webhook_url", backend.url())
        .set("webhook_secrets", SECRETS.to_vec())
        .set("webhook_delay", "0s")
        // Clients that do not read are not waited for.
        .set("gateway.close_timeout", "100ms")
}

/// What a backend was told so far: event, and user or channel.
fn told(backend: &Backend) -> Vec<String> {
    let received = backend.received();
    received.iter().for_each(check_signature);
    let bodies = received.iter().map(|request| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        body["events"].as_array().unwrap().clone()
    });
    let events = bodies.flatten().map(|event| {
        assert!(event["time_ms"].as_u64().unwrap() > 1_700_000_000_000);
        let of = event["user"].as_str().or(event["channel"].as_str());
        let tenant = event["tenant"].as_str().unwrap_or_default();
        let name = event["name"].as_str().unwrap();
        format!("{name} {tenant}{}", of.unwrap())
    });
    events.collect()
}

/// Waits until a backend was told so many events, and returns them.
fn await_told(backend: &Backend, count: usize) -> Vec<String> {
    let clock = Clock::start();
    while told(backend).len() < count {
        let told = told(backend);
        assert!(
            clock.now().monotonic_ms < PATIENCE_MS,
            "{count} expected, not {told:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    told(backend)
}

/// Waits until a metric has a value.
fn await_metric(server: &Server, series: &str, expected: u64) {
    let clock = Clock::start();
    while server.metric(series) != expected {
        let value = server.metric(series);
        assert!(
            clock.now().monotonic_ms < PATIENCE_MS,
            "{series} is {value}, not {expected}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn user(server: &Server, token: &str) -> Client {
    let mut client = Client::open(server.address, &format!("/ws?token={token}"));
    assert!(client.receive().contains("auth_success"));
    client
}

fn ask(client: &mut Client, kind: &str, channel: &str) {
    client.send(&json!({"type": kind, "data": {"channel": channel}}).to_string());
    assert!(client.receive().contains(kind));
}

/// Opens sessions of a user until both shards have some.
fn on_both_shards(server: &Server, name: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    loop {
        clients.push(user(server, &token(name, &[])));
        let both = ["0", "1"].iter().all(|shard| {
            let series = format!("fanwire_shard_sessions{{shard=\"{shard}\"");
            server.metric(&series) > 0
        });
        if both && clients.len() >= 3 {
            return clients;
        }
    }
}

#[test]
fn the_first_session_of_a_user_and_the_last_are_told_and_so_of_channels() {
    let backend = accepting();
    let server = Server::with(|builder| {
        let builder = telling(&backend, builder);
        builder.set("webhook_channels", vec!["news", "orders:*"])
    });
    let mut clients = on_both_shards(&server, "ann");
    assert_eq!(await_told(&backend, 1), ["user_online ann"]);
    for client in &mut clients {
        ask(client, "subscribe", "news");
        ask(client, "subscribe", "private");
    }
    assert_eq!(await_told(&backend, 2)[1], "channel_occupied news");
    // With all but one gone, she is still there.
    let last = clients.pop().unwrap();
    drop(clients);
    await_metric(&server, "fanwire_sessions{dialect=\"gateway\"", 1);
    let mut bob = user(&server, &token("bob", &[]));
    ask(&mut bob, "subscribe", "orders:1");
    let expected = ["user_online bob", "channel_occupied orders:1"];
    assert_eq!(await_told(&backend, 4)[2..], expected);
    ask(&mut bob, "unsubscribe", "orders:1");
    assert_eq!(await_told(&backend, 5)[4], "channel_vacated orders:1");
    drop(last);
    let mut ended = await_told(&backend, 7)[5..].to_vec();
    ended.sort();
    assert_eq!(ended, ["channel_vacated news", "user_offline ann"]);
    // Who authenticates as another one is another one.
    let cleo = json!({"type": "auth", "data": {"token": token("cleo", &[])}});
    bob.send(&cleo.to_string());
    assert!(bob.receive().contains("auth_success"));
    let mut changed = await_told(&backend, 9)[7..].to_vec();
    changed.sort();
    assert_eq!(changed, ["user_offline bob", "user_online cleo"]);
    let delivered = "fanwire_webhook_events_total{outcome=\"delivered\"";
    await_metric(&server, delivered, 9);
    await_metric(&server, "fanwire_webhook_events_waiting", 0);
}

#[test]
fn users_and_channels_of_tenants_are_apart() {
    let backend = accepting();
    let server =
        Server::with(|builder| telling(&backend, builder).set("gateway.tenant_isolation", true));
    let mut of_acme = user(&server, &crate::limits::token_of("ann", "acme"));
    assert_eq!(await_told(&backend, 1), ["user_online acmeann"]);
    let mut of_none = user(&server, &token("ann", &[]));
    ask(&mut of_acme, "subscribe", "news");
    await_told(&backend, 3);
    ask(&mut of_none, "subscribe", "news");
    let expected = [
        "user_online acmeann",
        "user_online ann",
        "channel_occupied acmenews",
        "channel_occupied news",
    ];
    assert_eq!(await_told(&backend, 4), expected);
}

#[test]
fn what_is_not_accepted_is_told_again_in_its_order_until_it_is() {
    // Refuses the first ones, each in another way.
    let backend = accepting();
    let failures = std::sync::atomic::AtomicUsize::new(0);
    backend.replies(move |_| {
        match failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => Answer::Http(500, String::new()),
            1 => Answer::Raw(b"\x00garbage\r\n\r\n"),
            2 => Answer::Raw(b"HTTP/1.1 302 x\r\nlocation: /\r\ncontent-length: 0\r\n\r\n"),
            // The status counts, whatever the body is.
            3 => Answer::Http(200, "x".repeat(1 << 20)),
            4 => Answer::Raw(b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\n{"),
            _ => Answer::Http(204, String::new()),
        }
    });
    let server =
        Server::with(|builder| telling(&backend, builder).set("gateway.rate_limit", "off"));
    let mut ann = user(&server, &token("ann", &[]));
    let failed = "fanwire_webhook_requests_total{outcome=\"failed\"";
    while server.metric(failed) == 0 {
        std::thread::yield_now();
    }
    // Meanwhile nobody waits, and what comes and goes is not told at all.
    for number in 0..20 {
        let channel = format!("passing:{number}");
        ask(&mut ann, "subscribe", &channel);
        ask(&mut ann, "unsubscribe", &channel);
    }
    ask(&mut ann, "subscribe", "news");
    await_metric(
        &server,
        "fanwire_webhook_requests_total{outcome=\"failed\"",
        3,
    );
    let delivered = "fanwire_webhook_events_total{outcome=\"delivered\"";
    await_metric(&server, delivered, 2);
    ask(&mut ann, "unsubscribe", "news");
    await_metric(&server, delivered, 3);
    let mut expected = vec!["user_online ann"; 4];
    expected.extend(["channel_occupied news", "channel_vacated news"]);
    assert_eq!(told(&backend), expected);
    let ids: Vec<_> = backend.received();
    let ids: Vec<_> = ids.iter().map(|it| it.header("webhook-id")).collect();
    assert!(ids[..4].iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_ne!(ids[3], ids[4]);
    let instance = |index: usize| {
        let body: Value = serde_json::from_str(&backend.received()[index].body).unwrap();
        body["instance"].clone()
    };
    assert_eq!(instance(0), instance(5));
}

#[test]
fn events_for_a_receiver_that_hangs_are_bounded_and_counted_and_hold_nobody() {
    let backend = Backend::new(|_| Answer::Hang);
    let server = Server::with(|builder| {
        telling(&backend, builder)
            .set("gateway.rate_limit", "off")
            .set(
                "webhook_events",
                vec!["channel_occupied", "channel_vacated"],
            )
            .set("webhook_timeout", "300ms")
            .set("webhook_retry_time", "2s")
            .set("webhook_queue_max", 10)
    });
    let mut ann = user(&server, &token("ann", &[]));
    ask(&mut ann, "subscribe", "first");
    await_metric(
        &server,
        "fanwire_webhook_requests_total{outcome=\"failed\"",
        1,
    );
    for number in 0..30 {
        ask(&mut ann, "subscribe", &format!("later:{number}"));
    }
    let events = |outcome| format!("fanwire_webhook_events_total{{outcome=\"{outcome}\"");
    assert_eq!(server.metric(&events("no_room")), 20);
    assert_eq!(server.metric("fanwire_webhook_events_waiting"), 11);
    await_metric(&server, &events("given_up"), 1);
    // The queue is told when the receiver is back; what it was not told of never ends for it.
    backend.replies(|_| Answer::Http(200, "{}".into()));
    await_metric(&server, &events("delivered"), 10);
    drop(ann);
    await_metric(&server, &events("delivered"), 21);
    let mut last = told(&backend).split_off(told(&backend).len() - 11);
    last.sort();
    let mut expected: Vec<_> = (0..10)
        .map(|n| format!("channel_vacated later:{n}"))
        .collect();
    expected.insert(0, "channel_vacated first".to_owned());
    assert_eq!(last, expected);
}

#[test]
fn at_the_end_everybody_is_offline_and_a_receiver_that_hangs_delays_it_little() {
    let backend = accepting();
    let server = Server::with(|builder| telling(&backend, builder).set("webhook_delay", "1m"));
    let mut ann = user(&server, &token("ann", &[]));
    ask(&mut ann, "subscribe", "news");
    // What was not told yet is over, and not told.
    assert_eq!(block_on(server.program().stop()), StopOutcome::Drained);
    assert_eq!(backend.count(), 0);
    let server = Server::with(|builder| telling(&backend, builder));
    let mut ann = user(&server, &token("ann", &[]));
    ask(&mut ann, "subscribe", "news");
    await_told(&backend, 2);
    assert_eq!(block_on(server.program().stop()), StopOutcome::Drained);
    let mut ended = told(&backend)[2..].to_vec();
    ended.sort();
    assert_eq!(ended, ["channel_vacated news", "user_offline ann"]);
    let server = Server::with(|builder| telling(&backend, builder));
    let _ann = user(&server, &token("ann", &[]));
    await_told(&backend, 5);
    backend.replies(|_| Answer::Hang);
    let clock = Clock::start();
    assert_eq!(block_on(server.program().stop()), StopOutcome::Drained);
    let waited_ms = clock.now().monotonic_ms;
    assert!(waited_ms < 8_000, "{waited_ms}");
}
