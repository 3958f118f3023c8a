//! Do programs on this host publish through shared memory, and can they harm nobody?

use crate::harness::{Frame, Raw, Server};
use crate::process::{Directory, Process};
use fanwire::base::now::Clock;
use fanwire::base::{ProcessState, ShardCounters};
use fanwire::ingest::{Ingest, IngestParts, SourceLimits, bind};
use fanwire::shard::Publisher as ShardPublisher;
use fanwire::{Builder, ShardCount, StopOutcome, block_on};
use fanwire_ring::publication::{Content, Publication, Scope, Target};
use fanwire_ring::shared::{PublishError, Publisher, SharedRing};
use fanwire_ring::{Ring, RingConfig};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
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
        if is_dead {
            // It is counted after that; there was one before, so there is a count.
            host.server.await_metric("fanwire_ingest_sources{", 1);
        }
        stream.write_all(b"x").unwrap();
        match is_dead {
            true => drop(stream),
            false => assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0),
        }
        host.server.await_metric("fanwire_ingest_sources{", 0);
    }
    let publisher = host.publisher();
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

/// What reads the rings of programs, where nobody reads the ring of the shards.
#[test]
fn it_ends_at_once_though_a_program_waits_for_room_in_the_ring_of_the_shards() {
    let config = RingConfig {
        capacity_bytes: 1 << 16,
        readers_max: 1,
    };
    let ring = Ring::new(config).unwrap();
    let reader = ring.reader().unwrap();
    let process_state = Arc::<ProcessState>::default();
    let counters = Arc::<ShardCounters>::default();
    let shards = ShardPublisher::new(
        &ring,
        Arc::clone(&process_state),
        Arc::clone(&counters),
        |_, _| {},
    );
    let directory = Directory::new("ingest-full");
    let path = directory.path.join("socket");
    let parts = IngestParts {
        publisher: Arc::new(shards),
        process_state: Arc::clone(&process_state),
        clock: Clock::start(),
        limits: SourceLimits {
            sources_max: 1,
            ring_bytes: 1 << 16,
        },
    };
    let ingest = Ingest::start(bind(&path, None).unwrap(), parts).unwrap();
    let publisher = Publisher::connect(&path).unwrap();
    let data = format!("\"{}\"", "x".repeat(7_000));
    let publication = Publication::json("news", "m", data.as_bytes());
    // The thread has read one for which there is no room, and then the ring of the program is full.
    while publisher.try_publish(&publication).is_ok() || counters.ring_full.value() == 0 {}
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        ingest.stop();
        ended.send(()).unwrap();
    });
    let told = end.recv_timeout(LONG);
    let error = publisher.publish(&publication, LONG);
    drop(reader);
    assert_eq!(told, Ok(()), "it waits for room");
    assert_eq!(error, Err(PublishError::Disconnected));
}

#[test]
fn programs_are_read_while_no_more_can_be_accepted_for_want_of_descriptors() {
    let directory = Directory::new("ingest-descriptors");
    let path = directory.path.join("socket");
    let file = directory.path.join("fanwire.toml");
    let settings = format!("[ingest]\nshared_memory = {path:?}\n");
    std::fs::write(&file, settings).unwrap();
    let process = Process::start(&["--dev", "--config", file.to_str().unwrap()]);
    let mut subscriber = Raw::open(process.address, "/ws", "");
    subscriber.send(r#"{"type":"subscribe","data":{"channel":"news"}}"#);
    assert!(subscriber.read_text().contains("subscribed"));
    let publisher = Publisher::connect(&path).unwrap();
    let mut publish = |count: usize| {
        let data = count.to_string();
        let publication = Publication::json("news", "m", data.as_bytes());
        publisher.publish(&publication, LONG).unwrap();
        publisher.flush(LONG).unwrap();
        assert_eq!(subscriber.read_text(), number(count));
    };
    // When it is read, the server opens nothing more for it.
    publish(0);
    let all = limit_descriptors(&process, lowest_free_descriptor(&process));
    let mut further = UnixStream::connect(&path).unwrap();
    let clock = Clock::start();
    let elapsed_ms = || clock.now().monotonic_ms;
    let mut counts = 1..;
    // It looks for further programs forty times a second.
    while elapsed_ms() < 300 {
        counts.by_ref().take(1).for_each(&mut publish);
    }
    let began_ms = elapsed_ms();
    counts.take(50).for_each(&mut publish);
    let elapsed_ms = elapsed_ms() - began_ms;
    further.set_nonblocking(true).unwrap();
    let not_accepted = further.read(&mut [0]).unwrap_err();
    assert_eq!(not_accepted.kind(), ErrorKind::WouldBlock);
    // With a pause after each attempt it would be five seconds.
    assert!(elapsed_ms < 2_500, "{elapsed_ms} ms");
    limit_descriptors(&process, all);
    further.set_nonblocking(false).unwrap();
    further.read_exact(&mut [0]).unwrap();
}

/// The descriptor that the process would be given next.
fn lowest_free_descriptor(process: &Process) -> u64 {
    let folder = format!("/proc/{}/fd", process.child.id());
    let is_free = |number: &u64| !Path::new(&folder).join(number.to_string()).exists();
    (0..).find(is_free).unwrap()
}

/// Sets the limit of descriptors of a process; returns the one before.
fn limit_descriptors(process: &Process, count: u64) -> u64 {
    let id = Pid::from_raw(i32::try_from(process.child.id()).unwrap());
    let limit = Rlimit {
        current: Some(count),
        // It has the one of this process.
        ..getrlimit(Resource::Nofile)
    };
    let before = prlimit(id, Resource::Nofile, limit).unwrap();
    before.current.unwrap()
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
