//! One order for everyone: the sequences of all clients must fit into one.
//!
//! Clients are not compared in pairs. All sequences are merged to one order (Kahn, 1962), which is
//! possible only if no two of them disagree, nor three or more in a circle; and each sequence must
//! be strictly increasing in that order, so whatever two clients have in common has the same order in
//! both, and nothing comes twice.

use std::collections::HashMap;

/// The sequences do not fit into one order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Disagreement {
    /// The items that cannot be put in order, the smallest first.
    pub(crate) items: Vec<u64>,
}

/// The position of each item in an order that all sequences follow.
pub(crate) fn merge<'a>(
    sequences: impl Iterator<Item = &'a [u64]>,
) -> Result<HashMap<u64, usize>, Disagreement> {
    let mut followers = HashMap::<u64, Vec<u64>>::new();
    let mut predecessors = HashMap::<u64, usize>::new();
    for sequence in sequences {
        for item in sequence {
            predecessors.entry(*item).or_default();
        }
        for pair in sequence.windows(2) {
            followers.entry(pair[0]).or_default().push(pair[1]);
            *predecessors.entry(pair[1]).or_default() += 1;
        }
    }
    let free = predecessors.iter().filter(|(_, count)| **count == 0);
    let mut free: Vec<_> = free.map(|(item, _)| *item).collect();
    let mut positions = HashMap::with_capacity(predecessors.len());
    while let Some(item) = free.pop() {
        positions.insert(item, positions.len());
        for follower in followers.remove(&item).unwrap_or_default() {
            let count = predecessors.get_mut(&follower).unwrap();
            *count -= 1;
            if *count == 0 {
                free.push(follower);
            }
        }
    }
    let left = predecessors.keys();
    let mut items: Vec<_> = left
        .filter(|item| !positions.contains_key(*item))
        .copied()
        .collect();
    items.sort_unstable();
    if items.is_empty() {
        Ok(positions)
    } else {
        Err(Disagreement { items })
    }
}

/// Whether `sequence` is strictly increasing in the order that `position` gives.
pub(crate) fn is_increasing(sequence: &[u64], position: impl Fn(u64) -> usize) -> bool {
    sequence
        .windows(2)
        .all(|pair| position(pair[0]) < position(pair[1]))
}

/// Fails where the lists first differ.
pub(crate) fn assert_same<T: PartialEq + std::fmt::Debug>(
    received: &[T],
    expected: &[T],
    who: &str,
) {
    let pairs = received.iter().zip(expected);
    let same = pairs.take_while(|(one, other)| one == other).count();
    assert!(
        received.len() == expected.len() && same == expected.len(),
        "{who} received {:?} as number {same} of {}, and not {:?} of {}",
        received.get(same),
        received.len(),
        expected.get(same),
        expected.len()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn check(sequences: &[&[u64]], left: &[u64]) {
        let merged = merge(sequences.iter().copied());
        match merged {
            Ok(positions) => {
                assert_eq!(left, [0; 0]);
                for sequence in sequences {
                    assert!(is_increasing(sequence, |item| positions[&item]));
                }
            }
            Err(Disagreement { items }) => assert_eq!(items, left),
        }
    }

    #[test]
    fn sequences_that_agree_are_merged() {
        check(&[], &[]);
        check(&[&[1, 3, 5], &[2, 3, 4], &[], &[1, 2, 5]], &[]);
        assert!(!is_increasing(&[2, 1], |item| usize::try_from(item).unwrap()));
        assert!(!is_increasing(&[1, 1], |item| usize::try_from(item).unwrap()));
    }

    #[test]
    fn two_short_sequences_that_disagree_are_found_among_longer_ones() {
        check(&[&[9, 8, 7, 6, 5], &[1, 2], &[2, 1], &[]], &[1, 2]);
    }

    #[test]
    fn three_sequences_that_disagree_in_a_circle_are_found() {
        check(&[&[1, 2], &[2, 3], &[3, 1]], &[1, 2, 3]);
    }

    #[test]
    fn an_item_that_comes_twice_is_found() {
        check(&[&[1, 2, 1]], &[1, 2]);
        check(&[&[1, 1]], &[1]);
    }

    /// The plain way: each pair of items of each pair of sequences.
    fn pair_disagrees(one: &[u64], other: &[u64]) -> bool {
        let common: Vec<_> = one.iter().filter(|item| other.contains(item)).collect();
        let position = |item: &u64| other.iter().position(|known| known == item);
        !common.is_sorted_by_key(|item| position(item))
    }

    #[test]
    fn whatever_a_comparison_of_all_pairs_finds_is_found() {
        let mut disagreed = 0;
        for seed in 0..500 {
            let mut random = Random::new(seed);
            let mut sequences: Vec<Vec<u64>> = (0..4)
                .map(|_| (0..20).filter(|_| random.once_in(3)).collect())
                .collect();
            let changed = random.below(sequences.len());
            let length = sequences[changed].len();
            if length > 1 && random.once_in(2) {
                let at = random.below(length - 1);
                sequences[changed].swap(at, at + 1);
            }
            let mut pairs = sequences.iter().enumerate().flat_map(|(index, one)| {
                let others = sequences[..index].iter();
                others.map(move |other| (one, other))
            });
            let disagrees = pairs.any(|(one, other)| pair_disagrees(one, other));
            disagreed += usize::from(disagrees);
            let merged = merge(sequences.iter().map(Vec::as_slice));
            assert!(!disagrees || merged.is_err(), "seed {seed}: {sequences:?}");
        }
        assert!(disagreed > 0, "no seed made sequences that disagree");
    }
}
