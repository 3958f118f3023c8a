//! What must be true when a run of the world is over.

use crate::client::Received;
use crate::order;
use crate::world::World;
use fanwire::base::counters::{CloseReason, DropReason};
use fanwire::base::{ShardCounters, Variant};

impl World {
    /// Lets everything arrive, then compares.
    pub(crate) fn finish(mut self) {
        self.deliver_all();
        self.check_counters();
        self.check_order();
        self.check_received();
    }

    fn sum(&self, pick: impl Fn(&ShardCounters) -> u64) -> u64 {
        self.counters.iter().map(|counters| pick(counters)).sum()
    }

    fn check_received(mut self) {
        let expected = std::mem::take(&mut self.oracle).finish();
        let queued: usize = expected.values().map(Vec::len).sum();
        let left = self.sum(|counters| {
            let dropped = counters.dropped.values().map(|(_, count)| count);
            counters.deliveries.value() + dropped.sum::<u64>()
        });
        assert_eq!(
            left, queued as u64,
            "all that was queued was delivered or dropped"
        );
        let (mut complete, mut with_several_channels) = (0, 0);
        for (index, client) in self.clients.iter().enumerate() {
            assert_eq!(client.close, None, "client {index} was closed");
            let mut expected = expected.get(&index).cloned().unwrap_or_default();
            let mut received = client.received.clone();
            if !self.ring_fits() {
                // What it must receive is known, but not in which order: `check_order` is for that.
                expected.sort_unstable_by_key(|publication| publication.number);
                received.sort_unstable_by_key(|publication| publication.number);
            }
            if client.is_gone {
                assert!(
                    self.ring_fits() && expected.starts_with(&received),
                    "client {index} left, and received something else before"
                );
                continue;
            }
            order::assert_same(&received, &expected, &format!("client {index}"));
            assert!(!client.has_part_of_a_frame(), "client {index}");
            assert_eq!(
                client.acknowledged, client.requested,
                "client {index}: acknowledgements"
            );
            complete += usize::from(!expected.is_empty());
            let first = received.first().map(|first| first.channel);
            let mut others = received.iter();
            let has_several = others.any(|other| Some(other.channel) != first);
            with_several_channels += usize::from(has_several);
        }
        assert!(
            complete >= self.clients.len() / 10,
            "only {complete} clients received anything"
        );
        assert!(
            with_several_channels >= complete / 8,
            "only {with_several_channels} of {complete} clients received publications of several channels"
        );
    }

    /// Any two clients received what both have in the same order, whatever the channels; and the
    /// order is the publishers'.
    fn check_order(&self) {
        let numbers = |received: &[Received]| -> Vec<u64> {
            let numbers = received.iter().map(|publication| publication.number);
            numbers.collect()
        };
        let clients = self.clients.iter();
        let sequences: Vec<_> = clients.map(|client| numbers(&client.received)).collect();
        let publishers = self.by_publisher.values();
        let all = sequences.iter().chain(publishers).map(Vec::as_slice);
        let positions = order::merge(all).unwrap_or_else(|disagreement| {
            let items = &disagreement.items;
            let shown = &items[..items.len().min(20)];
            panic!(
                "{} publications have no order that all agree on, among them {shown:?}",
                items.len()
            )
        });
        for (index, sequence) in sequences.iter().enumerate() {
            let fits = order::is_increasing(sequence, |number| positions[&number]);
            assert!(fits, "client {index} received in another order than others");
            // Where the ring never fills, the log has the order of the node.
            let is_as_published =
                order::is_increasing(sequence, |number| usize::try_from(number).unwrap());
            assert!(
                is_as_published || !self.ring_fits(),
                "client {index} received in another order than published"
            );
        }
    }

    fn check_counters(&self) {
        let received: usize = self
            .clients
            .iter()
            .map(|client| client.received.len())
            .sum();
        assert_eq!(
            self.sum(|counters| counters.deliveries.value()),
            received as u64,
            "deliveries are what clients received"
        );
        let published = self.oracle.log().len() as u64;
        assert_eq!(
            self.sum(|counters| counters.publications.value()),
            published
        );
        for variant in Variant::all() {
            let encodes = self.sum(|counters| counters.encodes.of(variant).value());
            // A late subscriber's shard may have to encode for itself.
            assert!(encodes <= published * (1 + self.plan.shards as u64));
        }
        let full = self.sum(|counters| counters.ring_full.value());
        assert_eq!(
            full > 0,
            !self.ring_fits(),
            "the ring was full {full} times"
        );
        let slow = self.sum(|counters| counters.dropped.of(DropReason::SlowConsumer).value());
        assert_eq!(slow, 0, "nobody was slow");
        let gone = self.clients.iter().filter(|client| client.is_gone).count();
        let closes = self.sum(|counters| counters.closes.values().map(|(_, count)| count).sum());
        let by_peer = self.sum(|counters| counters.closes.of(CloseReason::Peer).value());
        assert_eq!((closes, by_peer), (gone as u64, gone as u64));
        assert_eq!(
            self.process_state.sessions_total(),
            (self.clients.len() - gone) as u64
        );
    }
}
