//! What did not arrive as it was published.

use crate::{
    ledger::{Ledger, SequenceCheck},
    report::Report,
};

/// The faults of several connections together.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Not delivered, counted once per connection.
    pub(super) lost: u64,
    pub(super) out_of_order: u64,
    pub(super) duplicates: u64,
    pub(super) altered: u64,
    pub(super) disconnects: u64,
    /// What the first of them was.
    pub(super) first: Option<String>,
}

impl Faults {
    /// A publication has arrived.
    pub(super) fn arrived(&mut self, ledger: &mut Ledger, sequence: u64) {
        match ledger.take(sequence) {
            SequenceCheck::InOrder => {}
            SequenceCheck::Gap(gap) => self.lost += gap.end - gap.start,
            SequenceCheck::Late => {
                self.lost -= 1;
                self.out_of_order += 1;
            }
            SequenceCheck::Duplicate => self.duplicates += 1,
        }
    }

    /// Something else was not as published.
    pub(super) fn altered(&mut self, words: String) {
        self.altered += 1;
        self.first.get_or_insert(words);
    }

    /// A connection has ended.
    pub(super) fn disconnected(&mut self, words: impl Into<String>) {
        self.disconnects += 1;
        self.first.get_or_insert_with(|| words.into());
    }

    /// Adds all of them; `whose` begins the keys and the labels.
    pub(super) fn report(&self, report: &mut Report, whose: &str) {
        for (key, label, count) in [
            ("lost_total", "lost", self.lost),
            ("out_of_order_total", "out of order", self.out_of_order),
            ("duplicates_total", "duplicates", self.duplicates),
            ("altered_total", "altered messages", self.altered),
            ("disconnects_total", "disconnected", self.disconnects),
        ] {
            report.failure_count(
                &format!("{whose}_{key}"),
                &format!("{whose}: {label}"),
                count,
            );
        }
        if let Some(words) = &self.first {
            report.note(format!("{whose}: {words}"));
        }
    }
}
