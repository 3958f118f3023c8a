//! Whom connections from trusted proxies count as, on simulated time.

use crate::client::request;
use crate::random::Random;
use crate::seeds::seeds;
use crate::shards::{ShardList, Shards, shards_with};
use fanwire::auth::Verifier;
use fanwire::base::{ConnectionId, DialectId, Now, ShardCounters, network_of};
use fanwire::broker::Quotas;
use fanwire::config::{AddressRange, ForwardedHeader, Policy, ProxyProtocol, RejectionMode};
use fanwire::shard::ConnectionAction;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const SECRET: &[u8] = b"a secret of the simulation, long enough";
const PROXY: [u8; 4] = [10, 0, 0, 1];
const HEAD_TIMEOUT_MS: u64 = 10_000;
const CLOSE_TIMEOUT_MS: u64 = 5_000;

/// Shards behind a trusted proxy.
struct Stage {
    shards: ShardList,
    counters: Vec<Arc<ShardCounters>>,
    quotas: Arc<Quotas>,
    sent: BTreeMap<Who, Vec<u8>>,
    closed: Vec<Who>,
    now: Now,
}

/// A client: its shard and its connection.
type Who = (usize, ConnectionId);

impl Stage {
    fn new(shard_count: usize, change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy {
            trusted_proxies: vec![AddressRange::parse("10.0.0.0/8").unwrap()],
            proxy_protocol: ProxyProtocol::Optional,
            forwarded_header: ForwardedHeader::XForwardedFor,
            capacity_rejection: RejectionMode::Http,
            ..Policy::default()
        };
        change(&mut policy);
        let now = Now::at(5_000, 1_700_000_000_000);
        let verifier = Verifier::hs256(SECRET);
        let Shards {
            shards,
            counters,
            quotas,
            ..
        } = shards_with(policy, &verifier, shard_count, 1 << 16, now);
        Self {
            shards,
            counters,
            quotas,
            sent: BTreeMap::new(),
            closed: Vec::new(),
            now,
        }
    }

    fn connect(&mut self, shard: usize, bytes: &[u8]) -> Who {
        let peer = (IpAddr::from(PROXY), 9).into();
        let id = self.shards[shard].accept(peer, 0, self.now).unwrap();
        self.receive((shard, id), bytes);
        (shard, id)
    }

    fn receive(&mut self, (shard, id): Who, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.shards[shard].receive(id, &mut bytes.to_vec(), self.now);
        }
        self.deliver();
    }

    /// Sends all that waits, and closes what is to be closed.
    fn deliver(&mut self) {
        for (index, shard) in self.shards.iter_mut().enumerate() {
            while let Some(id) = shard.next_ready(&mut { usize::MAX }) {
                let bytes = shard.begin_send(id, 64).collect::<Vec<_>>().concat();
                shard.sent(id, u32::try_from(bytes.len()).unwrap());
                self.sent.entry((index, id)).or_default().extend(bytes);
            }
            for action in shard.take_actions() {
                if let ConnectionAction::Close(id) | ConnectionAction::Reset(id) = action {
                    shard.release(id);
                    self.closed.push((index, id));
                }
            }
        }
    }

    fn pass(&mut self, milliseconds: u64) {
        let end_ms = self.now.monotonic_ms + milliseconds;
        while self.now.monotonic_ms < end_ms {
            self.now.monotonic_ms += 100;
            self.now.unix_ms += 100;
            for shard in self.shards.iter_mut() {
                shard.expire_timers(self.now);
            }
            self.deliver();
        }
    }

    fn sent(&self, who: Who) -> String {
        let bytes = self.sent.get(&who).map_or(&[][..], |bytes| bytes);
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn waiting(&self) -> u64 {
        let counters = self.counters.iter();
        let gauges = counters.map(|counters| counters.unauthenticated_connections.value());
        gauges.sum()
    }

    /// How many connections before authentication an address has, by the count of the process.
    fn count_of(&self, address: impl Into<IpAddr>) -> u32 {
        let address = network_of(address.into());
        let count = self.quotas.add_unauthenticated(address, self.now) - 1;
        self.quotas.remove_unauthenticated(address);
        count
    }

    fn rejected(&self, reason: &str) -> u64 {
        let counters = self.counters.iter();
        let counts = counters.flat_map(|counters| counters.connections_rejected.values());
        let counts = counts.filter(|(name, _)| *name == reason);
        counts.map(|(_, count)| count).sum()
    }
}

/// A header of version 1 or 2 for this client.
fn proxy_header(client: [u8; 4], is_binary: bool) -> Vec<u8> {
    let [a, b, c, d] = client;
    if is_binary {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f".to_vec();
        bytes.extend([a, b, c, d, 10, 0, 0, 1, 0x0f, 0xa0, 0, 80, 4, 0, 0]);
        return bytes;
    }
    format!("PROXY TCP4 {a}.{b}.{c}.{d} 10.0.0.1 4000 80\r\n").into_bytes()
}

/// An upgrade with further lines in its head.
fn upgrade(lines: &str) -> Vec<u8> {
    let request = String::from_utf8(request(DialectId::Gateway)).unwrap();
    request
        .replace("Host: sim\r\n", &format!("Host: sim\r\n{lines}"))
        .into_bytes()
}

fn forwarded([a, b, c, d]: [u8; 4]) -> Vec<u8> {
    upgrade(&format!("X-Forwarded-For: 7.7.7.7, {a}.{b}.{c}.{d}\r\n"))
}

#[test]
fn half_a_proxy_header_and_silence_ends_as_any_request_that_does_not_come() {
    for is_binary in [false, true] {
        let header = proxy_header([192, 0, 2, 1], is_binary);
        for end in [0, 1, 12, header.len() - 1, header.len()] {
            let mut stage = Stage::new(1, |policy| policy.unauthenticated_per_ip_max = 4);
            let who = stage.connect(0, &header[..end]);
            let is_known = end == header.len();
            assert_eq!(stage.count_of([192, 0, 2, 1]), u32::from(is_known), "{end}");
            assert_eq!((stage.count_of(PROXY), stage.waiting()), (0, 1), "{end}");
            stage.pass(HEAD_TIMEOUT_MS - 200);
            assert_eq!(stage.sent(who), "", "{end}");
            stage.pass(400);
            assert!(stage.sent(who).starts_with("HTTP/1.1 408 "), "{end}");
            // Until it closes it counts as somebody: its client, or else the proxy.
            let counts = (stage.count_of([192, 0, 2, 1]), stage.count_of(PROXY));
            assert_eq!(counts, (u32::from(is_known), u32::from(!is_known)), "{end}");
            stage.pass(CLOSE_TIMEOUT_MS + 200);
            assert_eq!((stage.closed.len(), stage.waiting()), (1, 0), "{end}");
            let counts = (stage.count_of([192, 0, 2, 1]), stage.count_of(PROXY));
            assert_eq!(counts, (0, 0), "{end}");
        }
    }
}

#[test]
fn bytes_that_trickle_in_buy_no_time() {
    let mut stage = Stage::new(1, |_| {});
    let header = proxy_header([192, 0, 2, 1], false);
    let who = stage.connect(0, &header[..1]);
    for byte in &header[1..11] {
        stage.pass(1_000);
        stage.receive(who, &[*byte]);
    }
    stage.pass(200);
    assert!(stage.sent(who).starts_with("HTTP/1.1 408 "));
    assert_eq!(stage.rejected("head_timeout"), 1);
}

#[test]
fn every_split_of_header_and_request_gives_the_same_session() {
    let client = [192, 0, 2, 1];
    let inputs = [
        [proxy_header(client, false), upgrade("")].concat(),
        [proxy_header(client, true), upgrade("")].concat(),
        [proxy_header([10, 0, 0, 2], true), forwarded(client)].concat(),
        forwarded(client),
    ];
    for bytes in inputs {
        for end in 0..bytes.len() {
            let mut stage = Stage::new(1, |policy| policy.unauthenticated_per_ip_max = 4);
            let who = stage.connect(0, &bytes[..end]);
            assert_eq!(stage.sent(who), "", "{end}");
            stage.receive(who, &bytes[end..]);
            assert!(stage.sent(who).starts_with("HTTP/1.1 101 "), "{end}");
            let peer = stage.shards[0].describe(who.1, stage.now).unwrap().peer;
            assert_eq!(peer.ip(), IpAddr::from(client), "{end}");
            assert_eq!(
                (stage.count_of(client), stage.count_of(PROXY)),
                (1, 0),
                "{end}"
            );
        }
        let mut stage = Stage::new(1, |_| {});
        let who = stage.connect(0, &[]);
        for byte in &bytes {
            stage.receive(who, &[*byte]);
        }
        assert!(stage.sent(who).starts_with("HTTP/1.1 101 "));
    }
}

#[test]
fn every_split_of_a_header_that_does_not_count_is_rejected_for_the_same_reason() {
    for is_binary in [false, true] {
        let bytes = [proxy_header([192, 0, 2, 1], is_binary), upgrade("")].concat();
        let pieces_of = |end: usize| match end {
            0 => bytes.iter().map(std::slice::from_ref).collect::<Vec<_>>(),
            end => vec![&bytes[..end], &bytes[end..]],
        };
        for end in 0..bytes.len() {
            let mut stage = Stage::new(1, |policy| {
                policy.trusted_proxies = vec![AddressRange::parse("192.0.2.9").unwrap()];
            });
            let who = stage.connect(0, &[]);
            for piece in pieces_of(end) {
                stage.receive(who, piece);
            }
            assert!(stage.sent(who).starts_with("HTTP/1.1 400 "), "{end}");
            assert_eq!(stage.rejected("proxy_header_untrusted"), 1, "{end}");
        }
    }
}

#[test]
fn a_proxy_has_no_limit_of_its_own_and_each_client_has_one_whichever_way_it_is_named() {
    let mut stage = Stage::new(2, |policy| policy.unauthenticated_per_ip_max = 2);
    let silent: Vec<_> = (0..50).map(|n| stage.connect(n % 2, b"")).collect();
    assert_eq!(stage.closed, []);
    let client = [192, 0, 2, 1];
    let first = stage.connect(0, &forwarded(client));
    stage.connect(0, &[proxy_header(client, true), upgrade("")].concat());
    assert_eq!((stage.count_of(client), stage.closed.len()), (2, 0));
    // One that came early and says now whose it is.
    stage.receive(silent[0], &proxy_header(client, false));
    assert_eq!(stage.closed, [first]);
    assert!(stage.sent(first).ends_with("unauthenticated_per_ip_max"));
    assert_eq!((stage.count_of(client), stage.waiting()), (2, 51));
    // It is counted once, whatever it says later.
    stage.receive(silent[0], &forwarded([192, 0, 2, 2]));
    assert_eq!(
        (stage.count_of(client), stage.count_of([192, 0, 2, 2])),
        (2, 0)
    );
    // The next one is told by the header that counts, not by the client's own.
    stage.connect(0, &forwarded([192, 0, 2, 3]));
    assert_eq!(
        (stage.count_of([7, 7, 7, 7]), stage.count_of([192, 0, 2, 3])),
        (0, 1)
    );
}

#[test]
fn the_limit_of_the_process_holds_for_a_proxy() {
    let mut stage = Stage::new(1, |policy| {
        policy.unauthenticated_max = 10;
        policy.unauthenticated_per_ip_max = 2;
    });
    let all: Vec<_> = (0..30).map(|_| stage.connect(0, b"")).collect();
    assert_eq!((stage.waiting(), &stage.closed[..]), (10, &all[..20]));
}

#[test]
fn who_is_rejected_unnamed_counts_as_its_proxy() {
    let mut stage = Stage::new(1, |policy| policy.unauthenticated_per_ip_max = 3);
    let mistakes: [&[u8]; 4] = [
        b"PROXY nonsense\r\n",
        b"no HTTP\r\n\r\n",
        &upgrade("X-Forwarded-For: here\r\n"),
        b"PROXY UNKNOWN\r\nno HTTP\r\n\r\n",
    ];
    for round in 0..5 {
        for bytes in mistakes {
            let who = stage.connect(0, bytes);
            assert!(stage.sent(who).starts_with("HTTP/1.1 400 "));
            assert!(stage.count_of(PROXY) <= 3, "{round}");
        }
    }
    assert_eq!((stage.count_of(PROXY), stage.waiting()), (3, 3));
    assert_eq!(stage.rejected("proxy_header"), 5);
    assert_eq!(stage.rejected("forwarded_header"), 5);
    // Those of a client that is named count as the client.
    let request = String::from_utf8(forwarded([192, 0, 2, 1])).unwrap();
    let who = stage.connect(0, request.replace("/ws", "/nothing").as_bytes());
    assert!(stage.sent(who).starts_with("HTTP/1.1 404 "));
    assert_eq!(
        (stage.count_of(PROXY), stage.count_of([192, 0, 2, 1])),
        (3, 1)
    );
}

#[test]
fn handshakes_are_counted_by_the_address_of_the_client() {
    let mut stage = Stage::new(1, |policy| policy.handshakes_per_ip_max = 2);
    let status = |stage: &mut Stage, bytes: &[u8]| {
        let who = stage.connect(0, bytes);
        stage.sent(who)[9..12].to_owned()
    };
    let (ann, ben) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    assert_eq!(status(&mut stage, &forwarded(ann)), "101");
    let by_header = [proxy_header(ann, true), upgrade("")].concat();
    assert_eq!(status(&mut stage, &by_header), "101");
    assert_eq!(status(&mut stage, &by_header), "429");
    assert_eq!(status(&mut stage, &forwarded(ann)), "429");
    for client in 2..100 {
        assert_eq!(status(&mut stage, &forwarded([192, 0, 2, client])), "101");
    }
    stage.pass(1_000);
    assert_eq!(status(&mut stage, &forwarded(ben)), "101");
}

/// Any order of connections, pieces and ends: every connection counts as nobody, and then as one
/// address until it leaves.
#[test]
fn no_order_of_events_counts_a_connection_twice_or_leaves_one_behind() {
    const ADDRESSES: u8 = 5;
    const PER_IP_MAX: u32 = 3;
    for seed in seeds(700..720) {
        let mut random = Random::new(seed);
        let mut stage = Stage::new(2, |policy| {
            policy.unauthenticated_max = 24;
            policy.unauthenticated_per_ip_max = PER_IP_MAX;
        });
        // What each connection has yet to send.
        let mut open: BTreeMap<Who, Vec<u8>> = BTreeMap::new();
        for _ in 0..600 {
            match random.below(6) {
                0 | 1 => {
                    let client = [
                        192,
                        0,
                        2,
                        u8::try_from(random.below(ADDRESSES.into())).unwrap(),
                    ];
                    let bytes = match random.below(5) {
                        0 => forwarded(client),
                        1 => [proxy_header(client, false), upgrade("")].concat(),
                        2 => [proxy_header(client, true), forwarded([7; 4])].concat(),
                        3 => [proxy_header(client, true), b"no HTTP\r\n\r\n".to_vec()].concat(),
                        _ => b"PROXY UNKNOWN\r\nGET /health HTTP/1.1\r\nHost: t\r\n\r\n".to_vec(),
                    };
                    let shard = random.below(2);
                    let who = stage.connect(shard, b"");
                    open.insert(who, bytes);
                }
                2..=4 if !open.is_empty() => {
                    let index = random.below(open.len());
                    let (who, bytes) = open.iter_mut().nth(index).unwrap();
                    let count = (1 + random.below(80)).min(bytes.len());
                    let piece: Vec<_> = bytes.drain(..count).collect();
                    let who = *who;
                    stage.receive(who, &piece);
                }
                _ if !open.is_empty() => {
                    let index = random.below(open.len());
                    let who = *open.keys().nth(index).unwrap();
                    match random.below(3) {
                        0 => stage.shards[who.0].abort(who.1, stage.now),
                        1 => stage.shards[who.0].on_eof(who.1, stage.now),
                        _ => stage.pass(1_000),
                    }
                    stage.deliver();
                }
                _ => {}
            }
            for who in stage.closed.drain(..) {
                open.remove(&who);
            }
            let clients = (0..ADDRESSES).map(|last| [192, 0, 2, last]);
            let counts = clients
                .chain([PROXY])
                .map(|address| stage.count_of(address));
            let named: u32 = counts.sum();
            assert!(u64::from(named) <= stage.waiting(), "seed {seed}");
            assert!(stage.waiting() <= 24, "seed {seed}");
            assert_eq!(stage.count_of([7; 4]), 0, "seed {seed}");
        }
        // The heads, the HTTP API and the answers have their time.
        stage.pass(120_000);
        assert_eq!(stage.waiting(), 0, "seed {seed}");
        let clients = (0..ADDRESSES).map(|last| [192, 0, 2, last]);
        for address in clients.chain([PROXY]) {
            assert_eq!(stage.count_of(address), 0, "seed {seed}: {address:?}");
        }
    }
}
