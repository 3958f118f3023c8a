//! Do programs on this host publish through shared memory, and can they harm nobody?

use crate::harness::{Frame, Raw, Server};
use crate::process::Directory;
use fanwire::{Builder, ShardCount, StopOutcome, block_on};
use fanwire_ring::publication::{Content, Publication, Scope, Target};
use fanwire_ring::shared::{PublishError, Publisher, SharedRing};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// For what must come: far longer than it takes.
const LONG: Duration = Duration::from_secs(30);

/// A server with a socket in a directory of its own.
struct Setup {
    server: Server,
    directory: Directory,
}

impl Setup {
    fn new(name: &str, change: impl FnOnce(Builder) -> Builder) -> Self {
        let directory = Directory::new(&format!("ingest-{name}"));
        let path = directory.path.join("socket");
        let server = Server::with(|builder| {
            let builder = builder
                .dev()
                .set("ingest.shared_memory", path.to_str().unwrap());
            change(builder.set("ingest.ring_bytes", "64KiB"))
        });
        Self { server, directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path.join("socket")
    }

    fn publisher(&self) -> Publisher {
        Publisher::connect(&self.path()).unwrap()
    }

    fn subscriber(&self, fields: &str) -> Raw {
        let mut raw = Raw::open(self.server.address, "/ws", "");
        let data = format!(r#""channel":"news"{fields}"#);
        raw.send(&format!(r#"{{"type":"subscribe","data":{{{data}}}}}"#));
        assert!(raw.read_text().contains("subscribed"));
        raw
    }

    /// The sum of a metric over the sources.
    fn metric(&self, name: &str) -> u64 {
        self.server.metric(name)
    }
}

fn number(number: usize) -> String {
    format!(r#"{{"type":"m","channel":"news","data":{number}}}"#)
}

#[test]
fn what_programs_publish_reaches_every_subscriber_once_and_in_the_order_of_each_program() {
    for shards in [1, 2] {
        let host = Setup::new("order", |builder| builder.shards(ShardCount::Fixed(shards)));
        let mut subscribers: Vec<_> = (0..4).map(|_| host.subscriber("")).collect();
        thread::scope(|scope| {
            for program in 0..3 {
                let publisher = host.publisher();
                scope.spawn(move || {
                    for number in 0..2_000 {
                        let data = (program * 10_000 + number).to_string();
                        let publication = Publication::json("news", "m", data.as_bytes());
                        publisher.publish(&publication, LONG).unwrap();
                    }
                    publisher.flush(LONG).unwrap();
                });
            }
            for subscriber in &mut subscribers {
                scope.spawn(|| {
                    let mut next = [0, 10_000, 20_000];
                    for _ in 0..6_000 {
                        let text = subscriber.read_text();
                        let expected = next.iter().position(|next| text == number(*next));
                        next[expected.unwrap_or_else(|| panic!("{text}: {next:?}"))] += 1;
                    }
                    assert_eq!(next, [2_000, 12_000, 22_000]);
                });
            }
        });
        host.server
            .await_metric("fanwire_ingest_publications_total{", 6_000);
        host.server.await_metric("fanwire_ingest_sources{", 0);
        assert_eq!(host.metric("fanwire_ingest_rejected_total{"), 0);
    }
}

#[test]
fn a_publication_may_be_binary_for_some_or_for_a_tenant() {
    let host = Setup::new("kinds", |builder| builder);
    let mut subscriber = host.subscriber(r#","binary":true"#);
    let publisher = host.publisher();
    let json = Publication::json("news", "m", br#"{"a": [1, null]}"#);
    for publication in [
        Publication::binary("news", &[0, 255]),
        // For others.
        Publication {
            target: Target::User("ann"),
            ..json
        },
        Publication {
            scope: Scope::Tenant("acme"),
            ..json
        },
        Publication {
            target: Target::ExceptSession("0123456789abcdef"),
            ..json
        },
    ] {
        publisher.publish(&publication, LONG).unwrap();
    }
    assert_eq!(
        subscriber.read(),
        Frame::Binary(b"\x01\x02\0\x04news\0\xff".to_vec())
    );
    let expected = r#"{"type":"m","channel":"news","data":{"a": [1, null]}}"#;
    assert_eq!(subscriber.read_text(), expected);
}

#[test]
fn what_is_no_publication_is_rejected_for_its_reason_and_the_next_one_goes_on() {
    let host = Setup::new("invalid", |builder| builder);
    let mut subscriber = host.subscriber("");
    let publisher = host.publisher();
    let writer = publisher.ring().ring().writer();
    let deep = "[".repeat(2_000) + &"]".repeat(2_000);
    let json = Publication::json("news", "m", b"1");
    let publications = [
        (json.with_data(b"{"), "data"),
        (json.with_data(b""), "data"),
        (json.with_data(b"1 2"), "data"),
        (json.with_data(b"\"\xff\""), "data"),
        (json.with_data(deep.as_bytes()), "data"),
        (Publication::json("", "m", b"1"), "name"),
        (Publication::json("news", "", b"1"), "name"),
        (Publication::json("ne\nws", "m", b"1"), "name"),
        (
            Publication {
                scope: Scope::AllTenants,
                ..json
            },
            "tenant",
        ),
        (
            Publication {
                scope: Scope::Tenant("a:b"),
                ..json
            },
            "tenant",
        ),
        (
            Publication {
                target: Target::ExceptSession("no session"),
                ..json
            },
            "target",
        ),
    ];
    let mut expected = std::collections::BTreeMap::new();
    for (publication, reason) in &publications {
        let head = publication.head().unwrap();
        writer.try_write(0, &publication.parts(&head)).unwrap();
        *expected.entry(*reason).or_insert(0) += 1;
    }
    for record in [&b""[..], b"x", &[0; 16], &[255; 40]] {
        writer.try_write(0, &[record]).unwrap();
        *expected.entry("record").or_insert(0) += 1;
    }
    let head = json.head().unwrap();
    writer.try_write(0, &json.parts(&head)).unwrap();
    writer.wake_sleepers();
    assert_eq!(subscriber.read_text(), number(1));
    for (reason, count) in expected {
        let page = crate::harness::http_get(host.server.address, "/metrics/prometheus").1;
        let label = format!("reason=\"{reason}\"}} {count}\n");
        let found = page
            .lines()
            .find(|line| line.starts_with("fanwire_ingest_rejected_total") && line.contains(reason))
            .unwrap_or_default();
        assert!(format!("{found}\n").ends_with(&label), "{reason}: {found}");
    }
}

trait WithData<'a> {
    fn with_data(self, data: &'a [u8]) -> Self;
}

impl<'a> WithData<'a> for Publication<'a> {
    fn with_data(self, data: &'a [u8]) -> Self {
        let content = Content::Json { kind: "m", data };
        Self { content, ..self }
    }
}

#[test]
fn programs_over_the_limit_are_disconnected_and_a_place_is_free_when_one_leaves() {
    let host = Setup::new("limit", |builder| builder.set("ingest.sources_max", 2));
    let first = host.publisher();
    let second = host.publisher();
    assert!(Publisher::connect(&host.path()).is_err());
    assert!(first.is_connected() && second.is_connected());
    assert_eq!(
        host.metric("fanwire_ingest_sources_rejected_total{reason=\"full\"}"),
        1
    );
    drop(first);
    host.server.await_metric("fanwire_ingest_sources{", 1);
    let third = host.publisher();
    third
        .publish(&Publication::json("news", "m", b"1"), LONG)
        .unwrap();
    third.flush(LONG).unwrap();
}

#[test]
fn a_program_that_writes_garbage_over_its_ring_ends_itself_only() {
    let host = Setup::new("garbage", |builder| builder);
    let mut subscriber = host.subscriber("");
    let good = host.publisher();
    let bad = host.publisher();
    let bytes = garble(bad.ring());
    assert!(bytes > 1 << 16);
    for count in 0..200 {
        let data = count.to_string();
        let publication = Publication::json("news", "m", data.as_bytes());
        good.publish(&publication, LONG).unwrap();
        assert_eq!(subscriber.read_text(), number(count));
    }
    drop(bad);
    host.server.await_metric("fanwire_ingest_sources{", 1);
}

/// Overwrites all of the memory of a ring; how much there is.
fn garble(ring: &SharedRing) -> usize {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::from(ring.as_fd().try_clone_to_owned().unwrap());
    let bytes = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let garbage: Vec<u8> = (0..=250_u8).cycle().step_by(131).take(bytes).collect();
    file.write_all_at(&garbage, 0).unwrap();
    bytes
}

#[test]
fn a_program_that_is_killed_leaves_nothing_and_what_it_wrote_is_delivered() {
    let host = Setup::new("killed", |builder| builder);
    let mut subscriber = host.subscriber("");
    let publisher = host.publisher();
    for count in 0..50 {
        let data = count.to_string();
        let publication = Publication::json("news", "m", data.as_bytes());
        publisher.publish(&publication, LONG).unwrap();
    }
    // All that a process leaves behind: its end of the connection, and its lock.
    drop(publisher);
    for count in 0..50 {
        assert_eq!(subscriber.read_text(), number(count));
    }
    host.server.await_metric("fanwire_ingest_sources{", 0);
}

#[test]
fn who_sends_on_the_connection_loses_it_and_keeps_no_place() {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    let host = Setup::new("sender", |builder| builder.set("ingest.sources_max", 1));
    for is_dead in [false, true] {
        let mut stream = UnixStream::connect(host.path()).unwrap();
        // The byte that comes with the descriptor of the ring.
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"x").unwrap();
        match is_dead {
            true => drop(stream),
            false => assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0),
        }
        host.server.await_metric("fanwire_ingest_sources{", 0);
    }
    // The descriptor comes before the source is counted, so the metric may be that of before.
    let connect = || Publisher::connect(&host.path()).ok();
    let publisher = std::iter::repeat_with(|| {
        thread::sleep(Duration::from_millis(10));
        connect()
    });
    let publisher = publisher.take(1_000).flatten().next().unwrap();
    let publication = Publication::json("news", "m", b"1");
    publisher.publish(&publication, LONG).unwrap();
    publisher.flush(LONG).unwrap();
}

#[test]
fn programs_that_come_and_go_without_end_hold_up_neither_others_nor_the_end() {
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, Ordering};
    let host = Setup::new("flood", |builder| builder);
    let good = host.publisher();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // Fails when the server has ended.
                    drop(UnixStream::connect(host.path()));
                }
            });
        }
        let publication = Publication::json("news", "m", b"1");
        for _ in 0..5 {
            for _ in 0..100 {
                good.publish(&publication, LONG).unwrap();
            }
            good.flush(LONG).unwrap();
        }
        let stopped = block_on(host.server.program().stop());
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(stopped, StopOutcome::Drained);
    });
}

#[test]
fn a_server_that_stops_has_read_what_was_flushed_and_its_programs_are_told() {
    let host = Setup::new("stop", |builder| builder);
    let mut subscriber = host.subscriber("");
    let publisher = host.publisher();
    let publication = Publication::json("news", "m", b"7");
    publisher.try_publish(&publication).unwrap();
    assert_eq!(block_on(host.server.program().stop()), StopOutcome::Drained);
    assert_eq!(subscriber.read_text(), number(7));
    assert_eq!(
        publisher.try_publish(&publication),
        Err(PublishError::Disconnected)
    );
    assert_eq!(publisher.flush(LONG), Err(PublishError::Disconnected));
    assert!(!host.path().exists(), "the socket is removed");
}

#[test]
fn a_socket_that_cannot_be_made_is_an_error_of_the_start() {
    for (path, group, expected) in [
        ("/no/such/folder/socket", None, "/no/such/folder/socket"),
        (
            "/dev/shm/fanwire-group-test",
            Some("no such group"),
            "unknown group",
        ),
    ] {
        let builder = crate::library::builder().set("ingest.shared_memory", path);
        let builder = match group {
            Some(group) => builder.set("ingest.group", group),
            None => builder,
        };
        let error = builder.start().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = crate::library::builder()
        .set("ingest.shared_memory", "relative")
        .start();
    let error = error.unwrap_err().to_string();
    assert!(error.contains("begins with `/`"), "{error}");
}
