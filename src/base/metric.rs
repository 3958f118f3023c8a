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

/// The kind of a type of metrics, without a value of it.
pub(super) trait HasKind {
    /// Its kind.
    const KIND: MetricKind;
}

impl HasKind for Counter {
    const KIND: MetricKind = MetricKind::Counter;
}

impl HasKind for Gauge {
    const KIND: MetricKind = MetricKind::Gauge;
}

impl<L> HasKind for CounterSet<L> {
    const KIND: MetricKind = MetricKind::Counter;
}

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A count that only grows; its series end in `_total`.
    Counter,
    /// A value that goes up and down.
    Gauge,
}

/// The values of a metric.
pub trait Metric {
    /// Calls `visit` with each label value, if there is a label, and the value.
    fn visit(&self, visit: &mut dyn FnMut(Option<&'static str>, u64));
}

impl Metric for Counter {
    fn visit(&self, visit: &mut dyn FnMut(Option<&'static str>, u64)) {
        visit(None, self.value());
    }
}

impl Metric for Gauge {
    fn visit(&self, visit: &mut dyn FnMut(Option<&'static str>, u64)) {
        visit(None, self.value());
    }
}

impl<L: Label> Metric for CounterSet<L> {
    fn visit(&self, visit: &mut dyn FnMut(Option<&'static str>, u64)) {
        for (label, value) in self.values() {
            visit(Some(label), value);
        }
    }
}

/// The declaration of a metric of the group `G`.
pub struct MetricDeclaration<G: 'static> {
    /// The name, without prefix and `_total`.
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

impl<G> MetricDeclaration<G> {
    /// The exported name of the metric family: with the prefix, and for counters without `_total`.
    #[must_use]
    pub fn family(&self) -> String {
        format!("fanwire_{}", self.name)
    }
}

/// Declares a group of metrics: a struct with a field for each, and the table of their
/// declarations.
macro_rules! metrics {
    ($(#[$outer:meta])* pub struct $Group:ident {
        $($(#[doc = $help:literal])+ $name:ident: $Type:ty $(, label = $label:literal)?;)+
    }) => {
        $(#[$outer])*
        #[derive(Debug, Default)]
        pub struct $Group {
            $($(#[doc = $help])+ pub $name: $Type,)+
        }

        impl $Group {
            /// Every metric of the group, in the order of their declarations.
            pub const DECLARATIONS: &'static [$crate::base::metric::MetricDeclaration<Self>] = &[
                $($crate::base::metric::MetricDeclaration {
                    name: stringify!($name),
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
