//! The connections of a shard that have yet to authenticate: those whose request is read or answered,
//! and sessions that must authenticate.
//!
//! ```text
//!   accepted ─▶ in the pool, in the order of their age ─▶ admitted: counts against the limits
//!                                                     ├─▶ closed
//!                                                     └─▶ the oldest, closed for the newest
//! ```
//!
//! A newcomer always gets in. Where a limit is reached, the oldest goes: one that authenticates in
//! time never waits behind those that do not. A shard judges by its own part of the limit and closes
//! only its own connections, so no shard depends on who connects to another.
//!
//! A connection from a trusted proxy counts against no address until the proxy has named its client,
//! or its request is rejected; the limit of the shard holds for it from the start.

use crate::base::counters::{CloseReason, RejectReason};
use crate::base::{ConnectionId, Now, network_of};
use crate::broker::Quotas;
use crate::config::Policy;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Which limit of connections before authentication is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    Shard,
    Address,
}

impl Excess {
    /// Why a session is closed for it.
    pub(super) const fn close_reason(self) -> CloseReason {
        match self {
            Self::Shard => CloseReason::UnauthenticatedMax,
            Self::Address => CloseReason::UnauthenticatedPerIpMax,
        }
    }

    /// Why a connection is closed for it that is no session yet.
    pub(super) const fn reject_reason(self) -> RejectReason {
        match self {
            Self::Shard => RejectReason::UnauthenticatedMax,
            Self::Address => RejectReason::UnauthenticatedPerIpMax,
        }
    }
}

/// A table of its own, because it is small and an authenticated connection is not to pay for it.
#[derive(Debug)]
pub(super) struct UnauthenticatedPool {
    quotas: Arc<Quotas>,
    /// This shard's part of the limit of the process; 0 = none.
    connections_max: usize,
    /// Connections of one address over all shards; 0 = no limit.
    per_ip_max: u32,
    /// How many have entered, which numbers them.
    entered: u64,
    /// Number of each, and its address once that is known.
    members: BTreeMap<ConnectionId, (u64, Option<IpAddr>)>,
    by_age: BTreeMap<u64, ConnectionId>,
    /// The same for each address, where there is a limit.
    by_address: BTreeMap<IpAddr, BTreeSet<u64>>,
}

impl UnauthenticatedPool {
    pub(super) fn new(policy: &Policy, shard_count: usize, quotas: Arc<Quotas>) -> Self {
        let in_all = usize::try_from(policy.unauthenticated_max).unwrap_or(usize::MAX);
        Self {
            quotas,
            connections_max: in_all.div_ceil(shard_count.max(1)),
            per_ip_max: policy.unauthenticated_per_ip_max,
            entered: 0,
            members: BTreeMap::new(),
            by_age: BTreeMap::new(),
            by_address: BTreeMap::new(),
        }
    }

    /// Adds a connection, which counts against no address if that of its client is not known yet;
    /// returns the oldest other one of the address if that has too many.
    pub(super) fn enter(
        &mut self,
        id: ConnectionId,
        client: Option<SocketAddr>,
        now: Now,
    ) -> Option<ConnectionId> {
        let address = client.map(|client| network_of(client.ip()));
        let number = self.entered;
        self.entered += 1;
        self.members.insert(id, (number, address));
        self.by_age.insert(number, id);
        self.add_to_address(number, address?, now)
    }

    pub(super) fn has(&self, id: ConnectionId) -> bool {
        self.members.contains_key(&id)
    }

    /// Counts a connection against the address of its client, unless it counts already; returns the
    /// same.
    pub(super) fn count_address(
        &mut self,
        id: ConnectionId,
        client: SocketAddr,
        now: Now,
    ) -> Option<ConnectionId> {
        let (number, address @ None) = self.members.get_mut(&id)? else {
            return None;
        };
        let (number, address) = (*number, *address.insert(network_of(client.ip())));
        self.add_to_address(number, address, now)
    }

    fn add_to_address(&mut self, number: u64, address: IpAddr, now: Now) -> Option<ConnectionId> {
        if self.per_ip_max == 0 {
            return None;
        }
        let of_address = self.by_address.entry(address).or_default();
        of_address.insert(number);
        if self.quotas.add_unauthenticated(address, now) <= self.per_ip_max {
            return None;
        }
        let oldest = of_address.iter().find(|oldest| **oldest != number)?;
        self.by_age.get(oldest).copied()
    }

    /// Removes a connection, which may not be in the pool.
    pub(super) fn leave(&mut self, id: ConnectionId) {
        let Some((number, address)) = self.members.remove(&id) else {
            return;
        };
        self.by_age.remove(&number);
        let Some(address) = address.filter(|_| self.per_ip_max != 0) else {
            return;
        };
        self.quotas.remove_unauthenticated(address);
        if let Some(of_address) = self.by_address.get_mut(&address) {
            of_address.remove(&number);
            if of_address.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }

    /// Whether the shard has more than its part.
    pub(super) fn is_over(&self) -> bool {
        self.connections_max != 0 && self.members.len() > self.connections_max
    }

    /// The connection that has been in the pool for the longest time, other than `newcomer`.
    pub(super) fn oldest(&self, newcomer: Option<ConnectionId>) -> Option<ConnectionId> {
        let oldest = self.by_age.first_key_value().map(|(_, id)| *id);
        oldest.filter(|oldest| Some(*oldest) != newcomer)
    }

    pub(super) fn count(&self) -> usize {
        self.members.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now::at(0, 0);

    fn pool(connections_max: u64, per_ip_max: u32, quotas: &Arc<Quotas>) -> UnauthenticatedPool {
        let policy = Policy {
            unauthenticated_max: connections_max,
            unauthenticated_per_ip_max: per_ip_max,
            ..Policy::default()
        };
        UnauthenticatedPool::new(&policy, 2, Arc::clone(quotas))
    }

    fn id(slot: u32) -> ConnectionId {
        ConnectionId::new(slot, 0)
    }

    fn peer(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 9)
    }

    #[test]
    fn the_oldest_is_the_one_that_entered_first_of_those_that_stay() {
        let mut pool = pool(6, 0, &Arc::default());
        let address = peer("192.0.2.1");
        for slot in [7, 5, 9] {
            assert_eq!(pool.enter(id(slot), Some(address), NOW), None);
        }
        assert!(!pool.is_over(), "three is its part of six");
        pool.leave(id(7));
        assert_eq!(pool.oldest(None), Some(id(5)));
        // It enters again, and is the youngest.
        pool.leave(id(5));
        pool.enter(id(5), Some(address), NOW);
        assert_eq!(pool.oldest(None), Some(id(9)));
        pool.enter(id(1), Some(address), NOW);
        pool.enter(id(2), Some(address), NOW);
        assert!(pool.is_over());
        for slot in [9, 5, 1, 2, 2] {
            pool.leave(id(slot));
        }
        pool.enter(id(3), Some(address), NOW);
        assert_eq!((pool.oldest(Some(id(3))), pool.count()), (None, 1));
    }

    #[test]
    fn an_address_is_counted_over_all_shards_and_an_ipv6_network_as_one() {
        let quotas = Arc::default();
        let (mut here, mut there) = (pool(0, 2, &quotas), pool(0, 2, &quotas));
        let same = ["2001:db8::1", "2001:db8::ffff:1", "2001:db8::2:0:0:0"].map(peer);
        assert_eq!(here.enter(id(1), Some(same[0]), NOW), None);
        assert_eq!(
            here.enter(id(2), Some(peer("2001:db8:0:1::1")), NOW),
            None,
            "another"
        );
        assert_eq!(there.enter(id(1), Some(same[1]), NOW), None);
        assert_eq!(here.enter(id(3), Some(same[2]), NOW), Some(id(1)));
        // Nobody else of the address is here.
        assert_eq!(pool(0, 2, &quotas).enter(id(1), Some(same[0]), NOW), None);
        // An address of IPv4 is the same in both forms.
        assert_eq!(here.enter(id(4), Some(peer("192.0.2.1")), NOW), None);
        assert_eq!(here.enter(id(5), Some(peer("::ffff:192.0.2.1")), NOW), None);
        assert_eq!(here.enter(id(6), Some(peer("192.0.2.1")), NOW), Some(id(4)));
        for slot in 1..=6 {
            here.leave(id(slot));
        }
        there.leave(id(1));
        assert!(here.by_address.is_empty() && here.by_age.is_empty());
        assert_eq!(
            quotas.add_unauthenticated(network_of(peer("192.0.2.1").ip()), NOW),
            1
        );
    }

    #[test]
    fn an_address_that_becomes_known_later_counts_once_and_from_then_on() {
        let quotas = Arc::default();
        let mut pool = pool(0, 2, &quotas);
        let client = peer("192.0.2.1");
        for slot in 1..=4 {
            assert_eq!(pool.enter(id(slot), None, NOW), None);
        }
        assert!(quotas_are_empty(&quotas, client));
        // In another order than they came.
        assert_eq!(pool.count_address(id(4), client, NOW), None);
        assert_eq!(pool.count_address(id(2), client, NOW), None);
        assert_eq!(pool.count_address(id(2), client, NOW), None, "once");
        // The oldest other one of the address, which is younger.
        assert_eq!(pool.count_address(id(1), client, NOW), Some(id(2)));
        pool.leave(id(2));
        assert_eq!(pool.count_address(id(2), client, NOW), None, "it has left");
        assert_eq!(pool.count_address(id(1), peer("192.0.2.2"), NOW), None);
        for slot in [1, 3, 4, 4] {
            pool.leave(id(slot));
        }
        assert_eq!(pool.count(), 0);
        assert!(pool.by_address.is_empty() && pool.by_age.is_empty());
        assert!(quotas_are_empty(&quotas, client));
    }

    fn quotas_are_empty(quotas: &Quotas, client: SocketAddr) -> bool {
        let address = network_of(client.ip());
        let is_first = quotas.add_unauthenticated(address, NOW) == 1;
        quotas.remove_unauthenticated(address);
        is_first
    }
}
