//! How many questions are answered at a time, and of whom.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Questions of one kind that are answered at a time. Those of sessions that have ended count until
/// they are answered or their time is over, so a client that comes and goes cannot pile them up.
const SLOTS: usize = 4_096;
/// Slots that one address may have while more than half of all are taken.
const OF_ONE_MAX: usize = SLOTS / 16;

/// The slots for questions of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct QuestionSlots(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    count: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// A slot, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct QuestionSlot {
    slots: QuestionSlots,
    client: IpAddr,
}

impl QuestionSlots {
    /// A slot for a question of this client; `None` while there are none, or none for it.
    pub(super) fn take(&self, client: IpAddr) -> Option<QuestionSlot> {
        let mut taken = self.lock();
        let of_client = taken.by_client.get(&client).copied().unwrap_or_default();
        let is_scarce = taken.count >= SLOTS / 2;
        if taken.count == SLOTS || is_scarce && of_client >= OF_ONE_MAX {
            return None;
        }
        taken.count += 1;
        taken.by_client.insert(client, of_client + 1);
        Some(QuestionSlot {
            slots: self.clone(),
            client,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for QuestionSlot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        taken.count -= 1;
        if let Some(of_client) = taken.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_takes_half_of_the_places_and_leaves_the_rest_to_others() {
        let slots = QuestionSlots::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let take = |client| std::iter::from_fn(|| slots.take(address(client))).collect::<Vec<_>>();
        let greedy = take(1);
        assert_eq!(greedy.len(), SLOTS / 2);
        let others: Vec<_> = (2..20).flat_map(take).collect();
        assert_eq!(others.len(), SLOTS / 2);
        assert_eq!(
            others[..=OF_ONE_MAX]
                .iter()
                .filter(|it| it.client == address(2))
                .count(),
            OF_ONE_MAX
        );
        assert!(slots.take(address(30)).is_none(), "all are taken");
        drop(others);
        drop(greedy);
        let taken = slots.lock();
        assert_eq!((taken.count, taken.by_client.len()), (0, 0));
    }
}
