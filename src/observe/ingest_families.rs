//! The metrics of the programs that publish through shared memory.

use super::families::{Family, Sample, Sources, labelled};
use crate::base::label::Label;
use crate::base::metric::{MetricKind, MetricValue};
use crate::base::{IngestRejection, SourceCounters, SourceRejection};
use std::borrow::Cow;

/// The metrics by source. There are none until a program has connected.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "fanwire_ingest_sources",
        help: "Programs on this host that publish through shared memory now",
        kind: MetricKind::Gauge,
        labels: &["source"],
        collect: |sources| by_name(sources, SourceCounters::connected),
    },
    Family {
        name: "fanwire_ingest_sources_rejected",
        help: "Programs that wanted to publish through shared memory and were disconnected at once",
        kind: MetricKind::Counter,
        labels: &["reason"],
        collect: |sources| {
            let reasons = SourceRejection::ALL.iter();
            let count = |reason| sources.process_state.ingest.rejected(reason);
            labelled(reasons.map(|reason| (reason.name(), count(*reason))))
        },
    },
    Family {
        name: "fanwire_ingest_publications",
        help: "Publications from shared memory that were accepted",
        kind: MetricKind::Counter,
        labels: &["source"],
        collect: |sources| by_name(sources, |source| source.accepted().0),
    },
    Family {
        name: "fanwire_ingest_bytes",
        help: "Bytes of these publications, as their programs have written them",
        kind: MetricKind::Counter,
        labels: &["source"],
        collect: |sources| by_name(sources, |source| source.accepted().1),
    },
    Family {
        name: "fanwire_ingest_rejected",
        help: "Publications from shared memory that were rejected",
        kind: MetricKind::Counter,
        labels: &["source", "reason"],
        collect: |sources| {
            let names = sources.process_state.ingest.names();
            let samples = names.iter().flat_map(|source| {
                IngestRejection::ALL.iter().map(|reason| Sample {
                    labels: vec![
                        Cow::Owned(source.name().to_owned()),
                        Cow::Borrowed(reason.name()),
                    ],
                    value: MetricValue::Whole(source.rejected(*reason)),
                })
            });
            samples.collect()
        },
    },
    Family {
        name: "fanwire_ingest_missed_bytes",
        help: "Bytes in shared memory that were not read: their program has overwritten them, or it or the server has ended before",
        kind: MetricKind::Counter,
        labels: &["source"],
        collect: |sources| by_name(sources, SourceCounters::missed_bytes),
    },
];

fn by_name(sources: &Sources, value: impl Fn(&SourceCounters) -> u64) -> Vec<Sample> {
    let names = sources.process_state.ingest.names();
    let samples = names.iter().map(|source| Sample {
        labels: vec![Cow::Owned(source.name().to_owned())],
        value: MetricValue::Whole(value(source)),
    });
    samples.collect()
}
