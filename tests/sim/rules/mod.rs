//! Are quotas, rate limits, authentication and presence what the rules say, on several shards?
//!
//! At every step a client does something at random; the model says what each client must be told, and
//! everything that arrives is compared, up to the timestamps. Who a session speaks for, its channels,
//! the counters and the table of quotas are compared as well.

mod clients;
mod model;
mod plan;
mod texts;
mod usage;

use crate::random::Random;
use crate::seeds::seeds;
use crate::shards::{ShardList, Shards, shards_announcing};
use clients::Client;
use fanwire::auth::Verifier;
use fanwire::base::channel_names::channel_of_tenant;
use fanwire::base::{DialectId, Now, ProcessState, ShardCounters};
use fanwire::broker::{self, Quotas, TenantScope};
use fanwire::config::{AccessRule, Policy};
use fanwire::shard::{ConnectionAction, Publisher, Shard};
use model::{MEMORY_MS, Model, Told};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use texts::{Publication, Scope};

const SECRET: &[u8] = b"a secret of the simulation, long enough";
const DIALECTS: [DialectId; 2] = [DialectId::Gateway, DialectId::Assist];
const STEPS: usize = 1_500;

struct Rules {
    random: Random,
    now: Now,
    shards: ShardList,
    counters: Vec<Arc<ShardCounters>>,
    process_state: Arc<ProcessState>,
    quotas: Arc<Quotas>,
    publisher: Publisher,
    /// All clients that ever were.
    clients: Vec<Client>,
    model: Model,
    /// What is being done, for the text of a failure.
    step: String,
    numbers: u64,
}

impl Rules {
    fn new(seed: u64, shard_count: usize) -> Self {
        let mut random = Random::new(seed);
        // Whole seconds, as tokens count in them.
        let now = Now::at(1_000_000, 1_700_000_000_000);
        let limits = DIALECTS.map(|dialect| (dialect, plan::limits(&mut random)));
        let mut limits = HashMap::from(limits);
        for (dialect, limits) in &mut limits {
            // Only this dialect announces who comes and goes.
            limits.announces_users = *dialect == DialectId::Assist;
        }
        let mut access_rules = fanwire::dialect::access_rules();
        access_rules.push(AccessRule::parse("room:vip role=vip").unwrap());
        let publish_rules = plan::PUBLISH_RULES.map(|rule| AccessRule::parse(rule).unwrap());
        let mut policy = Policy {
            access_rules: access_rules.into(),
            publish_rules: publish_rules.to_vec().into(),
            ..Policy::default()
        };
        for (dialect, limits) in &limits {
            policy.dialects[dialect.index()] = plan::policy(*dialect, limits);
        }
        let verifier = Verifier::hs256(SECRET);
        let Shards {
            shards,
            counters,
            process_state,
            quotas,
            ring,
        } = shards_announcing(policy, &verifier, shard_count, 1 << 20, now);
        let publisher =
            Publisher::new(&ring, Arc::clone(&process_state), Arc::default(), |_, _| {});
        Self {
            random,
            now,
            shards,
            counters,
            process_state,
            quotas,
            publisher,
            clients: Vec::new(),
            model: Model::new(limits),
            step: String::new(),
            numbers: 0,
        }
    }

    /// A client whose session lasts.
    fn any_client(&mut self) -> Option<usize> {
        let clients: Vec<_> = self.model.sessions.keys().copied().collect();
        (!clients.is_empty()).then(|| clients[self.random.below(clients.len())])
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn act(&mut self) {
        match self.random.below(40) {
            0..6 => self.connect(),
            6..9 => self.leave(),
            9 | 10 => self.pass_time(),
            11 => self.sweep(),
            12..15 => self.broadcast(),
            _ => self.message(),
        }
    }

    fn connect(&mut self) {
        let opening = plan::opening(&mut self.random, self.now);
        let shard = self.random.below(self.shards.len());
        self.step = format!("client {} connects: {opening:?}", self.clients.len());
        let peer = ([10, 0, 0, opening.ip], 9).into();
        let id = self.shards[shard].accept(peer, 0, self.now).unwrap();
        let index = self.clients.len();
        self.clients.push(Client::new(shard, id, opening.dialect));
        let mut head = plan::head(&opening, self.now);
        self.shards[shard].receive(id, &mut head, self.now);
        self.model.connect(index, &opening, self.now);
    }

    fn leave(&mut self) {
        let Some(client) = self.any_client() else {
            return;
        };
        let with_close_frame = self.random.once_in(2);
        self.step = format!("client {client} leaves (with a close frame: {with_close_frame})");
        let Client { shard, id, .. } = self.clients[client];
        if with_close_frame {
            let mut close = crate::client::frame(8, &1000_u16.to_be_bytes());
            self.shards[shard].receive(id, &mut close, self.now);
        } else if self.random.once_in(2) {
            self.shards[shard].on_eof(id, self.now);
        } else {
            self.shards[shard].abort(id, self.now);
        }
        self.clients[client].has_closed = true;
        self.model.leave(client, with_close_frame, self.now);
    }

    fn message(&mut self) {
        let Some(client) = self.any_client() else {
            return;
        };
        let Client {
            shard, id, dialect, ..
        } = self.clients[client];
        let number = self.next_number();
        let ask = plan::ask(&mut self.random, dialect, number, self.now);
        self.step = format!("client {client} ({dialect:?}) asks: {ask:?}");
        let token = match &ask {
            texts::Ask::Authenticate(proof) => plan::token(proof, self.now),
            _ => String::new(),
        };
        let message = texts::request(dialect, &ask, &token).to_string();
        let mut frame = crate::client::frame(1, message.as_bytes());
        self.shards[shard].receive(id, &mut frame, self.now);
        self.model.message(client, &ask, self.now);
    }

    /// A publication by the program that embeds the server, or by an operator.
    fn broadcast(&mut self) {
        let (channel, scope) = plan::broadcast(&mut self.random);
        let number = self.next_number();
        self.step = format!("{number} is broadcast to {channel} ({scope:?})");
        let publication = Publication {
            scope,
            channel: channel.to_owned(),
            kind: "notice",
            data: serde_json::json!({"number": number}),
        };
        let data = publication.data.to_string();
        let sent = broker::Publication::new(channel, publication.kind, &data);
        let sent = sent.in_scope(match scope {
            Scope::Of(tenant) => tenant.into(),
            Scope::All => TenantScope::All,
        });
        self.publisher.publish(&sent, self.now).unwrap();
        self.model.publish(publication);
    }

    fn pass_time(&mut self) {
        let seconds = match self.random.below(12) {
            0 => MEMORY_MS / 1_000 + 1,
            1 => 30,
            _ => 1 + self.random.below(4) as u64,
        };
        self.step = format!("{seconds} s pass");
        self.now.monotonic_ms += seconds * 1_000;
        self.now.unix_ms += seconds * 1_000;
        for shard in self.shards.iter_mut() {
            shard.expire_timers(self.now);
            for (id, query) in shard.take_queries() {
                shard.unacknowledged(id, query, None, self.now);
            }
        }
        self.model.pass(self.now);
    }

    fn sweep(&mut self) {
        self.step = "the table of quotas is swept".into();
        let remembered = self.quotas.sweep(self.now);
        let expected = self.model.sweep(self.now);
        assert_eq!(
            remembered, expected,
            "addresses, users and tenants remembered"
        );
    }

    /// Lets everything arrive, and changes of presence be announced that were gathered meanwhile.
    fn deliver_with_presence(&mut self) {
        self.deliver_all();
        for shard in self.shards.iter_mut() {
            shard.expire_timers(self.now);
        }
        self.deliver_all();
    }

    /// Lets everything arrive; clients answer close frames.
    fn deliver_all(&mut self) {
        let ids = self.clients.iter().enumerate();
        let ids: HashMap<_, _> = ids
            .filter(|(_, client)| !client.is_gone)
            .map(|(index, client)| ((client.shard, client.id), index))
            .collect();
        loop {
            let mut is_idle = true;
            for (index, shard) in self.shards.iter_mut().enumerate() {
                is_idle &= shard.drain_ring(self.now) == 0;
                while let Some(id) = shard.next_ready(&mut { usize::MAX }) {
                    is_idle = false;
                    let bytes = shard.begin_send(id, 64).collect::<Vec<_>>().concat();
                    shard.sent(id, u32::try_from(bytes.len()).unwrap());
                    let client = &mut self.clients[ids[&(index, id)]];
                    client.take(&bytes);
                    if client.close.is_some() && !std::mem::replace(&mut client.has_closed, true) {
                        let mut answer = crate::client::frame(8, &1000_u16.to_be_bytes());
                        shard.receive(id, &mut answer, self.now);
                    }
                }
                for action in shard.take_actions() {
                    is_idle = false;
                    let ConnectionAction::Close(id) = action else {
                        panic!("nobody speaks HTTP: {action:?}");
                    };
                    let client = &mut self.clients[ids[&(index, id)]];
                    assert!(client.has_closed, "a client that has not closed is gone");
                    client.is_gone = true;
                    shard.release(id);
                }
            }
            if is_idle {
                return;
            }
        }
    }

    fn compare(&mut self) {
        let told = self.model.take_told(self.now);
        for (index, client) in self.clients.iter_mut().enumerate() {
            if client.is_compared {
                continue;
            }
            let nothing = Told::default();
            let expected = told.get(&index).unwrap_or(&nothing);
            let texts = std::mem::take(&mut client.texts);
            let replies = expected.replies.len().min(texts.len());
            let (replies, publications) = texts.split_at(replies);
            assert_eq!(replies, expected.replies, "client {index}: replies");
            assert_eq!(
                sorted(publications),
                sorted(&expected.publications),
                "client {index}: publications"
            );
            assert_eq!(client.close, expected.close, "client {index}: close frame");
            let session = self.model.sessions.get(&index);
            let view = self.shards[client.shard].describe(client.id, self.now);
            assert_eq!(view.is_some(), session.is_some(), "client {index}: session");
            client.is_compared = client.is_gone;
            let (Some(view), Some(session)) = (view, session) else {
                continue;
            };
            let user = view.identity.map(|identity| &*identity.user);
            assert_eq!(user, session.user(), "client {index}: user");
            assert_eq!(view.tenant, session.tenant(), "client {index}: tenant");
            assert_eq!(view.channels, session.channels, "client {index}: channels");
        }
        self.compare_counts();
        self.compare_presence();
    }

    fn compare_presence(&self) {
        let present = self.model.present();
        let table = &self.process_state.presence;
        let users = present.values().map(|(users, _)| users.len() as u64);
        let is_online = |session: &model::Session| {
            let user = session.user()?;
            (session.dialect == DialectId::Assist).then_some((session.space(), user))
        };
        let online: BTreeSet<_> = self.model.sessions.values().filter_map(is_online).collect();
        let members = users.sum::<u64>() + online.len() as u64;
        assert_eq!(table.stats().members, members, "members of all channels");
        for ((space, channel), (users, sessions)) in present {
            let name = match space {
                Some(tenant) => channel_of_tenant(tenant, channel),
                None => channel.to_owned(),
            };
            let tag = self.process_state.interests.tag(&name);
            let page = table.page((tag, &name), None, (1_000, 1 << 20));
            let members = page.members.iter();
            let members: BTreeMap<_, _> = members.map(|(user, count)| (&**user, *count)).collect();
            assert_eq!(members, users, "members of {name}");
            assert_eq!(page.counts.sessions, sessions, "sessions on {name}");
        }
    }

    fn compare_counts(&self) {
        let sum = |pick: fn(&ShardCounters) -> u64| -> usize {
            let values = self.counters.iter().map(|counters| pick(counters));
            usize::try_from(values.sum::<u64>()).unwrap()
        };
        let sessions = self.model.sessions.values();
        let known = sessions.clone().filter(|session| session.user().is_some());
        let channels: usize = sessions.clone().map(|session| session.channels.len()).sum();
        let dialect = |dialect| {
            sessions
                .clone()
                .filter(move |session| session.dialect == dialect)
        };
        assert_eq!(
            sum(|counters| counters.shard_sessions.value()),
            sessions.clone().count()
        );
        assert_eq!(
            sum(|counters| counters.authenticated_sessions.value()),
            known.count()
        );
        assert_eq!(sum(|counters| counters.subscriptions.value()), channels);
        for id in DIALECTS {
            assert_eq!(self.process_state.sessions(id), dialect(id).count() as u64);
        }
        for (reason, count) in &self.model.closes {
            let closes = self.counters.iter().flat_map(|counters| {
                let mut values = counters.closes.values();
                values.find(|(name, _)| name == reason)
            });
            let closed: u64 = closes.map(|(_, count)| count).sum();
            assert_eq!(closed, *count, "closed sessions: {reason}");
        }
    }

    /// All leave; nothing of them may be remembered for longer than the rules say.
    fn finish(mut self) -> BTreeMap<String, u64> {
        for client in self.model.sessions.keys().copied().collect::<Vec<_>>() {
            let Client { shard, id, .. } = self.clients[client];
            self.step = format!("client {client} leaves at the end");
            self.shards[shard].on_eof(id, self.now);
            self.clients[client].has_closed = true;
            self.model.leave(client, false, self.now);
            self.deliver_with_presence();
            self.compare();
        }
        self.now.monotonic_ms += MEMORY_MS;
        self.now.unix_ms += MEMORY_MS;
        self.sweep();
        assert_eq!(self.quotas.sweep(self.now), 0, "nothing is remembered");
        let connections = self.shards.iter().map(Shard::connection_count);
        assert_eq!(connections.sum::<usize>(), 0);
        assert_eq!(self.process_state.sessions_total(), 0);
        std::mem::take(&mut self.model.closes)
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("when {}", self.step);
        }
    }
}

fn sorted(texts: &[Value]) -> Vec<String> {
    let mut texts: Vec<_> = texts.iter().map(Value::to_string).collect();
    texts.sort_unstable();
    texts
}

/// Runs with so many shards; all ends of sessions that the rules know must occur.
fn check(shard_count: usize, range: std::ops::Range<u64>) {
    let is_complete = range.end - range.start > 1;
    let mut closes = BTreeMap::new();
    let mut runs = 0;
    for seed in seeds(range) {
        let mut rules = Rules::new(seed, shard_count);
        for _ in 0..STEPS {
            rules.act();
            rules.deliver_with_presence();
            rules.compare();
        }
        for (reason, count) in rules.finish() {
            *closes.entry(reason).or_insert(0) += count;
        }
        runs += 1;
    }
    let reasons = [
        "auth_timeout",
        "capacity",
        "quota",
        "rate_limited",
        "tenant",
        "token_expired",
        "unauthorized",
    ];
    let missing: Vec<_> = reasons
        .iter()
        .filter(|reason| !closes.contains_key(**reason))
        .collect();
    assert!(
        !is_complete || runs == 1 || missing.is_empty(),
        "no session was closed for {missing:?}"
    );
}

#[test]
fn one_shard_tells_every_client_what_the_rules_say() {
    check(1, 400..440);
}

#[test]
fn two_shards_tell_every_client_what_the_rules_say() {
    check(2, 440..480);
}

#[test]
fn three_shards_tell_every_client_what_the_rules_say() {
    check(3, 520..560);
}

#[test]
fn four_shards_tell_every_client_what_the_rules_say() {
    check(4, 480..520);
}
