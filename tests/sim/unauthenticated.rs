//! Who goes when too many connections have yet to authenticate, on simulated time.

use crate::client::{frame, request};
use crate::random::Random;
use crate::seeds::seeds;
use crate::shards::{ShardList, Shards, shards_with};
use fanwire::auth::{Grant, Verifier, issue};
use fanwire::base::{ConnectionId, DialectId, Now, ShardCounters};
use fanwire::config::{DialectPolicy, Policy};
use fanwire::shard::ConnectionAction;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

const SECRET: &[u8] = b"a secret of the simulation, long enough";
/// Sockets that a shard's table holds.
const TABLE: usize = 20_000;

/// Shards that want tokens, and their clients.
struct Stage {
    shards: ShardList,
    counters: Vec<Arc<ShardCounters>>,
    sent: HashMap<(usize, ConnectionId), String>,
    closed: Vec<(usize, ConnectionId)>,
    now: Now,
}

/// A client: its shard and its connection.
type Who = (usize, ConnectionId);

impl Stage {
    fn new(shard_count: usize, unauthenticated_max: u64, unauthenticated_per_ip_max: u32) -> Self {
        let gateway = DialectPolicy {
            sessions_max: 3,
            sessions_per_ip_max: 0,
            ..DialectPolicy::of(DialectId::Gateway)
        };
        let mut policy = Policy {
            unauthenticated_max,
            unauthenticated_per_ip_max,
            ..Policy::default()
        };
        policy.dialects[DialectId::Gateway.index()] = gateway;
        let now = Now::at(5_000, 1_700_000_000_000);
        let verifier = Verifier::hs256(SECRET);
        let Shards {
            shards, counters, ..
        } = shards_with(policy, &verifier, shard_count, 1 << 16, now);
        Self {
            shards,
            counters,
            sent: HashMap::new(),
            closed: Vec::new(),
            now,
        }
    }

    /// A connection from this address to a shard, which begins with these bytes.
    fn connect(&mut self, shard: usize, ip: &str, bytes: &[u8]) -> Who {
        self.now.monotonic_ms += 1;
        let ip: IpAddr = ip.parse().unwrap();
        let id = self.shards[shard].accept((ip, 9).into(), 0, self.now);
        let id = id.expect("a newcomer always gets in");
        self.shards[shard].receive(id, &mut bytes.to_vec(), self.now);
        self.deliver();
        (shard, id)
    }

    /// A session that has yet to authenticate.
    fn session(&mut self, shard: usize, ip: &str) -> Who {
        self.connect(shard, ip, &request(DialectId::Gateway))
    }

    fn authenticate(&mut self, (shard, id): Who) {
        let token = issue(&Grant::new("ann"), SECRET, 3_600, self.now).unwrap();
        let message = format!(r#"{{"type":"auth","data":{{"token":"{token}"}}}}"#);
        let mut bytes = frame(1, message.as_bytes());
        self.shards[shard].receive(id, &mut bytes, self.now);
        self.deliver();
    }

    /// Sends all that waits, and closes what is to be closed.
    fn deliver(&mut self) {
        for (index, shard) in self.shards.iter_mut().enumerate() {
            while let Some(id) = shard.next_ready(&mut { usize::MAX }) {
                let bytes = shard.begin_send(id, 64).collect::<Vec<_>>().concat();
                shard.sent(id, u32::try_from(bytes.len()).unwrap());
                let sent = self.sent.entry((index, id)).or_default();
                sent.push_str(&String::from_utf8_lossy(&bytes));
            }
            for action in shard.take_actions() {
                if let ConnectionAction::Close(id) = action {
                    shard.release(id);
                    self.closed.push((index, id));
                }
            }
        }
    }

    fn sent(&self, who: Who) -> &str {
        self.sent.get(&who).map_or("", String::as_str)
    }

    /// Sessions closed, and connections rejected, for a reason.
    fn counted(&self, reason: &str) -> (u64, u64) {
        let value = |mut values: Vec<(&'static str, u64)>| {
            values.retain(|(name, _)| *name == reason);
            values.first().map_or(0, |(_, count)| *count)
        };
        let counters = self.counters.iter();
        counters.fold((0, 0), |(closes, rejections), counters| {
            let closed = value(counters.closes.values().collect());
            let rejected = value(counters.connections_rejected.values().collect());
            (closes + closed, rejections + rejected)
        })
    }

    fn waiting(&self) -> u64 {
        let counters = self.counters.iter();
        let gauges = counters.map(|counters| counters.unauthenticated_connections.value());
        gauges.sum()
    }
}

#[test]
fn the_oldest_goes_when_too_many_have_yet_to_authenticate() {
    let mut stage = Stage::new(1, 4, 0);
    let head = stage.connect(0, "192.0.2.1", b"GET /ws HT");
    let session = stage.session(0, "192.0.2.2");
    // It is answered with 404, and does not close.
    let rejected = request(DialectId::Gateway);
    let rejected = String::from_utf8(rejected).unwrap();
    let rejected = rejected.replace("/ws", "/nothing");
    let rejected = stage.connect(0, "192.0.2.3", rejected.as_bytes());
    let http = stage.connect(0, "192.0.2.4", b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!((stage.waiting(), stage.closed.len()), (4, 0));
    let all = [head, session, rejected, http];
    for (age, expected) in all.into_iter().enumerate() {
        let newcomer = stage.session(0, "192.0.2.9");
        assert_eq!(stage.closed.last(), Some(&expected), "number {age}");
        assert!(stage.sent(newcomer).starts_with("HTTP/1.1 101 "));
        assert_eq!((stage.waiting(), stage.closed.len()), (4, age + 1));
    }
    assert_eq!(stage.sent(head), "");
    // Code 1013, with its reason.
    let close = "\u{3}\u{fffd}unauthenticated_max";
    assert!(
        stage.sent(session).ends_with(close),
        "{}",
        stage.sent(session)
    );
    // The rejected one was counted when it was rejected.
    assert_eq!(stage.counted("unauthenticated_max"), (1, 2));
    assert_eq!(stage.counted("unknown_path"), (0, 1));
}

#[test]
fn who_has_authenticated_neither_goes_nor_holds_a_place() {
    let mut stage = Stage::new(1, 2, 0);
    let ann = stage.session(0, "192.0.2.1");
    stage.authenticate(ann);
    assert!(stage.sent(ann).contains("auth_success"));
    assert_eq!(stage.waiting(), 0);
    for _ in 0..10 {
        stage.session(0, "192.0.2.2");
    }
    assert_eq!((stage.waiting(), stage.closed.len()), (2, 8));
    assert!(!stage.closed.contains(&ann));
    // One whose end comes by itself makes room.
    let newest = stage.session(0, "192.0.2.2");
    stage.shards[0].abort(newest.1, stage.now);
    stage.deliver();
    assert_eq!((stage.waiting(), stage.closed.len()), (1, 10));
    stage.session(0, "192.0.2.2");
    assert_eq!((stage.waiting(), stage.closed.len()), (2, 10));
}

#[test]
fn an_address_has_its_limit_over_all_shards_and_an_ipv6_network_is_one() {
    let mut stage = Stage::new(2, 0, 3);
    let hosts = ["2001:db8::1", "2001:db8::1:0:0:2", "2001:db8::3"];
    let first = stage.session(0, hosts[0]);
    let neighbour = stage.session(0, "2001:db8:0:1::1");
    stage.session(1, hosts[1]);
    let second = stage.connect(0, hosts[2], b"G");
    assert_eq!(stage.closed, []);
    stage.session(0, hosts[1]);
    assert_eq!(stage.closed, [first]);
    stage.session(0, hosts[2]);
    assert_eq!(stage.closed, [first, second]);
    assert!(stage.sent(first).ends_with("unauthenticated_per_ip_max"));
    assert_eq!(stage.counted("unauthenticated_per_ip_max"), (1, 1));
    // Its own limit, as that of any IPv4 address.
    assert!(!stage.closed.contains(&neighbour));
    for ip in ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"] {
        stage.session(0, ip);
    }
    assert_eq!(stage.closed.len(), 2);
}

#[test]
fn sessions_take_the_places_of_their_dialect_when_they_authenticate() {
    let mut stage = Stage::new(2, 0, 0);
    let silent: Vec<_> = (0..20).map(|n| stage.session(n % 2, "192.0.2.1")).collect();
    let members: Vec<_> = (0..3).map(|n| stage.session(n % 2, "192.0.2.2")).collect();
    for member in &members {
        stage.authenticate(*member);
        assert!(stage.sent(*member).contains("auth_success"));
    }
    // Full: who comes now is told at once, who has come before when he authenticates.
    let late = stage.session(1, "192.0.2.2");
    assert!(stage.sent(late).ends_with("capacity"));
    stage.authenticate(silent[0]);
    assert!(stage.sent(silent[0]).ends_with("capacity"));
    assert!(!stage.sent(silent[0]).contains("auth_success"));
    // Once more, with a place that has become free.
    let (shard, id) = members[1];
    stage.shards[shard].on_eof(id, stage.now);
    stage.authenticate(silent[1]);
    assert!(stage.sent(silent[1]).contains("auth_success"));
    stage.authenticate(silent[2]);
    assert!(stage.sent(silent[2]).ends_with("capacity"));
}

#[test]
fn a_table_that_half_open_heads_fill_takes_newcomers_even_without_limits() {
    let mut stage = Stage::new(1, 0, 0);
    let mut oldest = Vec::new();
    for _ in 0..TABLE + 100 {
        oldest.push(stage.connect(0, "192.0.2.1", b"GET / HTTP/1.1\r\n"));
    }
    assert!(stage.closed.len() < 200, "{} closed", stage.closed.len());
    assert_eq!(stage.closed, oldest[..stage.closed.len()]);
    let ann = stage.session(0, "192.0.2.2");
    stage.authenticate(ann);
    assert!(stage.sent(ann).contains("auth_success"));
    assert_eq!(stage.counted("table_full"), (0, 0));
}

/// Any order of connections, ends and authentications, against a list in the order of age.
#[test]
fn at_no_time_does_another_go_than_the_oldest_over_its_limit() {
    const SHARD_MAX: usize = 6;
    const PER_IP_MAX: u32 = 3;
    for seed in seeds(600..620) {
        let mut random = Random::new(seed);
        let mut stage = Stage::new(2, 2 * SHARD_MAX as u64, PER_IP_MAX);
        let mut expected: Vec<(Who, String)> = Vec::new();
        let mut evictions = 0;
        for _ in 0..500 {
            let closed = stage.closed.len();
            if random.below(4) > 0 || expected.is_empty() {
                let shard = random.below(2);
                let ip = format!("192.0.2.{}", random.below(6));
                let who = if random.once_in(2) {
                    stage.session(shard, &ip)
                } else {
                    stage.connect(shard, &ip, b"GET")
                };
                let of_ip = expected.iter().filter(|(_, other)| *other == ip).count();
                let mut gone = Vec::new();
                if of_ip >= PER_IP_MAX as usize {
                    let oldest = expected.iter();
                    gone.extend(
                        oldest
                            .clone()
                            .position(|((at, _), other)| *at == shard && *other == ip),
                    );
                }
                let here = expected.iter().filter(|((at, _), _)| *at == shard).count();
                if here - gone.len() >= SHARD_MAX {
                    gone.extend(expected.iter().position(|((at, _), _)| *at == shard));
                }
                for index in gone {
                    evictions += 1;
                    let (who, _) = expected.remove(index);
                    assert_eq!(stage.closed[closed..], [who], "seed {seed}");
                }
                expected.push((who, ip));
            } else {
                let (who, _) = expected.remove(random.below(expected.len()));
                let is_session = stage.sent(who).starts_with("HTTP/1.1 101 ");
                if is_session && random.once_in(2) {
                    stage.authenticate(who);
                } else {
                    stage.shards[who.0].on_eof(who.1, stage.now);
                    stage.deliver();
                }
                if is_session && stage.sent(who).ends_with("capacity") {
                    // It has yet to close, and holds its place until then.
                    stage.shards[who.0].on_eof(who.1, stage.now);
                    stage.deliver();
                }
            }
            assert_eq!(stage.waiting(), expected.len() as u64, "seed {seed}");
        }
        assert!(evictions > 50, "seed {seed}: {evictions} evictions");
    }
}
