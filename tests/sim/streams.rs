//! Do subscriptions with tags and filters hear just what they asked for, whoever comes and goes?

use crate::client::{frame, request, whole_frame};
use crate::random::Random;
use crate::seeds::seeds;
use crate::shards::{ShardList, Shards, shards};
use fanwire::base::{ConnectionId, DialectId, Now, ProcessState, ShardCounters};
use fanwire::shard::{ConnectionAction, Shard};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

const NOW: Now = Now::at(1_000, 1_700_000_000_000);
const SHARDS: usize = 2;
const STREAMS: [&str; 3] = ["events", "alerts", "system_status"];

/// Filters, and what they mean for a publication `{"a":A,"b":B,"p":{"q":Q},"number":N}`.
type Meaning = fn(usize, usize, bool) -> bool;
const FILTERS: [(&str, Meaning); 7] = [
    ("{}", |_, _, _| true),
    (r#"{"a":1}"#, |a, _, _| a == 1),
    (r#"{"a":[1,2]}"#, |a, _, _| a == 1 || a == 2),
    (r#"{"b":"1"}"#, |_, b, _| b == 1),
    (r#"{"a":0,"b":"0"}"#, |a, b, _| a == 0 && b == 0),
    (r#"{"p.q":true,"a":[0,3]}"#, |a, _, q| {
        q && (a == 0 || a == 3)
    }),
    (r#"{"missing":null}"#, |_, _, _| false),
];

struct Subscription {
    tag: String,
    stream: usize,
    filter: usize,
}

struct Client {
    shard: usize,
    id: ConnectionId,
    subscriptions: Vec<Subscription>,
}

struct Streams {
    random: Random,
    shards: ShardList,
    counters: Vec<Arc<ShardCounters>>,
    process_state: Arc<ProcessState>,
    clients: Vec<Client>,
    publisher: ConnectionId,
    tags: usize,
    published: u64,
}

impl Streams {
    fn new(seed: u64) -> Self {
        let Shards {
            mut shards,
            counters,
            process_state,
            ..
        } = shards(SHARDS, 1 << 20, 1 << 20, NOW);
        let publisher = open(&mut shards[0], DialectId::Gateway);
        let mut streams = Self {
            random: Random::new(seed),
            shards,
            counters,
            process_state,
            clients: Vec::new(),
            publisher,
            tags: 0,
            published: 0,
        };
        streams.reap_ended();
        streams
    }

    fn connect(&mut self) {
        let shard = self.random.below(SHARDS);
        let id = open(&mut self.shards[shard], DialectId::Analytics);
        self.clients.push(Client {
            shard,
            id,
            subscriptions: Vec::new(),
        });
        self.reap_ended();
    }

    fn tell(&mut self, client: usize, message: &Value) -> Vec<(usize, ConnectionId, Value)> {
        let Client { shard, id, .. } = self.clients[client];
        let mut bytes = frame(1, message.to_string().as_bytes());
        self.shards[shard].receive(id, &mut bytes, NOW);
        self.reap_ended()
    }

    fn subscribe(&mut self, client: usize, stream: usize, filter: usize) {
        let filters: Value = serde_json::from_str(FILTERS[filter].0).unwrap();
        let data = json!({"type": STREAMS[stream], "filters": filters});
        let mut message = json!({"type": "subscribe", "data": data});
        if self.random.once_in(2) {
            self.tags += 1;
            let width = self.random.below(30);
            message["subscription_id"] = format!("own{}{}", self.tags, "x".repeat(width)).into();
        }
        let answers = self.tell(client, &message);
        assert_eq!(answers.len(), 1, "{answers:?}");
        let answer = &answers[0].2;
        assert_eq!(answer["type"], "subscribed", "{answer}");
        let tag = answer["subscription_id"].as_str().unwrap().to_owned();
        if let Some(own) = message.get("subscription_id") {
            assert_eq!(*own, tag);
        }
        self.clients[client].subscriptions.push(Subscription {
            tag,
            stream,
            filter,
        });
    }

    fn unsubscribe(&mut self, client: usize) {
        let count = self.clients[client].subscriptions.len();
        if count == 0 {
            return;
        }
        let at = self.random.below(count);
        let gone = self.clients[client].subscriptions.remove(at);
        let data = json!({"subscription_id": gone.tag});
        let answers = self.tell(client, &json!({"type": "unsubscribe", "data": data}));
        assert_eq!(answers[0].2["type"], "unsubscribed", "{answers:?}");
    }

    fn disconnect(&mut self, client: usize) {
        let Client { shard, id, .. } = self.clients.swap_remove(client);
        self.shards[shard].on_eof(id, NOW);
        self.reap_ended();
    }

    /// Publishes and compares what everyone receives with what their filters mean.
    fn publish(&mut self) {
        let stream = self.random.below(STREAMS.len());
        let (a, b, q) = (
            self.random.below(4),
            self.random.below(2),
            self.random.once_in(2),
        );
        self.published += 1;
        let item = json!({"a": a, "b": b.to_string(), "p": {"q": q}, "number": self.published});
        let channel = format!("stream:{}", STREAMS[stream]);
        let message = json!({"type": "publish", "data": {"channel": channel, "data": item}});
        let mut bytes = frame(1, message.to_string().as_bytes());
        self.shards[0].receive(self.publisher, &mut bytes, NOW);
        let mut received: Vec<_> = self
            .reap_ended()
            .into_iter()
            .map(|(shard, id, text)| {
                assert_eq!(text["type"], "data", "{text}");
                assert_eq!(text["data"]["subscription_type"], STREAMS[stream]);
                let fields = text["data"].as_object().unwrap();
                assert!(fields.values().any(|value| *value == item), "{text}");
                let tag = text["subscription_id"].as_str().unwrap().to_owned();
                (shard, id, tag)
            })
            .collect();
        let wanted = self.clients.iter().flat_map(|client| {
            let heard = client.subscriptions.iter().filter(|subscription| {
                subscription.stream == stream && FILTERS[subscription.filter].1(a, b, q)
            });
            heard.map(|subscription| (client.shard, client.id, subscription.tag.clone()))
        });
        let mut wanted: Vec<_> = wanted.collect();
        received.sort();
        wanted.sort();
        assert_eq!(received, wanted);
    }

    /// Lets everything arrive; returns the texts, by shard and connection.
    fn reap_ended(&mut self) -> Vec<(usize, ConnectionId, Value)> {
        let mut received = HashMap::<_, Vec<u8>>::new();
        loop {
            let mut is_idle = true;
            for (index, shard) in self.shards.iter_mut().enumerate() {
                is_idle &= shard.drain_ring(NOW) == 0;
                while let Some(id) = shard.next_ready(&mut { usize::MAX }) {
                    is_idle = false;
                    let bytes = shard.begin_send(id, 3).collect::<Vec<_>>().concat();
                    // Sockets that take a part now and then.
                    let taken = if self.random.once_in(4) {
                        1 + self.random.below(bytes.len())
                    } else {
                        bytes.len()
                    };
                    shard.sent(id, u32::try_from(taken).unwrap());
                    let all = received.entry((index, id)).or_default();
                    all.extend_from_slice(&bytes[..taken]);
                }
                for request in shard.take_actions() {
                    if let ConnectionAction::Close(id) | ConnectionAction::Reset(id) = request {
                        shard.release(id);
                    }
                }
            }
            if is_idle {
                break;
            }
        }
        let texts = received.into_iter().flat_map(|((shard, id), bytes)| {
            texts(&bytes)
                .into_iter()
                .map(move |text| (shard, id, text))
                .collect::<Vec<_>>()
        });
        texts.collect()
    }

    fn sum(&self, pick: fn(&ShardCounters) -> u64) -> u64 {
        self.counters.iter().map(|counters| pick(counters)).sum()
    }
}

fn open(shard: &mut Shard, dialect: DialectId) -> ConnectionId {
    let id = shard.accept(([127, 0, 0, 1], 9).into(), 0, NOW).unwrap();
    shard.receive(id, &mut request(dialect), NOW);
    id
}

/// The messages in bytes that begin with an upgrade's answer or with a frame.
fn texts(bytes: &[u8]) -> Vec<Value> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let mut at = match end {
        Some(end) if bytes.starts_with(b"HTTP/1.1 101") => end + 4,
        _ => 0,
    };
    let mut texts = Vec::new();
    while let Some((opcode, payload)) = whole_frame(&bytes[at..]) {
        assert_eq!(opcode, 1);
        let text = &bytes[at + payload.start..at + payload.end];
        texts.push(serde_json::from_slice(text).unwrap());
        at += payload.end;
    }
    assert_eq!(at, bytes.len(), "whole frames only");
    texts
}

#[test]
fn each_subscription_hears_what_its_filter_matches_under_its_own_id() {
    for seed in seeds(0..30) {
        let mut streams = Streams::new(seed);
        for _ in 0..400 {
            let count = streams.clients.len();
            match streams.random.below(12) {
                0 => streams.connect(),
                1 if count > 3 && streams.random.once_in(3) => {
                    let client = streams.random.below(count);
                    streams.disconnect(client);
                }
                2..6 if count > 0 => {
                    let client = streams.random.below(count);
                    let stream = streams.random.below(STREAMS.len());
                    let filter = streams.random.below(FILTERS.len());
                    streams.subscribe(client, stream, filter);
                }
                6..8 if count > 0 => {
                    let client = streams.random.below(count);
                    streams.unsubscribe(client);
                }
                _ => streams.publish(),
            }
            let client_side = streams.clients.iter();
            let client_side: usize = client_side.map(|client| client.subscriptions.len()).sum();
            assert_eq!(
                streams.sum(|counters| counters.subscriptions.value()),
                client_side as u64
            );
        }
        while !streams.clients.is_empty() {
            streams.disconnect(0);
        }
        assert_eq!(streams.sum(|counters| counters.subscriptions.value()), 0);
        assert_eq!(streams.sum(|counters| counters.channels.value()), 0);
        assert_eq!(streams.sum(|counters| counters.shard_sessions.value()), 1);
        for stream in STREAMS {
            let interests = &streams.process_state.interests;
            let channel = format!("stream:{stream}");
            assert!(!interests.has_subscribers(&channel), "{channel}");
        }
    }
}

#[test]
fn ten_thousand_subscribers_who_share_ten_filters_cost_ten_evaluations() {
    let mut streams = Streams::new(0);
    for number in 0..10_000 {
        streams.connect();
        let data = json!({"type": "events", "filters": {"a": number % 10}});
        let message = json!({"type": "subscribe", "data": data});
        streams.tell(number, &message);
    }
    let before = streams.sum(|counters| counters.filter_evaluations.value());
    for a in 0..10 {
        let item = json!({"a": a});
        let channel = "stream:events";
        let message = json!({"type": "publish", "data": {"channel": channel, "data": item}});
        let mut bytes = frame(1, message.to_string().as_bytes());
        streams.shards[0].receive(streams.publisher, &mut bytes, NOW);
        assert_eq!(streams.reap_ended().len(), 1_000);
    }
    let evaluations = streams.sum(|counters| counters.filter_evaluations.value()) - before;
    assert!(
        evaluations <= 10 * 10,
        "{evaluations} evaluations of 10 publications"
    );
    let encodes = streams.sum(|counters| counters.encodes.values().map(|(_, count)| count).sum());
    assert_eq!(encodes, 10, "one encode for each publication");
}
