//! The metrics of all shards and of the process, in the formats of Prometheus.

use super::exposition::{Exposition, Format, suffix};
pub use super::families::Sources;
use super::families::{Family, Sample};
use super::{client_families, ingest_families, node_families, process_families, server_families};
use crate::base::ShardCounters;
use crate::base::metric::{MetricDeclaration, MetricKind};
use std::fmt;

/// The `Content-Type` of what [`Metrics::openmetrics`] returns.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The `Content-Type` of what [`Metrics::text`] returns.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    sources: Sources,
}

impl Metrics {
    /// The metrics that are found here.
    #[must_use]
    pub const fn new(sources: Sources) -> Self {
        Self { sources }
    }

    /// All metrics now, in OpenMetrics 1.0.
    ///
    /// # Errors
    /// The error of the formatter; none is expected when writing to memory.
    pub fn openmetrics(&self) -> Result<String, fmt::Error> {
        self.write(Format::OpenMetrics)
    }

    /// All metrics now, in the Prometheus text format 0.0.4.
    ///
    /// # Errors
    /// The error of the formatter; none is expected when writing to memory.
    pub fn text(&self) -> Result<String, fmt::Error> {
        self.write(Format::Prometheus)
    }

    fn write(&self, format: Format) -> Result<String, fmt::Error> {
        let mut text = Exposition::new(format);
        for declaration in ShardCounters::DECLARATIONS {
            self.write_shards(&mut text, declaration)?;
        }
        for family in families() {
            let samples = (family.collect)(&self.sources);
            if samples.is_empty() {
                // Of a part that this process does not have.
                continue;
            }
            text.family(family.name, family.help, family.kind)?;
            for Sample { labels, value } in samples {
                let names = family.labels.iter().copied();
                let labels = names.zip(labels.iter().map(AsRef::as_ref));
                text.sample(&labels.collect::<Vec<_>>(), &value)?;
            }
        }
        Ok(text.finish())
    }

    /// Writes a metric of every shard.
    fn write_shards(
        &self,
        text: &mut Exposition,
        declaration: &MetricDeclaration<ShardCounters>,
    ) -> fmt::Result {
        text.family(declaration.name, help(declaration), declaration.kind)?;
        for (index, shard) in self.sources.shards.iter().enumerate() {
            let index = index.to_string();
            let mut result = Ok(());
            (declaration.of)(shard).visit(&mut |label, value| {
                let shard = ("shard", index.as_str());
                let written = match declaration.label.zip(label) {
                    Some(label) => text.sample(&[label, shard], &value),
                    None => text.sample(&[shard], &value),
                };
                result = result.and(written);
            });
            result?;
        }
        Ok(())
    }
}

fn help(declaration: &MetricDeclaration<ShardCounters>) -> &'static str {
    declaration.help.trim().trim_end_matches('.')
}

/// The metrics that no single shard has.
fn families() -> impl Iterator<Item = &'static Family> {
    let families = server_families::FAMILIES.iter();
    let families = families.chain(ingest_families::FAMILIES);
    let families = families.chain(node_families::FAMILIES);
    let families = families.chain(client_families::FAMILIES);
    families.chain(process_families::FAMILIES)
}

/// Every metric: its name as Prometheus shows it, its labels and its help.
#[must_use]
pub fn all_metrics() -> Vec<(String, Vec<&'static str>, String)> {
    let shown = |name: &str, kind: MetricKind| format!("{name}{}", suffix(kind));
    let of_shards = ShardCounters::DECLARATIONS.iter().map(|declaration| {
        let labels = declaration.label.into_iter().chain(["shard"]);
        let name = shown(declaration.name, declaration.kind);
        (name, labels.collect(), help(declaration).to_owned())
    });
    let of_process = families().map(|family| {
        let name = shown(family.name, family.kind);
        (name, family.labels.to_vec(), family.help.to_owned())
    });
    of_shards.chain(of_process).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::now::Clock;
    use crate::base::{DialectId, Variant};
    use fanwire_ring::{Ring, RingConfig};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn metrics(shards: Vec<Arc<ShardCounters>>) -> Metrics {
        let config = RingConfig {
            capacity_bytes: 65_536,
            readers_max: 1,
        };
        Metrics::new(Sources {
            shards,
            process_state: Arc::default(),
            ring: Ring::new(config).unwrap(),
            journal: None,
            receive_buffer_bytes: 0,
            tracer: None,
            clock: Clock::start(),
        })
    }

    #[test]
    fn counters_show_with_their_labels() {
        let shard = Arc::new(ShardCounters::default());
        shard.deliveries.add(7);
        let gateway = Variant::plain(DialectId::Gateway);
        shard.encodes.of(gateway).add(2);
        shard.turn_duration_seconds.record(2_000);
        let text = metrics(vec![shard]).text().unwrap();
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
            "fanwire_turn_duration_seconds_bucket{shard=\"0\",le=\"0.0000025\"} 1",
            "fanwire_turn_duration_seconds_sum{shard=\"0\"} 0.000002",
            "websocket_messages_total{type=\"publication\",direction=\"outbound\"} 7",
            "websocket_subscriptions_total{property_id=\"__other__\"} 0",
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn no_series_is_there_twice_and_every_family_is_declared_once() {
        let shards = (0..3).map(|_| Arc::default()).collect();
        let metrics = metrics(shards);
        for text in [metrics.text().unwrap(), metrics.openmetrics().unwrap()] {
            let mut seen = BTreeSet::new();
            for line in text.lines() {
                let series = line.rsplit_once(' ').map_or(line, |(series, _)| series);
                assert!(seen.insert(series), "{series} is there twice");
            }
        }
    }

    #[test]
    fn of_many_properties_the_largest_are_shown_and_the_others_are_a_sum() {
        let shards: Vec<Arc<ShardCounters>> = vec![Arc::default(), Arc::default()];
        for shard in &shards {
            let counts = (0..150).map(|id| (format!("p{id}").into(), 150 - id));
            let total = (0..150).map(|id| 150 - id).sum();
            shard.clients.properties.publish(counts.collect(), total);
        }
        let text = metrics(shards).text().unwrap();
        let name = "websocket_subscriptions_total{property_id=";
        assert_eq!(text.matches(name).count(), 101);
        assert!(text.contains(&format!("{name}\"p0\"}} 300\n")), "{text}");
        // 50, 49, … 1 on each of two shards.
        let other: u64 = 2 * (1..=50).sum::<u64>();
        assert!(
            text.contains(&format!("{name}\"__other__\"}} {other}\n")),
            "{text}"
        );
    }
}
