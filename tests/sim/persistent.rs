//! Persistent subscriptions: many clients that have theirs restored together, and users who come and go.

use crate::client::{frame, request};
use crate::random::Random;
use crate::seeds::seeds;
use crate::shards::{Shards, shards_remembering};
use fanwire::auth::{Grant, issue};
use fanwire::base::limits::RESTORED_PER_TURN;
use fanwire::base::persistent::PersistentLimits;
use fanwire::base::{ConnectionId, DialectId, Now};
use fanwire::shard::ConnectionAction;
use std::collections::BTreeMap;

const SECRET: &[u8] = b"a secret of the simulation, long enough";
const BEGAN: Now = Now::at(1_000, 1_700_000_000_000);
const SHARDS: usize = 3;
const TTL_MS: u64 = 60_000;

struct Connection {
    shard: usize,
    id: ConnectionId,
    /// The tenant and the id of its user.
    user: (usize, usize),
    received: Vec<u8>,
}

impl Connection {
    fn count(&self, text: &str) -> usize {
        let text = text.as_bytes();
        let windows = self.received.windows(text.len());
        windows.filter(|window| *window == text).count()
    }
}

struct World {
    random: Random,
    now: Now,
    shards: Shards,
    connections: Vec<Connection>,
}

impl World {
    fn new(seed: u64, per_user_max: u32) -> Self {
        let limits = PersistentLimits {
            per_user_max,
            users_max: 10_000,
            ttl_ms: TTL_MS,
        };
        Self {
            random: Random::new(seed),
            now: BEGAN,
            shards: shards_remembering(SECRET, limits, SHARDS, 1 << 24, BEGAN),
            connections: Vec::new(),
        }
    }

    fn connect(&mut self, shard: usize, (tenant, user): (usize, usize)) {
        let grant = Grant::new(&format!("u{user}")).with_tenant(&format!("t{tenant}"));
        let token = issue(&grant, SECRET, 1_000_000, self.now).unwrap();
        let upgrade = String::from_utf8(request(DialectId::Gateway)).unwrap();
        let upgrade = upgrade.replacen(" HTTP", &format!("?token={token} HTTP"), 1);
        let state = &mut self.shards.shards[shard];
        let peer = ([127, 0, 0, 1], 9).into();
        let id = state.accept(peer, 0, self.now).unwrap();
        state.receive(id, &mut upgrade.into_bytes(), self.now);
        self.connections.push(Connection {
            shard,
            id,
            user: (tenant, user),
            received: Vec::new(),
        });
    }

    fn send(&mut self, index: usize, text: &str) {
        let Connection { shard, id, .. } = self.connections[index];
        let state = &mut self.shards.shards[shard];
        state.receive(id, &mut frame(1, text.as_bytes()), self.now);
        while state.has_waiting_input() {
            state.continue_input(self.now);
        }
    }

    fn subscribe(&mut self, index: usize, channel: usize, is_persistent: bool) {
        self.send(
            index,
            &format!(
                r#"{{"type":"subscribe","data":{{"channel":"c{channel}","persistent":{is_persistent}}}}}"#
            ),
        );
    }

    fn unsubscribe(&mut self, index: usize, channel: usize) {
        let text = format!(r#"{{"type":"unsubscribe","data":{{"channel":"c{channel}"}}}}"#);
        self.send(index, &text);
    }

    fn disconnect(&mut self, index: usize) {
        let Connection { shard, id, .. } = self.connections.swap_remove(index);
        let state = &mut self.shards.shards[shard];
        state.abort(id, self.now);
        for action in state.take_actions() {
            if let ConnectionAction::Close(id) | ConnectionAction::Reset(id) = action {
                state.release(id);
            }
        }
        while state.has_leaving() {
            state.drain_ring(self.now);
        }
    }

    /// One turn of each shard, and what waits is sent.
    fn turn(&mut self) {
        for shard in 0..SHARDS {
            self.shards.shards[shard].drain_ring(self.now);
            self.flush(shard);
        }
    }

    fn flush(&mut self, shard: usize) {
        let state = &mut self.shards.shards[shard];
        while let Some(id) = state.next_ready(&mut { usize::MAX }) {
            let bytes = state.begin_send(id, 64).collect::<Vec<_>>().concat();
            state.sent(id, u32::try_from(bytes.len()).unwrap());
            let mut connections = self.connections.iter_mut();
            if let Some(it) = connections.find(|it| (it.shard, it.id) == (shard, id)) {
                it.received.extend(bytes);
            }
        }
    }

    fn restore(&mut self, index: usize) {
        self.send(index, r#"{"type":"restore"}"#);
    }

    fn channels(&self, index: usize) -> Vec<String> {
        let Connection { shard, id, .. } = self.connections[index];
        let view = self.shards.shards[shard].describe(id, self.now).unwrap();
        let mut channels: Vec<_> = view.channels.iter().map(|it| it.to_string()).collect();
        channels.sort();
        channels
    }
}

#[test]
fn many_clients_that_restore_together_take_a_share_of_each_turn() {
    const CLIENTS: usize = 30;
    const CHANNELS: usize = 1_000;
    let mut world = World::new(1, 1_000);
    for user in 0..CLIENTS {
        world.connect(0, (0, user));
        for channel in 0..CHANNELS {
            world.subscribe(user, channel, true);
            world.flush(0);
        }
    }
    (0..CLIENTS).for_each(|_| world.disconnect(0));
    (0..CLIENTS).for_each(|user| world.connect(0, (0, user)));
    world.turn();
    let counter = |world: &World| world.shards.counters[0].subscriptions.value();
    assert_eq!(counter(&world), 0);
    (0..CLIENTS).for_each(|index| world.restore(index));
    // Who asks again has gained nothing.
    (0..CLIENTS).for_each(|index| world.restore(index));
    let mut turns = 0;
    while counter(&world) < (CLIENTS * CHANNELS) as u64 {
        let before = counter(&world);
        world.shards.shards[0].drain_ring(world.now);
        let restored = counter(&world) - before;
        assert!(restored <= RESTORED_PER_TURN as u64 + 32, "{restored}");
        turns += 1;
        assert!(turns < 10_000, "{}", counter(&world));
        if turns == 10 {
            let counts: Vec<_> = (0..CLIENTS)
                .map(|index| world.channels(index).len())
                .collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 64, "each has its turn: {counts:?}");
        }
        world.flush(0);
    }
    assert!(
        turns >= CLIENTS * CHANNELS / (RESTORED_PER_TURN + 32),
        "{turns}"
    );
    world.turn();
    for index in 0..CLIENTS {
        assert_eq!(world.channels(index).len(), CHANNELS);
        let it = &world.connections[index];
        assert_eq!(it.count(r#""restored":true"#), CHANNELS);
        assert_eq!(it.count(r#"{"restored":1000,"rejected":0}"#), 1);
        assert_eq!(it.count("Already restored"), 1);
    }
}

#[test]
fn a_client_that_reads_no_answers_is_restored_no_more_until_it_does() {
    let mut world = World::new(2, 5_000);
    let name = "x".repeat(200);
    world.connect(0, (0, 0));
    let long = |channel: usize| {
        format!(
            r#"{{"type":"subscribe","data":{{"channel":"{name}{channel}","persistent":true}}}}"#
        )
    };
    for channel in 0..1_000 {
        world.send(0, &long(channel));
        world.flush(0);
    }
    world.disconnect(0);
    world.connect(0, (0, 0));
    world.flush(0);
    world.restore(0);
    for _ in 0..100 {
        world.shards.shards[0].drain_ring(world.now);
    }
    assert!(
        !world.shards.shards[0].has_restoring(),
        "it waits, and costs nothing"
    );
    let restored = world.channels(0).len();
    assert!((100..600).contains(&restored), "{restored}");
    (0..20).for_each(|_| world.turn());
    assert_eq!(world.channels(0).len(), 1_000);
}

/// Users of two tenants come, subscribe and go at random; a model knows what each wants.
#[test]
fn users_get_back_what_they_wanted_and_nothing_of_others() {
    const STEPS: usize = 1_500;
    const PER_USER_MAX: usize = 6;
    type Wanted = (Vec<usize>, u64);
    for seed in seeds(0..20) {
        let mut world = World::new(seed, u32::try_from(PER_USER_MAX).unwrap());
        // What each user wants, and when the last session that holds it ended.
        let mut wanted = BTreeMap::<(usize, usize), Wanted>::new();
        let mut holders = BTreeMap::<(usize, usize), Vec<(usize, ConnectionId)>>::new();
        let mut restored = 0;
        for _ in 0..STEPS {
            let any = (!world.connections.is_empty())
                .then(|| world.random.below(world.connections.len().max(1)));
            let channel = world.random.below(12);
            match (world.random.below(10), any) {
                (0 | 1, _) if world.connections.len() < 20 => {
                    let user = (world.random.below(2), world.random.below(3));
                    let shard = world.random.below(SHARDS);
                    world.connect(shard, user);
                    let index = world.connections.len() - 1;
                    if world.random.once_in(3) {
                        continue;
                    }
                    let there = holders.entry(user).or_default();
                    let now_ms = world.now.monotonic_ms;
                    let is_gone = |it: &Wanted| there.is_empty() && it.1 + TTL_MS <= now_ms;
                    if wanted.get(&user).is_some_and(is_gone) {
                        wanted.remove(&user);
                    }
                    world.restore(index);
                    (0..3).for_each(|_| world.turn());
                    let mut expected: Vec<_> = match wanted.get(&user) {
                        Some((channels, _)) => channels.iter().map(|it| format!("c{it}")).collect(),
                        None => Vec::new(),
                    };
                    expected.sort();
                    assert_eq!(world.channels(index), expected, "user {user:?}");
                    restored += expected.len();
                    if !expected.is_empty() {
                        there.push((shard, world.connections[index].id));
                    }
                }
                (2..5, Some(index)) => {
                    let user = world.connections[index].user;
                    let Connection { shard, id, .. } = world.connections[index];
                    let is_held = holders.get(&user).is_some_and(|it| !it.is_empty());
                    let now_ms = world.now.monotonic_ms;
                    let (channels, since_ms) = wanted.entry(user).or_default();
                    if !is_held && !channels.is_empty() && *since_ms + TTL_MS <= now_ms {
                        // It would be swept at some time, or found by the next who comes.
                        continue;
                    }
                    world.subscribe(index, channel, true);
                    let is_new = !channels.contains(&channel);
                    if is_new && channels.len() == PER_USER_MAX {
                        continue;
                    }
                    if is_new {
                        channels.push(channel);
                    }
                    let there = holders.entry(user).or_default();
                    if !there.contains(&(shard, id)) {
                        there.push((shard, id));
                    }
                }
                (5, Some(index)) => world.subscribe(index, channel, false),
                (6 | 7, Some(index)) => {
                    world.unsubscribe(index, channel);
                    let user = world.connections[index].user;
                    if let Some((channels, _)) = wanted.get_mut(&user) {
                        channels.retain(|it| *it != channel);
                    }
                }
                (8, Some(index)) => {
                    let Connection {
                        shard, id, user, ..
                    } = world.connections[index];
                    world.disconnect(index);
                    let there = holders.entry(user).or_default();
                    let had = there.len();
                    there.retain(|it| *it != (shard, id));
                    if there.len() < had
                        && let Some((_, since_ms)) = wanted.get_mut(&user)
                    {
                        *since_ms = world.now.monotonic_ms;
                    }
                }
                _ => {
                    let passed_ms = world.random.below(9_000) as u64;
                    world.now.monotonic_ms += passed_ms;
                }
            }
        }
        assert!(restored > 20, "{restored}");
        while !world.connections.is_empty() {
            world.disconnect(0);
        }
        let table = &world.shards.process_state.persistent;
        let end_ms = world.now.monotonic_ms + TTL_MS;
        (0..64).for_each(|part| table.sweep(part, end_ms));
        let stats = table.stats();
        assert_eq!(
            (stats.users, stats.subscriptions),
            (0, 0),
            "nobody is there"
        );
    }
}
