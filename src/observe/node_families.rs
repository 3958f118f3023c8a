//! The metrics of what goes to the other nodes and comes from them.

use super::families::{Family, Sample, Sources, labelled, one};
use crate::base::label::Label;
use crate::base::metric::MetricKind;
use crate::base::{NodeCounters, NodeDrop};

/// The metrics of a node. There are none without `redis_url`.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "fanwire_redis_up",
        help: "Whether Redis answers and delivers: 1 if publications go to all nodes and come from them",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| of(sources, |counters| u64::from(counters.is_up())),
    },
    Family {
        name: "fanwire_redis_publications_sent",
        help: "Publications of this node that Redis has taken",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.sent.value()),
    },
    Family {
        name: "fanwire_redis_publications_received",
        help: "Publications of all nodes that came from Redis and were delivered on this node",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.received.value()),
    },
    Family {
        name: "fanwire_redis_publications_delivered_alone",
        help: "Publications that were delivered on this node first, because Redis was away",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.delivered_alone.value()),
    },
    Family {
        name: "fanwire_redis_publications_dropped",
        help: "Publications that did not reach the other nodes",
        kind: MetricKind::Counter,
        labels: &["reason"],
        collect: |sources| {
            let Some(link) = &sources.process_state.link else {
                return Vec::new();
            };
            let reasons = NodeDrop::ALL.iter();
            labelled(reasons.map(|reason| (reason.name(), link.counters.dropped(*reason))))
        },
    },
    Family {
        name: "fanwire_redis_publications_recovered",
        help: "Publications of other nodes that were missed and read from the history in Redis",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.recovered.value()),
    },
    Family {
        name: "fanwire_redis_publications_missed",
        help: "Publications on channels with a history that were missed and are not in the history in Redis",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.missed.value()),
    },
    Family {
        name: "fanwire_redis_duplicates",
        help: "Publications that came from Redis again and were not delivered again",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.duplicates.value()),
    },
    Family {
        name: "fanwire_redis_malformed",
        help: "Messages in Redis that this version does not read",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.malformed.value()),
    },
    Family {
        name: "fanwire_redis_questions",
        help: "Questions to the other nodes, as for the sessions of all nodes",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.questions.value()),
    },
    Family {
        name: "fanwire_redis_questions_unanswered",
        help: "Questions to the other nodes that were not answered by all of them in time",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.unanswered.value()),
    },
    Family {
        name: "fanwire_redis_connections_lost",
        help: "Connections to Redis that were lost",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.connections_lost.value()),
    },
    Family {
        name: "fanwire_redis_presence_rejected",
        help: "Commands about presence that Redis has rejected",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.presence_rejected.value()),
    },
    Family {
        name: "fanwire_redis_user_changes_dropped",
        help: "Changes of users, as where one stopped, that did not reach Redis",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.user_changes_dropped.value()),
    },
    Family {
        name: "fanwire_redis_nodes",
        help: "Nodes that are there, this one included",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.nodes.value()),
    },
    Family {
        name: "fanwire_redis_channels",
        help: "Channels that this node is subscribed to in Redis",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.channels.value()),
    },
    Family {
        name: "fanwire_redis_queue_bytes",
        help: "Bytes of publications on their way to Redis",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| {
            let link = sources.process_state.link.as_ref();
            link.map_or_else(Vec::new, |link| one(link.bytes()))
        },
    },
    Family {
        name: "fanwire_redis_backlog_bytes",
        help: "Bytes of publications that are kept until Redis is there again",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.backlog_bytes.value()),
    },
    Family {
        name: "fanwire_redis_round_trip_microseconds",
        help: "How long the last message of this node to itself took through Redis",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |sources| of(sources, |counters| counters.round_trip_us.value()),
    },
];

fn of(sources: &Sources, value: impl Fn(&NodeCounters) -> u64) -> Vec<Sample> {
    let link = sources.process_state.link.as_ref();
    link.map_or_else(Vec::new, |link| one(value(&link.counters)))
}
