//! The metrics under the names that the documents of the legacy servers have, of all shards together.

use super::families::{Family, Sample, Sources, labelled, one};
use crate::base::client_counters::{ClientCounters, ConnectionStatus, ReceivedType, SentType};
use crate::base::label::Label;
use crate::base::metric::{Distribution, MetricKind, MetricValue};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Properties with a series of their own, those with the most subscriptions.
const PROPERTIES_SHOWN: usize = 100;
/// The label of all other properties. A client may name a property so, too; its subscriptions are then
/// among these.
const OTHER: &str = "__other__";

/// What clients do, in all dialects.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "websocket_connections",
        help: "Connections since the start, by whether they became sessions",
        kind: MetricKind::Counter,
        labels: &["status"],
        collect: |sources| {
            let rejected = sources.shards.iter();
            let rejected: u64 = rejected
                .flat_map(|shard| shard.connections_rejected.values())
                .map(|(_, count)| count)
                .sum();
            let of = |status| sum(sources, |clients| clients.connections.of(status).value());
            labelled([
                (
                    ConnectionStatus::Accepted.name(),
                    of(ConnectionStatus::Accepted),
                ),
                (
                    ConnectionStatus::Rejected.name(),
                    rejected + of(ConnectionStatus::Rejected),
                ),
            ])
        },
    },
    Family {
        name: "websocket_active_connections",
        help: "Sessions now",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| one(sources.process_state.sessions_total()),
    },
    Family {
        name: "websocket_messages",
        help: "Messages of clients and to them, by their type",
        kind: MetricKind::Counter,
        labels: &["type", "direction"],
        collect: messages,
    },
    Family {
        name: "websocket_message_duration_seconds",
        help: "Time to handle a message of a client, of one message in 16",
        kind: MetricKind::Histogram,
        labels: &["type"],
        collect: |sources| {
            let types = ReceivedType::ALL.iter();
            let samples = types.filter_map(|kind| {
                let merged = merged(sources, |clients| {
                    clients.message_times.of(*kind).distribution()
                })?;
                let value = MetricValue::Distribution(merged);
                Some(Sample::of([kind.name()], value))
            });
            samples.collect()
        },
    },
    Family {
        name: "websocket_connection_duration_seconds",
        help: "How long the sessions lasted that have ended",
        kind: MetricKind::Histogram,
        labels: &[],
        collect: |sources| {
            let merged = merged(sources, |clients| clients.lifetimes.distribution());
            let merged = merged.into_iter();
            merged
                .map(|merged| Sample::of([], MetricValue::Distribution(merged)))
                .collect()
        },
    },
    Family {
        name: "websocket_subscriptions_total",
        help: "Subscriptions of the properties that have most of them, and of all others together",
        kind: MetricKind::Gauge,
        labels: &["property_id"],
        collect: properties,
    },
    Family {
        name: "websocket_uptime_seconds",
        help: "Time since the server started",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| one(sources.clock.now().monotonic_ms / 1_000),
    },
];

fn sum(sources: &Sources, of: impl Fn(&ClientCounters) -> u64) -> u64 {
    sources.shards.iter().map(|shard| of(&shard.clients)).sum()
}

fn merged(sources: &Sources, of: impl Fn(&ClientCounters) -> Distribution) -> Option<Distribution> {
    let all = sources.shards.iter().map(|shard| of(&shard.clients));
    all.reduce(|mut merged, next| {
        merged.add(&next);
        merged
    })
}

fn messages(sources: &Sources) -> Vec<Sample> {
    let received = ReceivedType::ALL.iter().map(|kind| {
        let count = sum(sources, |clients| clients.received.of(*kind).value());
        Sample::of([kind.name(), "inbound"], MetricValue::Whole(count))
    });
    let sent = SentType::ALL.iter().map(|kind| {
        let count = match kind {
            // They are counted once, on the hot path.
            SentType::Publication => sources.shards.iter().map(|it| it.deliveries.value()).sum(),
            kind => sum(sources, |clients| clients.sent.of(*kind).value()),
        };
        Sample::of([kind.name(), "outbound"], MetricValue::Whole(count))
    });
    received.chain(sent).collect()
}

/// The properties with the most subscriptions, the most first, and the sum of the others.
fn properties(sources: &Sources) -> Vec<Sample> {
    let (mut counts, mut total) = (BTreeMap::<Box<str>, u64>::new(), 0);
    for shard in &sources.shards {
        let top = shard.clients.properties.snapshot();
        total += top.total;
        for (property, count) in top.channels {
            *counts.entry(property).or_default() += count;
        }
    }
    counts.remove(OTHER);
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    counts.truncate(PROPERTIES_SHOWN);
    let shown: u64 = counts.iter().map(|(_, count)| count).sum();
    let other = Sample::of([OTHER], MetricValue::Whole(total.saturating_sub(shown)));
    let samples = counts.into_iter().map(|(property, count)| Sample {
        labels: vec![Cow::Owned(property.into())],
        value: MetricValue::Whole(count),
    });
    samples.chain([other]).collect()
}
