//! What a metric of the process is: a name, and how its values are found.

use crate::base::metric::{MetricKind, MetricValue};
use crate::base::now::Clock;
use crate::base::{ProcessState, ShardCounters, Tracer};
use crate::journal::Journal;
use fanwire_ring::Ring;
use std::borrow::Cow;
use std::sync::Arc;

/// Where values are found.
#[derive(Debug)]
pub struct Sources {
    /// The counters of all shards, and those of publications from outside the shards.
    pub shards: Vec<Arc<ShardCounters>>,
    /// What all shards share.
    pub process_state: Arc<ProcessState>,
    /// The ring.
    pub ring: Ring,
    /// What is in the durable store, if there is one.
    pub journal: Option<Arc<Journal>>,
    /// The buffers of all shards that receive, bytes.
    pub receive_buffer_bytes: u64,
    /// Where something is traced.
    pub tracer: Option<Tracer>,
    /// The clock that was started with the server.
    pub clock: Clock,
}

/// A metric of the process.
pub(super) struct Family {
    /// Its name, for counters without `_total`.
    pub(super) name: &'static str,
    /// One sentence, without its full stop.
    pub(super) help: &'static str,
    pub(super) kind: MetricKind,
    /// The names of its labels.
    pub(super) labels: &'static [&'static str],
    /// Its series now; none if it is of a part that this process does not have.
    pub(super) collect: fn(&Sources) -> Vec<Sample>,
}

/// One series.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    /// The values of the labels, in the order of their names.
    pub(super) labels: Vec<Cow<'static, str>>,
    pub(super) value: MetricValue,
}

impl Sample {
    /// A series with these values of its labels.
    pub(super) fn of<const N: usize>(labels: [&'static str; N], value: MetricValue) -> Self {
        Self {
            labels: labels.into_iter().map(Cow::Borrowed).collect(),
            value,
        }
    }
}

/// The series of a metric without labels.
pub(super) fn one(value: u64) -> Vec<Sample> {
    vec![Sample::of([], MetricValue::Whole(value))]
}

/// The series of a metric with one label.
pub(super) fn labelled(values: impl IntoIterator<Item = (&'static str, u64)>) -> Vec<Sample> {
    let values = values.into_iter();
    let sample = |(label, value)| Sample::of([label], MetricValue::Whole(value));
    values.map(sample).collect()
}
