//! What happens to records of the ring that are no publication?

use crate::client::request;
use crate::shards::shards;
use fanwire::base::{DialectId, Now};

const NOW: Now = Now::at(1_000, 1_700_000_000_000);

#[test]
fn records_that_cannot_be_read_are_counted_and_skipped() {
    let mut shards = shards(1, 1 << 16, 1 << 20, NOW);
    let shard = &mut shards.shards[0];
    let id = shard.accept(([127, 0, 0, 1], 9).into(), 0, NOW).unwrap();
    shard.receive(id, &mut request(DialectId::Gateway), NOW);
    let tag = shards.process_state.interests.tag("all").bits();
    let writer = shards.ring.writer();
    // No form; a whole record without a header; a fragment that names no publication.
    for record in [&b"\x09garbage"[..], b"\x01\x00\x00\x00", b"\x02\x00"] {
        writer.try_write(tag, &[record]).unwrap();
    }
    while shard.has_unread() {
        shard.drain_ring(NOW);
    }
    let counters = &shards.counters[0];
    assert_eq!(counters.ring_malformed.value(), 3);
    assert_eq!(counters.ring_records.value(), 3);
}
