//! A publisher and the server that reads what it writes.

#![cfg(all(feature = "shared-memory", target_os = "linux", not(loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]

use fanwire_ring::publication::Publication;
use fanwire_ring::shared::{
    Access, PublishError, Publisher, RingListener, RingPeer, SOURCE_READER_INDEX, SharedRing,
    wait_any,
};
use fanwire_ring::{Reader, Ring, RingConfig, SharedConfig};
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

/// For what must come: far longer than it takes.
const LONG: Duration = Duration::from_secs(30);
/// For what must not come.
const SHORT: Duration = Duration::from_millis(20);

struct Server {
    listener: RingListener,
    folder: PathBuf,
}

impl Server {
    fn new(name: &str) -> Self {
        let name = format!("fanwire-publisher-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let listener = RingListener::bind(&folder.join("socket"), Access::ReadWrite, None);
        Self {
            listener: listener.unwrap(),
            folder,
        }
    }

    /// A publisher, and the ring that it was given.
    fn publisher(&self) -> (Publisher, RingPeer, SharedRing, Reader) {
        let path = self.folder.join("socket");
        let publisher = thread::spawn(move || Publisher::connect(&path).unwrap());
        let peer = self.listener.accept().unwrap();
        let ring = SharedRing::memfd("source", &config()).unwrap();
        let reader = ring.ring().reader().unwrap();
        assert_eq!(reader.index(), SOURCE_READER_INDEX);
        peer.give(&ring).unwrap();
        (publisher.join().unwrap(), peer, ring, reader)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn config() -> SharedConfig {
    SharedConfig::new(RingConfig {
        capacity_bytes: 1 << 16,
        readers_max: 1,
    })
}

fn channels(reader: &mut Reader) -> Vec<String> {
    let mut channels = Vec::new();
    while reader
        .drain(16, |record| {
            let publication = Publication::parse(record).unwrap();
            channels.push(publication.channel.to_owned());
        })
        .unwrap()
        > 0
    {}
    channels
}

#[test]
fn what_is_published_is_read_in_order_and_flushed() {
    let server = Server::new("order");
    let (publisher, peer, _ring, mut reader) = server.publisher();
    assert_eq!(
        peer.process_id(),
        i32::try_from(std::process::id()).unwrap()
    );
    assert!(peer.is_connected() && publisher.is_connected());
    for channel in ["a", "b", "c"] {
        let publication = Publication::json(channel, "tick", b"1");
        publisher.try_publish(&publication).unwrap();
    }
    assert_eq!(publisher.flush(SHORT), Err(PublishError::Full));
    assert_eq!(channels(&mut reader), ["a", "b", "c"]);
    assert_eq!(publisher.flush(LONG), Ok(()));
    drop(publisher);
    assert!(!peer.is_connected());
}

#[test]
fn a_full_ring_rejects_until_the_server_has_read() {
    let server = Server::new("full");
    let (publisher, _peer, _ring, mut reader) = server.publisher();
    let data = vec![b'1'; 4_000];
    let publication = Publication::json("news", "tick", &data);
    let mut count = 0;
    while publisher.try_publish(&publication) == Ok(()) {
        count += 1;
    }
    assert!((8..=16).contains(&count), "{count}");
    assert_eq!(
        publisher.publish(&publication, SHORT),
        Err(PublishError::Full)
    );
    assert_eq!(channels(&mut reader).len(), count);
    assert_eq!(publisher.publish(&publication, LONG), Ok(()));
    let data = vec![b'1'; 9_000];
    let too_large = Publication::json("news", "tick", &data);
    assert_eq!(
        publisher.try_publish(&too_large),
        Err(PublishError::TooLarge)
    );
}

#[test]
fn a_server_that_ends_is_noticed_at_the_next_publication() {
    let server = Server::new("end");
    let publication = Publication::json("news", "tick", b"1");
    // In good order, and killed: then its reader stays in the gate.
    for is_killed in [false, true] {
        let (publisher, peer, ring, mut reader) = server.publisher();
        publisher.try_publish(&publication).unwrap();
        assert_eq!(channels(&mut reader).len(), 1);
        publisher.try_publish(&publication).unwrap();
        drop(peer);
        let gone = match is_killed {
            false => {
                drop(reader);
                None
            }
            true => Some(reader),
        };
        for patience in [Duration::ZERO, LONG] {
            assert_eq!(publisher.flush(patience), Err(PublishError::Disconnected));
        }
        let mut written = 0;
        let error = loop {
            match publisher.try_publish(&publication) {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error, PublishError::Disconnected);
        assert_eq!(written == 0, !is_killed, "{written}");
        drop((gone, ring));
    }
}

#[test]
fn one_wait_is_ended_by_a_record_of_any_ring() {
    let rings: Vec<_> = (0..3)
        .map(|_| {
            Ring::new(RingConfig {
                capacity_bytes: 4096,
                readers_max: 1,
            })
            .unwrap()
        })
        .collect();
    let mut readers: Vec<_> = rings.iter().map(|ring| ring.reader().unwrap()).collect();
    assert!(!wait_any(&readers.iter().collect::<Vec<_>>(), SHORT));
    assert!(!wait_any(&[], SHORT));
    let turns = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            for index in (0..300).map(|turn| turn % 3) {
                turns.wait();
                let writer = rings[index].writer();
                writer.try_write(0, &[b"x"]).unwrap();
                writer.wake_sleepers();
            }
        });
        for index in (0..300).map(|turn| turn % 3) {
            turns.wait();
            // It may return early, but not without a record for ever.
            while !wait_any(&readers.iter().collect::<Vec<_>>(), LONG) {}
            assert_eq!(readers[index].drain(16, |_| {}), Ok(1));
        }
    });
}
