//! The metrics of all shards and of the process, in the Prometheus text format.

use super::log::lost_lines;
use crate::base::label::Label;
use crate::base::metric::{MetricDeclaration, MetricKind};
use crate::base::{DialectId, HistoryRemoval, ProcessState, ShardCounters};
use crate::journal::Journal;
use crate::store::{StoreState, StoreStats};
use fanwire_ring::Ring;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

/// The `Content-Type` of what [`Metrics::openmetrics`] returns.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The `Content-Type` of what [`Metrics::text`] returns.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

#[derive(Debug)]
struct ProcessCollector {
    shards: Vec<Arc<ShardCounters>>,
    process_state: Arc<ProcessState>,
    ring: Ring,
    journal: Option<Arc<Journal>>,
}

impl Metrics {
    /// The metrics of a process with the given shards.
    #[must_use]
    pub fn new(
        shards: Vec<Arc<ShardCounters>>,
        process_state: Arc<ProcessState>,
        ring: Ring,
        journal: Option<Arc<Journal>>,
    ) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector {
            shards,
            process_state,
            ring,
            journal,
        }));
        Self { registry }
    }

    /// All metrics now, in OpenMetrics 1.0.
    ///
    /// # Errors
    /// The error of the formatter; none is expected when writing to memory.
    pub fn openmetrics(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// All metrics now, in the Prometheus text format 0.0.4. It names the family of a counter like
    /// its samples, with `_total`, and has no end marker; otherwise the two formats are the same
    /// here.
    ///
    /// # Errors
    /// The error of the formatter; none is expected when writing to memory.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let openmetrics = self.openmetrics()?;
        let mut text = String::with_capacity(openmetrics.len());
        let mut help = None;
        for line in openmetrics.lines().filter(|line| *line != "# EOF") {
            if line.starts_with("# HELP ") {
                help = Some(line);
                continue;
            }
            let counter = line
                .strip_prefix("# TYPE ")
                .and_then(|line| line.strip_suffix(" counter"));
            let suffix = if counter.is_some() { "_total" } else { "" };
            for comment in help
                .take()
                .into_iter()
                .chain(line.starts_with('#').then_some(line))
            {
                let mut words = comment.splitn(4, ' ');
                let mut word = || words.next().unwrap_or_default();
                let (mark, kind, name, rest) = (word(), word(), word(), word());
                text.push_str(&format!("{mark} {kind} {name}{suffix} {rest}\n"));
            }
            if !line.starts_with('#') {
                text.push_str(line);
                text.push('\n');
            }
        }
        Ok(text)
    }
}

/// A metric of the whole process: its name, its help, its label and its values.
type ProcessMetric = (
    &'static str,
    &'static str,
    MetricKind,
    Option<&'static str>,
    fn(&ProcessCollector) -> Values,
);
/// Label values, if there is a label, and values.
type Values = Vec<(&'static str, u64)>;

/// Metrics of the whole process.
const PROCESS_METRICS: &[ProcessMetric] = &[
    (
        "sessions",
        "WebSocket sessions",
        MetricKind::Gauge,
        Some("dialect"),
        |process| {
            let count = |dialect: DialectId| process.process_state.sessions(dialect);
            let dialects = DialectId::ALL.into_iter();
            dialects
                .map(|dialect| (dialect.name(), count(dialect)))
                .collect()
        },
    ),
    (
        "history_channels",
        "Channels with publications in the history",
        MetricKind::Gauge,
        None,
        |process| vec![("", process.process_state.history.stats().channels)],
    ),
    (
        "history_publications",
        "Publications in the history",
        MetricKind::Gauge,
        None,
        |process| vec![("", process.process_state.history.stats().messages)],
    ),
    (
        "history_bytes",
        "Bytes of the history, with what publications and channels cost beside their content",
        MetricKind::Gauge,
        None,
        |process| vec![("", process.process_state.history.stats().bytes)],
    ),
    (
        "history_removed",
        "Publications that were removed from the history",
        MetricKind::Counter,
        Some("reason"),
        |process| {
            let removed = process.process_state.history.stats().removed;
            let reasons = HistoryRemoval::ALL.iter();
            reasons
                .map(|reason| (reason.name(), removed[reason.index()]))
                .collect()
        },
    ),
    (
        "offline_users",
        "Users without a session of whom it is known where they stopped",
        MetricKind::Gauge,
        None,
        |process| vec![("", process.process_state.offline.counts().0)],
    ),
    (
        "offline_users_evicted",
        "Users who were forgotten early, because there were more than offline_users_max",
        MetricKind::Counter,
        None,
        |process| vec![("", process.process_state.offline.counts().1)],
    ),
    (
        "ring_depth_bytes",
        "Bytes between the newest record of the ring and its slowest reader",
        MetricKind::Gauge,
        None,
        |process| vec![("", process.ring.depth_bytes())],
    ),
    (
        "ring_capacity_bytes",
        "Size of the ring",
        MetricKind::Gauge,
        None,
        |process| vec![("", process.ring.capacity_bytes().into())],
    ),
    (
        "ring_retirements",
        "Times that claims of the ring older than 100 ms were retired",
        MetricKind::Counter,
        None,
        |process| vec![("", process.ring.retirements_total())],
    ),
    (
        "ring_retirements_rejected",
        "Claims of the ring older than 100 ms that were not retired, because too much is held",
        MetricKind::Counter,
        None,
        |process| vec![("", process.ring.retirements_rejected_total())],
    ),
    (
        "ring_rewritten",
        "Records that were written again because their claims were retired",
        MetricKind::Counter,
        None,
        |process| vec![("", process.ring.rewritten_total())],
    ),
    (
        "ring_held_bytes",
        "Bytes of the ring that are not used until the late writers of retired claims get on",
        MetricKind::Gauge,
        None,
        |process| vec![("", process.ring.held_bytes())],
    ),
    (
        "store_up",
        "Whether the durable store writes: 0 after a failed write until the next one succeeds",
        MetricKind::Gauge,
        None,
        |process| {
            let journal = process.journal.iter();
            let is_up = |journal: &Arc<Journal>| journal.state() == StoreState::Running;
            journal.map(|it| ("", is_up(it).into())).collect()
        },
    ),
    (
        "store_records_written",
        "Records written to the durable store",
        MetricKind::Counter,
        None,
        |process| process.of_store(|stats| stats.records_written_total),
    ),
    (
        "store_records_rejected",
        "Records that the durable store does not have because too much waited for the disk",
        MetricKind::Counter,
        None,
        |process| process.of_store(|stats| stats.rejected_queue_full_total),
    ),
    (
        "store_records_lost",
        "Records that waited for the disk and then could not be written or made durable",
        MetricKind::Counter,
        None,
        |process| process.of_store(|stats| stats.records_lost_total),
    ),
    (
        "store_written_bytes",
        "Bytes written to the durable store",
        MetricKind::Counter,
        None,
        |process| process.of_store(|stats| stats.bytes_written_total),
    ),
    (
        "store_syncs",
        "Times that the durable store has made sure that all is on the disk",
        MetricKind::Counter,
        None,
        |process| process.of_store(|stats| stats.syncs_total),
    ),
    (
        "store_errors",
        "Writes and syncs of the durable store that failed",
        MetricKind::Counter,
        None,
        |process| process.of_store(|stats| stats.errors_total),
    ),
    (
        "store_bytes",
        "Bytes of all segments of the durable store",
        MetricKind::Gauge,
        None,
        |process| process.of_store(|stats| stats.bytes),
    ),
    (
        "store_queue_bytes",
        "Bytes that wait for the durable store",
        MetricKind::Gauge,
        None,
        |process| process.of_store(|stats| stats.queue_bytes),
    ),
    (
        "log_lines_lost",
        "Lines that no log has",
        MetricKind::Counter,
        Some("reason"),
        |_| {
            let lost = lost_lines();
            vec![
                ("queue_full", lost.queue_full),
                ("write_failed", lost.write_failed),
            ]
        },
    ),
    (
        "presence_channels",
        "Channels of which it is kept who is there",
        MetricKind::Gauge,
        None,
        |process| vec![("", process.process_state.presence.stats().channels)],
    ),
    (
        "presence_members",
        "Users on these channels, each counted once for every channel",
        MetricKind::Gauge,
        None,
        |process| vec![("", process.process_state.presence.stats().members)],
    ),
    (
        "presence_unlisted",
        "Sessions of users who are not among the members of their channel, because there was no room",
        MetricKind::Counter,
        None,
        |process| vec![("", process.process_state.presence.stats().unlisted)],
    ),
    (
        "presence_announced",
        "Announcements of who came and went on a channel",
        MetricKind::Counter,
        None,
        |process| vec![("", process.process_state.presence.stats().announced)],
    ),
    (
        "presence_gathered",
        "Changes of who is on a channel that were not announced at once but gathered",
        MetricKind::Counter,
        None,
        |process| vec![("", process.process_state.presence.stats().gathered)],
    ),
    (
        "persistent_users",
        "Users of whom persistent subscriptions are remembered",
        MetricKind::Gauge,
        None,
        |process| vec![("", process.process_state.persistent.stats().users)],
    ),
    (
        "persistent_subscriptions",
        "Persistent subscriptions that are remembered",
        MetricKind::Gauge,
        None,
        |process| vec![("", process.process_state.persistent.stats().subscriptions)],
    ),
    (
        "persistent_rejected",
        "Subscriptions that clients wanted to be persistent and that are not, because there was no room",
        MetricKind::Counter,
        None,
        |process| vec![("", process.process_state.persistent.stats().rejected)],
    ),
    (
        "persistent_evicted",
        "Users whose persistent subscriptions were forgotten early, for others",
        MetricKind::Counter,
        None,
        |process| vec![("", process.process_state.persistent.stats().evicted)],
    ),
];

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for declaration in ShardCounters::DECLARATIONS {
            self.encode_shards(&mut encoder, declaration)?;
        }
        for (name, help, kind, label, values) in PROCESS_METRICS {
            let name = format!("fanwire_{name}");
            let found = values(self);
            if found.is_empty() {
                // Of a part that this process does not have.
                continue;
            }
            let mut metric = encoder.encode_descriptor(&name, help, None, metric_type(*kind))?;
            match label {
                Some(label) => {
                    for (name, value) in found {
                        let labels = [(*label, name)];
                        encode_value(metric.encode_family(&labels)?, *kind, value)?;
                    }
                }
                None => {
                    let value = found.first().map_or(0, |(_, value)| *value);
                    encode_value(metric, *kind, value)?;
                }
            }
        }
        Ok(())
    }
}

impl ProcessCollector {
    /// A value of the durable store, if there is one.
    fn of_store(&self, value: impl Fn(&StoreStats) -> u64) -> Values {
        let journal = self.journal.iter();
        journal.map(|it| ("", value(&it.stats()))).collect()
    }

    /// Encodes a metric of every shard.
    fn encode_shards(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        declaration: &MetricDeclaration<ShardCounters>,
    ) -> fmt::Result {
        let kind = declaration.kind;
        let help = declaration.help.trim().trim_end_matches('.');
        let family = declaration.family();
        let mut metric = encoder.encode_descriptor(&family, help, None, metric_type(kind))?;
        for (index, shard) in self.shards.iter().enumerate() {
            let index = index.to_string();
            let mut result = Ok(());
            (declaration.of)(shard).visit(&mut |label, value| {
                let labels = [
                    declaration.label.zip(label),
                    Some(("shard", index.as_str())),
                ];
                let labels: Vec<_> = labels.into_iter().flatten().collect();
                let encoded = metric
                    .encode_family(&labels)
                    .and_then(|metric| encode_value(metric, kind, value));
                result = result.and(encoded);
            });
            result?;
        }
        Ok(())
    }
}

fn metric_type(kind: MetricKind) -> MetricType {
    match kind {
        MetricKind::Counter => MetricType::Counter,
        MetricKind::Gauge => MetricType::Gauge,
    }
}

fn encode_value(encoder: MetricEncoder<'_>, kind: MetricKind, value: u64) -> fmt::Result {
    match kind {
        MetricKind::Counter => ConstCounter::new(value).encode(encoder),
        MetricKind::Gauge => {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(encoder)
        }
    }
}

/// What the name of a metric ends with where samples are shown.
fn suffix(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "_total",
        MetricKind::Gauge => "",
    }
}

/// Every metric: its name as Prometheus shows it, its labels and its help.
#[must_use]
pub fn all_metrics() -> Vec<(String, Vec<&'static str>, String)> {
    let of_shards = ShardCounters::DECLARATIONS.iter().map(|declaration| {
        let suffix = suffix(declaration.kind);
        let labels = declaration.label.into_iter().chain(["shard"]);
        let help = declaration.help.trim().trim_end_matches('.');
        let name = format!("{}{suffix}", declaration.family());
        (name, labels.collect(), help.to_owned())
    });
    let of_process = PROCESS_METRICS.iter().map(|(name, help, kind, label, _)| {
        let labels = label.iter().copied();
        (
            format!("fanwire_{name}{}", suffix(*kind)),
            labels.collect(),
            (*help).to_owned(),
        )
    });
    of_shards.chain(of_process).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Variant;
    use fanwire_ring::RingConfig;

    #[test]
    fn counters_show_with_their_labels() {
        let shard = Arc::new(ShardCounters::default());
        shard.deliveries.add(7);
        let gateway = Variant::plain(DialectId::Gateway);
        shard.encodes.of(gateway).add(2);
        let config = RingConfig {
            capacity_bytes: 65_536,
            readers_max: 1,
        };
        let ring = Ring::new(config).unwrap();
        let text = Metrics::new(vec![shard], Arc::default(), ring, None)
            .text()
            .unwrap();
        for line in [
            "# HELP fanwire_deliveries_total Publications",
            "# TYPE fanwire_deliveries_total counter",
            "# TYPE fanwire_connections gauge",
            "fanwire_deliveries_total{shard=\"0\"} 7",
            "fanwire_encodes_total{variant=\"gateway\",shard=\"0\"} 2",
            "fanwire_dropped_total{reason=\"slow_consumer\",shard=\"0\"} 0",
            "fanwire_sessions{dialect=\"gateway\"} 0",
            "fanwire_ring_capacity_bytes 65536",
            "# TYPE fanwire_ring_retirements_total counter",
            "fanwire_ring_retirements_total 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
