//! All counters of all shards in the Prometheus text format.

use crate::base::counters::{Counter, CounterSet};
use crate::base::label::Label;
use crate::base::{DialectId, ProcessCounts, ShardCounters};
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

/// Everything that is counted in the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

#[derive(Debug)]
struct ProcessCollector {
    shards: Vec<Arc<ShardCounters>>,
    process_counts: Arc<ProcessCounts>,
    ring: Ring,
}

impl Metrics {
    /// The metrics of a process with these shards.
    #[must_use]
    pub fn new(
        shards: Vec<Arc<ShardCounters>>,
        process_counts: Arc<ProcessCounts>,
        ring: Ring,
    ) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector {
            shards,
            process_counts,
            ring,
        }));
        Self { registry }
    }

    /// All metrics now, in OpenMetrics 1.0.
    ///
    /// # Errors
    /// What the formatter says; writing to memory has no reason to fail.
    pub fn openmetrics(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// All metrics now, in the Prometheus text format 0.0.4. It names a counter's family like its
    /// samples, with `_total`, and has no end mark; else the two are the same here.
    ///
    /// # Errors
    /// What the formatter says; writing to memory has no reason to fail.
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

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_connections(&mut encoder)?;
        self.encode_traffic(&mut encoder)?;
        self.encode_errors(&mut encoder)?;
        self.encode_ring(&mut encoder)
    }
}

type PickCounter = fn(&ShardCounters) -> &Counter;

impl ProcessCollector {
    fn encode_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.counter(
            encoder,
            "connections_accepted",
            "Sockets accepted",
            |shard| &shard.connections_accepted,
        )?;
        self.gauge(encoder, "connections", "Sockets open", |shard| {
            &shard.connections
        })?;
        let help = "Sessions that have shown who they are";
        self.gauge(encoder, "authenticated_sessions", help, |shard| {
            &shard.authenticated
        })?;
        self.gauge(encoder, "channels", "Channels with subscribers", |shard| {
            &shard.channels
        })?;
        let help = "Subscriptions of sessions";
        self.gauge(encoder, "subscriptions", help, |shard| &shard.subscriptions)?;
        let mut metric = encoder.encode_descriptor(
            "fanwire_sessions",
            "WebSocket sessions open",
            None,
            MetricType::Gauge,
        )?;
        for dialect in DialectId::ALL {
            let count = self.process_counts.sessions(dialect);
            let labels = [("dialect", dialect.name())];
            ConstGauge::new(gauge_value(count)).encode(metric.encode_family(&labels)?)?;
        }
        let help = "Connections that did not become sessions";
        self.counters(encoder, "connections_rejected", help, "reason", |shard| {
            &shard.connections_rejected
        })?;
        let help = "Upgraded connections closed, by who or what ended them";
        self.counters(encoder, "closes", help, "reason", |shard| &shard.closes)
    }

    fn encode_traffic(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Complete messages received";
        self.counter(encoder, "messages_received", help, |shard| {
            &shard.messages_received
        })?;
        let help = "Bytes received from sockets";
        self.counter(encoder, "bytes_received", help, |shard| {
            &shard.bytes_received
        })?;
        let help = "Bytes written to sockets";
        self.counter(encoder, "bytes_sent", help, |shard| &shard.bytes_sent)?;
        let help = "Publications accepted";
        self.counter(encoder, "publications", help, |shard| &shard.publications)?;
        let help = "Frames encoded, once per publication and variant in use";
        self.counters(encoder, "encodes", help, "variant", |shard| &shard.encodes)?;
        let help = "Filters evaluated, of those that the index named";
        self.counter(encoder, "filter_evaluations", help, |shard| {
            &shard.filter_evaluations
        })?;
        let help = "Values to keep that found their channel's table full";
        self.counter(encoder, "retained_rejected", help, |shard| {
            &shard.retained_rejected
        })?;
        let help = "Publications written whole to a subscriber's socket";
        self.counter(encoder, "deliveries", help, |shard| &shard.deliveries)?;
        let help = "Publications queued for a subscriber that never left";
        self.counters(encoder, "dropped", help, "reason", |shard| &shard.dropped)?;
        let help = "Sends that a socket did not take whole";
        self.counter(encoder, "short_sends", help, |shard| &shard.short_sends)?;
        let help = "Receives that found no buffer and were begun again";
        self.counter(encoder, "buffers_exhausted", help, |shard| {
            &shard.buffers_exhausted
        })
    }

    fn encode_errors(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Faults of peers against RFC 6455";
        self.counters(encoder, "protocol_errors", help, "error", |shard| {
            &shard.protocol_errors
        })?;
        let help = "Messages answered with an error";
        self.counters(encoder, "message_errors", help, "error", |shard| {
            &shard.message_errors
        })?;
        let help = "Tokens refused";
        self.counters(encoder, "token_errors", help, "error", |shard| {
            &shard.token_errors
        })
    }

    fn encode_ring(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Records read from the ring";
        self.counter(encoder, "ring_records", help, |shard| &shard.ring_records)?;
        let help = "Writes that found the ring full and waited";
        self.counter(encoder, "ring_full", help, |shard| &shard.ring_full)?;
        let help = "Bytes of the ring not yet read";
        self.gauge(encoder, "ring_lag_bytes", help, |shard| {
            &shard.ring_lag_bytes
        })?;
        for (name, help, value) in [
            (
                "fanwire_ring_depth_bytes",
                "Bytes between the ring's tail and its slowest reader",
                self.ring.depth_bytes(),
            ),
            (
                "fanwire_ring_capacity_bytes",
                "Size of the ring",
                u64::from(self.ring.capacity_bytes()),
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(gauge_value(value)).encode(metric)?;
        }
        Ok(())
    }

    fn counter(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        pick: PickCounter,
    ) -> fmt::Result {
        self.each_value(encoder, (name, help, MetricType::Counter), pick, |value| {
            ConstCounter::new(value)
        })
    }

    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        pick: PickCounter,
    ) -> fmt::Result {
        self.each_value(encoder, (name, help, MetricType::Gauge), pick, |value| {
            ConstGauge::new(gauge_value(value))
        })
    }

    fn each_value<M: EncodeMetric>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, kind): (&str, &str, MetricType),
        pick: PickCounter,
        metric_of: fn(u64) -> M,
    ) -> fmt::Result {
        let name = format!("fanwire_{name}");
        let mut metric = encoder.encode_descriptor(&name, help, None, kind)?;
        self.each_shard(|index, shard| {
            let labels = [("shard", index)];
            let metric = metric.encode_family(&labels)?;
            metric_of(pick(shard).value()).encode(metric)
        })
    }

    fn counters<L: Label>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        label: &str,
        pick: fn(&ShardCounters) -> &CounterSet<L>,
    ) -> fmt::Result {
        let name = format!("fanwire_{name}");
        let mut metric: MetricEncoder<'_> =
            encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
        self.each_shard(|index, shard| {
            for (value, count) in pick(shard).values() {
                let labels = [(label, value), ("shard", index)];
                ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
            }
            Ok(())
        })
    }

    fn each_shard(
        &self,
        mut visit: impl FnMut(&str, &ShardCounters) -> fmt::Result,
    ) -> fmt::Result {
        let mut shards = self.shards.iter().enumerate();
        shards.try_for_each(|(index, shard)| visit(&index.to_string(), shard))
    }
}

fn gauge_value(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
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
        let text = Metrics::new(vec![shard], Arc::default(), ring)
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
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
