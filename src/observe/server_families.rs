//! The metrics of the server that no single shard counts.

use super::families::{Family, Sample, Sources, labelled, one};
use super::log::lost_lines;
use super::process_families::resident_bytes;
use crate::base::label::Label;
use crate::base::metric::{MetricKind, MetricValue};
use crate::base::{
    BackendCounters, CallbackKind, CallbackOutcome, DialectId, HistoryRemoval, StateChangesStats,
    Tracer, WebhookOutcome,
};
use crate::journal::Journal;
use crate::store::{StoreState, StoreStats};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The metrics of the process.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "fanwire_build_info",
        help: "Always 1; the labels say what runs",
        kind: MetricKind::Gauge,
        labels: &["version", "profile"],
        collect: |_| {
            let profile = if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            };
            let labels = [env!("CARGO_PKG_VERSION"), profile];
            vec![Sample::of(labels, MetricValue::Whole(1))]
        },
    },
    Family {
        name: "fanwire_memory_bytes",
        help: "Bytes of what may be large: the ring, the history, what waits for connections (waiting), what waits for the durable store, the buffers that receive, and the rest of the resident memory (other), such as the tables of sessions and channels",
        kind: MetricKind::Gauge,
        labels: &["kind"],
        collect: |sources| {
            let waiting = sources.shards.iter();
            let waiting = waiting.map(|shard| shard.waiting_bytes.value()).sum();
            let store = of_store(sources, |stats| stats.queue_bytes);
            let kinds = [
                ("ring", sources.ring.capacity_bytes().into()),
                ("history", sources.process_state.history.stats().bytes),
                ("waiting", waiting),
                ("receive_buffers", sources.receive_buffer_bytes),
            ];
            let store = store.first().and_then(|sample| match sample.value {
                MetricValue::Whole(bytes) => Some(("store_queue", bytes)),
                _ => None,
            });
            let known: u64 = kinds.iter().chain(&store).map(|(_, bytes)| bytes).sum();
            // Less than there is where known memory is not resident, as that of a ring that is not full.
            let other = resident_bytes().map(|bytes| ("other", bytes.saturating_sub(known)));
            labelled(kinds.into_iter().chain(store).chain(other))
        },
    },
    Family {
        name: "fanwire_tls_certificate_expiry_timestamp_seconds",
        help: "When the first of the certificates expires, seconds since 1970-01-01 UTC; absent without TLS",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| {
            let expiry = &sources.process_state.certificate_expiry;
            // Relaxed: nothing else belongs to it.
            match expiry.load(Ordering::Relaxed) {
                0 => Vec::new(),
                unix_s => one(unix_s),
            }
        },
    },
    Family {
        name: "fanwire_sessions",
        help: "WebSocket sessions",
        kind: MetricKind::Gauge,
        labels: &["dialect"],
        collect: |sources| {
            let count = |dialect: DialectId| sources.process_state.sessions(dialect);
            let dialects = DialectId::ALL.into_iter();
            labelled(dialects.map(|dialect| (dialect.name(), count(dialect))))
        },
    },
    Family {
        name: "fanwire_history_channels",
        help: "Channels with publications in the history",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| one(sources.process_state.history.stats().channels),
    },
    Family {
        name: "fanwire_history_publications",
        help: "Publications in the history",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| one(sources.process_state.history.stats().messages),
    },
    Family {
        name: "fanwire_history_bytes",
        help: "Bytes of the history, with what publications and channels cost beside their content",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| one(sources.process_state.history.stats().bytes),
    },
    Family {
        name: "fanwire_history_removed",
        help: "Publications that were removed from the history",
        kind: MetricKind::Counter,
        labels: &["reason"],
        collect: |sources| {
            let removed = sources.process_state.history.stats().removed;
            let reasons = HistoryRemoval::ALL.iter();
            labelled(reasons.map(|reason| (reason.name(), removed[reason.index()])))
        },
    },
    Family {
        name: "fanwire_offline_users",
        help: "Users without a session of whom it is known where they stopped",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| one(sources.process_state.offline.counts().0),
    },
    Family {
        name: "fanwire_offline_users_evicted",
        help: "Users who were forgotten early, because there were more than offline_users_max",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| one(sources.process_state.offline.counts().1),
    },
    Family {
        name: "fanwire_ring_depth_bytes",
        help: "Bytes between the newest record of the ring and its slowest reader",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| one(sources.ring.depth_bytes()),
    },
    Family {
        name: "fanwire_ring_capacity_bytes",
        help: "Size of the ring",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| one(sources.ring.capacity_bytes().into()),
    },
    Family {
        name: "fanwire_ring_retirements",
        help: "Times that claims of the ring older than 100 ms were retired",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| one(sources.ring.retirements_total()),
    },
    Family {
        name: "fanwire_ring_retirements_rejected",
        help: "Claims of the ring older than 100 ms that were not retired, because too much is held",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| one(sources.ring.retirements_rejected_total()),
    },
    Family {
        name: "fanwire_ring_rewritten",
        help: "Records that were written again because their claims were retired",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| one(sources.ring.rewritten_total()),
    },
    Family {
        name: "fanwire_ring_held_bytes",
        help: "Bytes of the ring that are not used until the late writers of retired claims get on",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| one(sources.ring.held_bytes()),
    },
    Family {
        name: "fanwire_trace_spans",
        help: "Spans of traces, by what became of them: exported, queue_full (too many were open or waited for the collector) or failed (it could not be reached, or rejected them)",
        kind: MetricKind::Counter,
        labels: &["outcome"],
        collect: |sources| {
            let counts = sources.tracer.iter().map(Tracer::counts);
            let outcomes = counts.flat_map(|counts| {
                [
                    ("exported", counts.exported),
                    ("queue_full", counts.queue_full),
                    ("failed", counts.failed),
                ]
            });
            labelled(outcomes)
        },
    },
    Family {
        name: "fanwire_store_up",
        help: "Whether the durable store writes: 0 after a failed write until the next one succeeds",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| {
            let journal = sources.journal.iter();
            let is_up = |journal: &Arc<Journal>| journal.state() == StoreState::Running;
            journal.flat_map(|it| one(is_up(it).into())).collect()
        },
    },
    Family {
        name: "fanwire_store_records_written",
        help: "Records written to the durable store",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of_store(sources, |stats| stats.records_written_total),
    },
    Family {
        name: "fanwire_store_records_rejected",
        help: "Records that the durable store does not have because too much waited for the disk",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of_store(sources, |stats| stats.rejected_queue_full_total),
    },
    Family {
        name: "fanwire_store_records_lost",
        help: "Records that waited for the disk and then could not be written or made durable",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of_store(sources, |stats| stats.records_lost_total),
    },
    Family {
        name: "fanwire_store_written_bytes",
        help: "Bytes written to the durable store",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of_store(sources, |stats| stats.bytes_written_total),
    },
    Family {
        name: "fanwire_store_syncs",
        help: "Times that the durable store has made sure that all is on the disk",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of_store(sources, |stats| stats.syncs_total),
    },
    Family {
        name: "fanwire_store_errors",
        help: "Writes and syncs of the durable store that failed",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of_store(sources, |stats| stats.errors_total),
    },
    Family {
        name: "fanwire_store_bytes",
        help: "Bytes of all segments of the durable store",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| of_store(sources, |stats| stats.bytes),
    },
    Family {
        name: "fanwire_store_queue_bytes",
        help: "Bytes that wait for the durable store",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| of_store(sources, |stats| stats.queue_bytes),
    },
    Family {
        name: "fanwire_log_lines_lost",
        help: "Lines that no log has",
        kind: MetricKind::Counter,
        labels: &["reason"],
        collect: |_| {
            let lost = lost_lines();
            labelled([
                ("queue_full", lost.queue_full),
                ("write_failed", lost.write_failed),
            ])
        },
    },
    Family {
        name: "fanwire_presence_channels",
        help: "Channels of which it is kept who is there",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| one(sources.process_state.presence.stats().channels),
    },
    Family {
        name: "fanwire_presence_members",
        help: "Users on these channels, each counted once for every channel",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| one(sources.process_state.presence.stats().members),
    },
    Family {
        name: "fanwire_presence_unlisted",
        help: "Sessions of users who are not among the members of their channel, because there was no room",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| one(sources.process_state.presence.stats().unlisted),
    },
    Family {
        name: "fanwire_presence_announced",
        help: "Announcements of who came and went on a channel",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| one(sources.process_state.presence.stats().announced),
    },
    Family {
        name: "fanwire_presence_gathered",
        help: "Changes of who is on a channel that were not announced at once but gathered",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| one(sources.process_state.presence.stats().gathered),
    },
    Family {
        name: "fanwire_callbacks",
        help: "Questions to callbacks, beside those about tokens, by what was decided: failed = there was no answer in time, or none that can be relied on",
        kind: MetricKind::Counter,
        labels: &["callback", "outcome"],
        collect: |sources| {
            let counts = sources.process_state.backends.callbacks();
            let sample = |(kind, outcome, count): (CallbackKind, CallbackOutcome, u64)| {
                Sample::of([kind.name(), outcome.name()], MetricValue::Whole(count))
            };
            counts.map(sample).collect()
        },
    },
    Family {
        name: "fanwire_webhook_events",
        help: "Events for the webhook: delivered, given_up = not accepted in time, no_room = not noted because too many waited",
        kind: MetricKind::Counter,
        labels: &["outcome"],
        collect: |sources| {
            of_webhook(sources, |changes, counters| {
                let outcomes = WebhookOutcome::ALL.iter();
                let counts = outcomes.map(|it| (it.name(), counters.webhook_events(*it)));
                labelled(counts.chain([("no_room", changes.unnoted)]))
            })
        },
    },
    Family {
        name: "fanwire_webhook_events_waiting",
        help: "Events for the webhook that it has yet to accept",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| {
            of_webhook(sources, |changes, counters| {
                one(changes.waiting + counters.webhook_in_flight())
            })
        },
    },
    Family {
        name: "fanwire_webhook_requests",
        help: "Requests to the webhook",
        kind: MetricKind::Counter,
        labels: &["outcome"],
        collect: |sources| {
            of_webhook(sources, |_, counters| {
                labelled([
                    ("accepted", counters.webhook_requests(true)),
                    ("failed", counters.webhook_requests(false)),
                ])
            })
        },
    },
    Family {
        name: "fanwire_persistent_users",
        help: "Users of whom persistent subscriptions are remembered",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| one(sources.process_state.persistent.stats().users),
    },
    Family {
        name: "fanwire_persistent_subscriptions",
        help: "Persistent subscriptions that are remembered",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| one(sources.process_state.persistent.stats().subscriptions),
    },
    Family {
        name: "fanwire_persistent_rejected",
        help: "Subscriptions that clients wanted to be persistent and that are not, because there was no room",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| one(sources.process_state.persistent.stats().rejected),
    },
    Family {
        name: "fanwire_persistent_evicted",
        help: "Users whose persistent subscriptions were forgotten early, for others",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| one(sources.process_state.persistent.stats().evicted),
    },
];

/// Series of the webhook, if there is one.
fn of_webhook(
    sources: &Sources,
    series: impl Fn(StateChangesStats, &BackendCounters) -> Vec<Sample>,
) -> Vec<Sample> {
    let changes = sources.process_state.changes.as_ref();
    changes.map_or_else(Vec::new, |changes| {
        series(changes.stats(), &sources.process_state.backends)
    })
}

/// A value of the durable store, if there is one.
fn of_store(sources: &Sources, value: impl Fn(&StoreStats) -> u64) -> Vec<Sample> {
    let journal = sources.journal.iter();
    journal.flat_map(|it| one(value(&it.stats()))).collect()
}
