//! Per-connection bookkeeping: is each publication the one after the last?

use std::ops::Range;

/// How far back a missing sequence number is remembered: one that arrives within it is late, not
/// twice there.
const MEMORY: u64 = 64;

/// What an arrived sequence number means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SequenceCheck {
    /// The expected one.
    InOrder,
    /// These are missing before it; counted as lost unless they come late.
    Gap(Range<u64>),
    /// One of the missing ones: not lost, but out of order.
    Late,
    /// It was here before.
    Duplicate,
}

/// The state of one subscriber.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Ledger {
    next: u64,
    /// Bit i stands for sequence number `next - 1 - i`: set if that one is missing.
    missing: u64,
}

impl Ledger {
    /// The sequence number that should come next.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The expected publication came.
    #[inline]
    pub(crate) fn advance(&mut self) {
        self.next += 1;
        self.missing <<= 1;
    }

    /// Some publication came.
    pub(crate) fn take(&mut self, sequence: u64) -> SequenceCheck {
        if sequence == self.next {
            self.advance();
            return SequenceCheck::InOrder;
        }
        if sequence > self.next {
            let gap = self.next..sequence;
            let length = sequence - self.next;
            let skipped = if length >= MEMORY {
                u64::MAX
            } else {
                !(u64::MAX << length)
            };
            self.missing = self
                .missing
                .checked_shl(u32::try_from(length).unwrap_or(u32::MAX))
                .unwrap_or(0)
                | skipped;
            self.next = sequence;
            self.advance();
            return SequenceCheck::Gap(gap);
        }
        let age = self.next - 1 - sequence;
        let bit = if age < MEMORY { 1 << age } else { 0 };
        if self.missing & bit != 0 {
            self.missing &= !bit;
            return SequenceCheck::Late;
        }
        SequenceCheck::Duplicate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn check(sequences: &[u64], expected: &[SequenceCheck]) {
        let mut ledger = Ledger::default();
        let verdicts: Vec<_> = sequences
            .iter()
            .map(|&sequence| ledger.take(sequence))
            .collect();
        assert_eq!(verdicts, expected, "{sequences:?}");
    }

    #[test]
    fn loss_lateness_and_repetition_are_told_apart() {
        use SequenceCheck::{Duplicate, Gap, InOrder, Late};
        check(&[0, 1, 2], &[InOrder, InOrder, InOrder]);
        check(&[0, 2, 3], &[InOrder, Gap(1..2), InOrder]);
        check(&[1, 0, 2], &[Gap(0..1), Late, InOrder]);
        check(&[0, 0], &[InOrder, Duplicate]);
        check(&[2, 1, 1, 0], &[Gap(0..2), Late, Duplicate, Late]);
        check(&[64, 0, 1], &[Gap(0..64), Duplicate, Late]);
        check(&[1000, 999, 1], &[Gap(0..1000), Late, Duplicate]);
    }

    proptest! {
        #[test]
        fn gaps_less_late_ones_are_what_never_came(sequences in prop::collection::vec(0u64..60, 0..200)) {
            let (mut ledger, mut lost, mut seen) = (Ledger::default(), 0i64, HashSet::new());
            for &sequence in &sequences {
                let is_new = seen.insert(sequence);
                match ledger.take(sequence) {
                    SequenceCheck::Gap(gap) => lost += i64::try_from(gap.count()).unwrap(),
                    SequenceCheck::Late => lost -= 1,
                    SequenceCheck::Duplicate => prop_assert!(!is_new),
                    SequenceCheck::InOrder => prop_assert!(is_new),
                }
            }
            let never_came = (0..ledger.next()).filter(|sequence| !seen.contains(sequence)).count();
            prop_assert_eq!(lost, i64::try_from(never_came).unwrap());
        }
    }
}
