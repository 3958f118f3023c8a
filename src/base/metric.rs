//! Metrics of a shard, which any thread can read. Each is declared once.
//!
//! Each metric has a single writer, its shard, and any number of readers, so adding needs a load
//! and a store but no locked instruction.

use super::label::Label;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Only the owning shard calls this.
    pub fn add(&self, amount: u64) {
        // Relaxed, and not read-modify-write: there is one writer, and readers need only the value
        // itself.
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(amount);
        self.0.store(sum, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn value(&self) -> u64 {
        // Relaxed: no other data depends on the value.
        self.0.load(Ordering::Relaxed)
    }
}

/// A time that only grows, exported in seconds.
#[derive(Debug, Default)]
pub struct MillisCounter(Counter);

impl MillisCounter {
    /// Adds milliseconds. Only the owning shard calls this.
    pub fn add(&self, millis: u64) {
        self.0.add(millis);
    }

    /// Milliseconds so far.
    #[must_use]
    pub fn millis(&self) -> u64 {
        self.0.value()
    }
}

/// A value that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets the value. Only the owning shard calls this.
    pub fn set(&self, value: u64) {
        // Relaxed: there is one writer, and readers need only the value itself.
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn value(&self) -> u64 {
        // Relaxed: no other data depends on the value.
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter per value of a label.
#[derive(Debug)]
pub struct CounterSet<L>(Box<[Counter]>, PhantomData<L>);

impl<L: Label> Default for CounterSet<L> {
    fn default() -> Self {
        let counters = L::ALL.iter().map(|_| Counter::default());
        Self(counters.collect(), PhantomData)
    }
}

impl<L: Label> CounterSet<L> {
    /// The counter of one label value.
    #[must_use]
    pub fn of(&self, label: L) -> &Counter {
        &self.0[label.index()]
    }

    /// All label values with their counts.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let labels = L::ALL.iter();
        labels.map(|label| (label.name(), self.of(*label).value()))
    }
}

/// The ranges of a [`Histogram`].
pub trait Ranges: std::fmt::Debug {
    /// The highest value of each range but the last, ascending, in the unit that is recorded.
    const BOUNDS: &'static [u64];
    /// How many of that unit are one of the unit that is exported.
    const PER_UNIT: u32;
}

/// Short times: recorded in nanoseconds, exported in seconds, from a microsecond to ten seconds.
#[derive(Debug)]
pub struct ShortTime;

impl Ranges for ShortTime {
    const BOUNDS: &'static [u64] = &[
        1_000,
        2_500,
        5_000,
        10_000,
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        1_000_000_000,
        10_000_000_000,
    ];
    const PER_UNIT: u32 = 1_000_000_000;
}

/// Lifetimes of connections: recorded in milliseconds, exported in seconds, up to a day.
#[derive(Debug)]
pub struct Lifetime;

impl Ranges for Lifetime {
    const BOUNDS: &'static [u64] = &[
        100, 1_000, 10_000, 60_000, 300_000, 900_000, 3_600_000, 14_400_000, 86_400_000,
    ];
    const PER_UNIT: u32 = 1_000;
}

/// How many at once, up to some hundreds.
#[derive(Debug)]
pub struct BatchSize;

impl Ranges for BatchSize {
    const BOUNDS: &'static [u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 255, 256];
    const PER_UNIT: u32 = 1;
}

/// How many values were in which range. Like a counter, it has one writer.
#[derive(Debug)]
pub struct Histogram<R> {
    /// By range, not cumulative; the last one has no upper bound.
    counts: Box<[Counter]>,
    sum: Counter,
    ranges: PhantomData<R>,
}

impl<R: Ranges> Default for Histogram<R> {
    fn default() -> Self {
        let counts = (0..=R::BOUNDS.len()).map(|_| Counter::default());
        Self {
            counts: counts.collect(),
            sum: Counter::default(),
            ranges: PhantomData,
        }
    }
}

impl<R: Ranges> Histogram<R> {
    /// Adds a value. Only the owning shard calls this.
    pub fn record(&self, value: u64) {
        let range = R::BOUNDS.partition_point(|bound| *bound < value);
        self.counts[range].add(1);
        self.sum.add(value);
    }

    /// What was recorded so far.
    #[must_use]
    pub fn distribution(&self) -> Distribution {
        Distribution {
            bounds: R::BOUNDS,
            per_unit: R::PER_UNIT,
            counts: self.counts.iter().map(Counter::value).collect(),
            sum: self.sum.value(),
        }
    }
}

/// One histogram per value of a label.
#[derive(Debug)]
pub struct HistogramSet<L, R>(Box<[Histogram<R>]>, PhantomData<L>);

impl<L: Label, R: Ranges> Default for HistogramSet<L, R> {
    fn default() -> Self {
        let histograms = L::ALL.iter().map(|_| Histogram::default());
        Self(histograms.collect(), PhantomData)
    }
}

impl<L: Label, R: Ranges> HistogramSet<L, R> {
    /// The histogram of one label value.
    #[must_use]
    pub fn of(&self, label: L) -> &Histogram<R> {
        &self.0[label.index()]
    }
}

/// The contents of one histogram, or of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// The highest value of each range but the last.
    pub bounds: &'static [u64],
    /// How many of the unit of the bounds and the sum are one of the exported unit.
    pub per_unit: u32,
    /// Values by range, not cumulative.
    pub counts: Vec<u64>,
    /// Of all values.
    pub sum: u64,
}

impl Distribution {
    /// Adds the values of another histogram of the same ranges.
    pub fn add(&mut self, other: &Self) {
        debug_assert_eq!(self.bounds, other.bounds);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The value of a series.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricValue {
    /// A count, or a quantity in whole units.
    Whole(u64),
    /// A quantity.
    Real(f64),
    /// What a histogram has recorded.
    Distribution(Distribution),
}

/// The kind of a type of metrics, without a value of it.
pub(super) trait HasKind {
    /// Its kind.
    const KIND: MetricKind;
}

impl HasKind for Counter {
    const KIND: MetricKind = MetricKind::Counter;
}

impl HasKind for MillisCounter {
    const KIND: MetricKind = MetricKind::Counter;
}

impl HasKind for Gauge {
    const KIND: MetricKind = MetricKind::Gauge;
}

impl<L> HasKind for CounterSet<L> {
    const KIND: MetricKind = MetricKind::Counter;
}

impl<R> HasKind for Histogram<R> {
    const KIND: MetricKind = MetricKind::Histogram;
}

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A count that only grows; its series end in `_total`.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// How many values were in which range.
    Histogram,
}

/// The values of a metric.
pub trait Metric {
    /// Calls `visit` with each label value, if there is a label, and the value.
    fn visit(&self, visit: &mut dyn FnMut(Option<&'static str>, MetricValue));
}

impl Metric for Counter {
    fn visit(&self, visit: &mut dyn FnMut(Option<&'static str>, MetricValue)) {
        visit(None, MetricValue::Whole(self.value()));
    }
}

impl Metric for MillisCounter {
    fn visit(&self, visit: &mut dyn FnMut(Option<&'static str>, MetricValue)) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds stay below 2^53 for thousands of years"
        )]
        let seconds = self.millis() as f64 / 1_000.0;
        visit(None, MetricValue::Real(seconds));
    }
}

impl Metric for Gauge {
    fn visit(&self, visit: &mut dyn FnMut(Option<&'static str>, MetricValue)) {
        visit(None, MetricValue::Whole(self.value()));
    }
}

impl<L: Label> Metric for CounterSet<L> {
    fn visit(&self, visit: &mut dyn FnMut(Option<&'static str>, MetricValue)) {
        for (label, value) in self.values() {
            visit(Some(label), MetricValue::Whole(value));
        }
    }
}

impl<R: Ranges> Metric for Histogram<R> {
    fn visit(&self, visit: &mut dyn FnMut(Option<&'static str>, MetricValue)) {
        visit(None, MetricValue::Distribution(self.distribution()));
    }
}

/// The declaration of a metric of the group `G`.
pub struct MetricDeclaration<G: 'static> {
    /// The exported name, for counters without `_total`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// The name of its label, if it has one.
    pub label: Option<&'static str>,
    /// Returns the metric of a group.
    pub of: fn(&G) -> &dyn Metric,
}

/// Declares a group of metrics: a struct with a field for each, and the table of their
/// declarations. A `group` after them is a field with metrics that are not in the table.
macro_rules! metrics {
    ($(#[$outer:meta])* pub struct $Group:ident {
        $($(#[doc = $help:literal])+ $name:ident: $Type:ty $(, label = $label:literal)?;)+
        $(group $(#[$group_doc:meta])+ $group:ident: $GroupType:ty;)*
    }) => {
        $(#[$outer])*
        #[derive(Debug, Default)]
        pub struct $Group {
            $($(#[doc = $help])+ pub $name: $Type,)+
            $($(#[$group_doc])+ pub $group: $GroupType,)*
        }

        impl $Group {
            /// Every metric of the group, in the order of their declarations.
            pub const DECLARATIONS: &'static [$crate::base::metric::MetricDeclaration<Self>] = &[
                $($crate::base::metric::MetricDeclaration {
                    name: concat!("fanwire_", stringify!($name)),
                    help: concat!($($help),+),
                    kind: <$Type as $crate::base::metric::HasKind>::KIND,
                    label: metrics!(@label $($label)?),
                    of: |group| &group.$name,
                }),+
            ];
        }
    };
    (@label $label:literal) => { Some($label) };
    (@label) => { None };
}
pub(super) use metrics;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_in_the_first_range_that_it_does_not_exceed() {
        let histogram = Histogram::<BatchSize>::default();
        for value in [0, 1, 2, 3, 4, 256, 257, 1_000] {
            histogram.record(value);
        }
        let mut distribution = histogram.distribution();
        assert_eq!(distribution.counts, [2, 1, 2, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!((distribution.sum, distribution.count()), (1_523, 8));
        distribution.add(&histogram.distribution());
        assert_eq!((distribution.sum, distribution.count()), (3_046, 16));
    }
}
