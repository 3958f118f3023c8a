//! The journal against an oracle: tables that change at random, and are rebuilt from the store after a
//! clean end or a kill.

use crate::harness::{Directory, Random};
use fanwire::base::history::{HistoryLimits, HistoryRule};
use fanwire::base::now::Clock;
use fanwire::base::offline::{LastSeen, OfflineUsers, PARTS};
use fanwire::base::persistent::{PersistentLimits, PersistentSubscriptions, PersistentUser};
use fanwire::base::{DialectId, History, NameKey, Now, Position, ProcessState};
use fanwire::journal::{CheckpointPace, EntryFormat, Journal, Loaded, PublicationLog, Tables};
use fanwire::store::{StoreConfig, SyncPolicy};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const CHANNELS: u64 = 12;
const USERS: u64 = 6;
const MESSAGES_MAX: u32 = 8;
/// A checkpoint after each few records.
const OFTEN: CheckpointPace = CheckpointPace {
    bytes_min: 4_096,
    ms_min: 0,
    ms_max: 1,
};
const SELDOM: CheckpointPace = CheckpointPace {
    bytes_min: u64::MAX,
    ms_min: u64::MAX,
    ms_max: u64::MAX,
};

/// An entry is `channel|user|number`.
const FORMAT: EntryFormat = EntryFormat {
    channel: |content| part(content, 0),
    is_for_user: |content, tenant, user| tenant.is_none() && part(content, 1) == Some(user),
};

fn part(content: &[u8], index: usize) -> Option<&str> {
    std::str::from_utf8(content).ok()?.split('|').nth(index)
}

/// Offset and user of what was published, by channel.
type Published = BTreeMap<String, Vec<(u64, String)>>;

/// Offset and content, by channel.
type Entries = BTreeMap<String, Vec<(u64, String)>>;

/// All entries are there. Where a user's entries were deleted while others were appended, older ones may
/// be there that had no room before.
fn check_entries(found: &Entries, expected: &Entries, published: &Published, seed: u64) {
    for (channel, expected) in expected {
        let found = &found[channel];
        let more = found.len().checked_sub(expected.len());
        let more = more.unwrap_or_else(|| panic!("seed {seed}: {found:?}, {expected:?}"));
        let (older, newest) = found.split_at(more);
        assert_eq!(newest, expected, "seed {seed}");
        let published = published.get(channel).into_iter().flatten();
        let published: Vec<_> = published.map(|(offset, _)| *offset).collect();
        assert!(older.iter().all(|(offset, _)| published.contains(offset)));
    }
}

fn rules() -> Vec<HistoryRule> {
    vec![HistoryRule {
        literal: "c".into(),
        is_prefix: true,
        limits: HistoryLimits {
            messages_max: MESSAGES_MAX,
            bytes_max: 1 << 20,
            age_ms: 0,
        },
    }]
}

fn channel(number: u64) -> String {
    format!("c{number}")
}

/// One process with its tables.
struct Run {
    state: Arc<ProcessState>,
    journal: Journal,
    log: PublicationLog,
    clock: Clock,
    /// Bytes of the ring so far.
    ring_position: u64,
    loaded: Loaded,
}

impl Run {
    fn start(config: &StoreConfig, epoch: u32, pace: CheckpointPace) -> Self {
        let clock = Clock::start();
        let tables = Tables {
            history: History::new(1, rules(), epoch, 1 << 30),
            persistent: PersistentSubscriptions::new(PersistentLimits {
                per_user_max: 10,
                users_max: 100,
                ttl_ms: 60_000,
            }),
            offline_users_max: 100,
            offline_ttl_ms: 60_000,
        };
        let found = Journal::open(config, FORMAT, tables, clock).unwrap();

        let journal = found.journal.with_pace(pace);
        let state = ProcessState::new(1, u64::MAX)
            .with_history(found.history, found.offline)
            .with_persistent(found.persistent)
            .with_retained(found.retained);
        let state = Arc::new(state);
        journal.start(&state).unwrap();
        Self {
            log: journal.log().unwrap(),
            state,
            journal,
            clock,
            ring_position: 0,
            loaded: found.loaded,
        }
    }

    fn publish(&mut self, channel: &str, user: &str, number: u64) -> u64 {
        let history = &self.state.history;
        let offset = history.offset_of(self.ring_position);
        self.ring_position += 32;
        let tag = self.state.interests.tag(channel);
        let content = format!("{channel}|{user}|{number}");
        let limits = history.limits_of(channel).unwrap();
        let now = self.clock.now();
        let parts: [&[u8]; 1] = [content.as_bytes()];
        history.insert(tag, offset, &parts, limits, now.monotonic_ms);
        assert!(self.log.append((tag, offset), &parts, now, None));
        offset
    }

    fn entries(&self) -> Entries {
        let history = &self.state.history;
        let mut all = BTreeMap::new();
        for number in 0..CHANNELS {
            let channel = channel(number);
            let tag = self.state.interests.tag(&channel);
            let mut entries = Vec::new();
            let visit = |offset, _, content: &[u8]| {
                entries.push((offset, String::from_utf8(content.to_vec()).unwrap()));
                true
            };
            history.export(tag, 0, 0, visit);
            all.insert(channel, entries);
        }
        all
    }

    /// Whether a client at a position of this channel would receive all that follows.
    fn resumes(&self, channel: &str, position: Position) -> bool {
        let tag = self.state.interests.tag(channel);
        let unreached = self.state.history.offset_of(self.ring_position);
        let now_ms = self.clock.now().monotonic_ms;
        let history = &self.state.history;
        history.resume(tag, position, unreached, now_ms).is_ok()
    }

    /// Where users stopped, without changing it.
    fn users(&self) -> Vec<Vec<(u64, Option<u64>)>> {
        let of_user = |user| {
            let user = self
                .state
                .offline
                .key(DialectId::Monitoring, &format!("u{user}"));
            let known = self.state.offline.export(user);
            let channels = known.channels.iter();
            let mut channels: Vec<_> = channels.map(|(tag, at)| (tag.bits(), *at)).collect();
            channels.sort_unstable();
            channels
        };
        (0..USERS).map(of_user).collect()
    }
}

/// Many processes, one after the other, that each do something at random.
fn run(seed: u64, sync: SyncPolicy, is_killed: bool) {
    let directory = Directory::new("journal");
    let config = directory.config(sync);
    let mut random = Random::new(seed);
    let mut number = 0;
    // Every position that a client can show: of which channel, and whether it was told the truth then.
    let mut shown: Vec<(String, Position, u64)> = Vec::new();
    // Of each channel, all publications that are not deleted, in their order.
    let mut published: Published = BTreeMap::new();
    let mut expected: Option<(Entries, Vec<_>)> = None;
    for epoch in 1..=12 {
        let pace = if random.below(3) == 0 { SELDOM } else { OFTEN };
        let mut run = Run::start(&config, epoch, pace);
        if let Some((entries, users)) = expected.take() {
            check_entries(&run.entries(), &entries, &published, seed);
            assert_eq!(run.users(), users, "seed {seed}, start {epoch}");
        }
        assert_eq!(run.loaded.unknown_records, 0);
        let mut resumed = 0;
        for (channel, position, seen) in &shown {
            if !run.resumes(channel, *position) {
                continue;
            }
            resumed += 1;
            // Then what follows is what was published since, all of it.
            let tag = run.state.interests.tag(channel);
            let mut found = Vec::new();
            let unreached = run.state.history.offset_of(run.ring_position);
            let after = run
                .state
                .history
                .resume(tag, *position, unreached, 0)
                .unwrap();
            let visit = |offset, _: &[u8]| {
                found.push(offset);
                true
            };
            run.state
                .history
                .read(tag, after, u64::MAX, 0, visit)
                .unwrap();
            let missed = published.get(channel).into_iter().flatten();
            let missed = missed.map(|(offset, _)| offset).filter(|it| *it > seen);
            assert!(
                found.iter().eq(missed.clone()),
                "seed {seed}, start {epoch}: {channel} after {seen}: {found:?}, published {:?}",
                missed.collect::<Vec<_>>()
            );
        }
        let is_continued = !is_killed || sync == SyncPolicy::Always;
        assert!(
            !is_continued || epoch == 1 || resumed > 0,
            "seed {seed}, start {epoch}: nobody of {} recovers",
            shown.len()
        );
        if !is_continued && epoch > 1 {
            assert!(!run.loaded.is_complete);
            assert_eq!(resumed, 0);
        }
        for _ in 0..random.below(200) {
            step(
                &mut run,
                &mut random,
                &mut number,
                &mut shown,
                &mut published,
            );
        }
        run.log.flush();
        // What waits for the next look of the journal may be missing after a kill.
        if is_killed {
            let (sender, receiver) = std::sync::mpsc::channel();
            run.log
                .mark(Box::new(move |stored| sender.send(stored).unwrap()))
                .unwrap();
            if sync == SyncPolicy::Always {
                receiver.recv().unwrap().unwrap();
            }
            drop(run.log);
            run.journal.close(false);
        } else {
            // Whose sessions the end of the process takes away was sent everything.
            let reached = run.state.history.offset_before(run.ring_position);
            let mut users = run.users();
            for (_, offset) in users.iter_mut().flatten() {
                offset.get_or_insert(reached);
            }
            expected = Some((run.entries(), users));
            drop(run.log);
            run.journal.close(true);
        }
    }
}

fn step(
    run: &mut Run,
    random: &mut Random,
    number: &mut u64,
    shown: &mut Vec<(String, Position, u64)>,
    published: &mut Published,
) {
    let channel = channel(random.next() % CHANNELS);
    let tag = run.state.interests.tag(&channel);
    let user = format!("u{}", random.next() % USERS);
    let key = run.state.offline.key(DialectId::Monitoring, &user);
    let reached = run.state.history.offset_before(run.ring_position);
    match random.below(100) {
        0..60 => {
            *number += 1;
            let offset = run.publish(&channel, &user, *number);
            published
                .entry(channel.clone())
                .or_default()
                .push((offset, user));
            let position = run.state.history.position(offset);
            shown.push((channel, position, offset));
        }
        60..70 => {
            let position = run.state.history.position(reached);
            shown.push((channel, position, reached));
        }
        70..80 => {
            let _ = run.state.offline.subscribe(key, tag, 0);
        }
        80..90 => {
            run.state
                .offline
                .disconnect(key, [(tag, reached)].into_iter(), 50_000);
        }
        90..94 => run.state.offline.unsubscribe(key, tag),
        94..96 => {
            run.state.history.delete(tag, reached);
            run.journal.delete_channel(tag, reached);
            // Who stood before it is told; who stands behind it misses nothing.
            shown.retain(|(of, _, seen)| *of != channel || *seen >= reached);
            published.remove(&channel);
            published.insert(channel, Vec::new());
        }
        96..98 => {
            let is_its = |_, content: &[u8]| (FORMAT.is_for_user)(content, None, &user);
            run.state.history.delete_where(is_its);
            run.journal.delete_user(None, &user, reached);
            for all in published.values_mut() {
                all.retain(|(_, of)| *of != user);
            }
        }
        98 => std::thread::sleep(Duration::from_millis(5)),
        // Publications on channels without a history.
        _ => run.ring_position += 32 * 50,
    }
    if random.below(4) == 0 {
        run.log.flush();
    }
}

#[test]
fn tables_come_back_as_they_were_after_a_clean_end() {
    for seed in 0..12 {
        let sync = match seed % 3 {
            0 => SyncPolicy::Always,
            1 => SyncPolicy::Interval(Duration::from_millis(20)),
            _ => SyncPolicy::Never,
        };
        run(seed, sync, false);
    }
}

#[test]
fn what_was_acknowledged_is_there_after_an_unclean_end() {
    for seed in 100..108 {
        run(seed, SyncPolicy::Always, true);
    }
}

#[test]
fn nobody_is_told_a_falsehood_when_something_may_be_missing() {
    for seed in 200..206 {
        run(seed, SyncPolicy::Interval(Duration::from_millis(50)), true);
    }
}

#[test]
fn checkpoints_keep_the_store_small() {
    let directory = Directory::new("small");
    let config = directory.config(SyncPolicy::Never);
    let mut run = Run::start(&config, 1, OFTEN);
    let filler = "x".repeat(1_000);
    for round in 0..40 {
        for number in 0..500 {
            run.publish(&channel(number % CHANNELS), &filler, number);
        }
        run.log.flush();
        if round % 4 == 0 {
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    let written = run.journal.stats().bytes_written_total;
    let bytes = run.journal.stats().bytes;
    assert!(
        written > 20_000_000 && bytes < written / 4,
        "{bytes} of {written}"
    );
    let entries = run.entries();
    drop(run.log);
    run.journal.close(true);
    let again = Run::start(&config, 2, SELDOM);
    assert_eq!(again.entries(), entries);
    assert!(again.loaded.is_complete);
}

#[test]
fn a_user_who_was_connected_at_the_end_has_been_sent_everything() {
    let directory = Directory::new("connected");
    let config = directory.config(SyncPolicy::Always);
    let run = Run::start(&config, 1, SELDOM);
    let tag = run.state.interests.tag("c1");
    let ann = run.state.offline.key(DialectId::Monitoring, "ann");
    assert_eq!(run.state.offline.subscribe(ann, tag, 0), LastSeen::Never);
    drop(run.log);
    run.journal.close(false);
    let mut again = Run::start(&config, 2, SELDOM);
    let before = again.state.history.offset_before(0);
    let ann = again.state.offline.key(DialectId::Monitoring, "ann");
    let offset = again.publish("c1", "", 1);
    assert!(offset > before);
    let seen = again.state.offline.subscribe(ann, tag, 0);
    assert_eq!(seen, LastSeen::At(before));
}

#[test]
fn the_policy_of_the_process_that_was_killed_counts() {
    for (first, second, is_complete) in [
        (
            SyncPolicy::Interval(Duration::from_secs(60)),
            SyncPolicy::Always,
            false,
        ),
        (SyncPolicy::Always, SyncPolicy::Never, true),
    ] {
        let directory = Directory::new("policy");
        // A clean end before it, which says nothing of what follows.
        let run = Run::start(&directory.config(first), 1, SELDOM);
        drop(run.log);
        run.journal.close(true);
        let mut run = Run::start(&directory.config(first), 2, SELDOM);
        let offset = run.publish("c1", "", 1);
        let position = run.state.history.position(offset);
        drop(run.log);
        run.journal.close(false);
        let run = Run::start(&directory.config(second), 3, SELDOM);
        assert_eq!(run.loaded.is_complete, is_complete);
        assert_eq!(run.resumes("c1", position), is_complete);
    }
}

#[test]
fn users_miss_nothing_that_is_published_after_a_restart() {
    let directory = Directory::new("places");
    let config = directory.config(SyncPolicy::Always);
    let mut run = Run::start(&config, 1, SELDOM);
    let tag = run.state.interests.tag("c1");
    let key = |run: &Run| run.state.offline.key(DialectId::Monitoring, "ann");
    assert_eq!(
        run.state.offline.subscribe(key(&run), tag, 0),
        LastSeen::Never
    );
    run.publish("c1", "", 1);
    // She has seen more than the store has.
    run.ring_position += 32 * 1_000;
    let reached = run.state.history.offset_before(run.ring_position);
    let user = key(&run);
    run.state
        .offline
        .disconnect(user, [(tag, reached)].into_iter(), 50_000);
    drop(run.log);
    run.journal.close(true);
    let mut run = Run::start(&config, 2, SELDOM);
    let offset = run.publish("c1", "", 2);
    assert!(offset > reached, "{offset}, {reached}");
    assert_eq!(
        run.state.offline.subscribe(key(&run), tag, 0),
        LastSeen::At(reached)
    );
    // Two kills, the second before the journal has looked for changes.
    drop(run.log);
    run.journal.close(false);
    for epoch in 3..6 {
        let run = Run::start(&config, epoch, SELDOM);
        assert_eq!(run.loaded.offline_users, 1, "start {epoch}");
        let known = run.state.offline.export(key(&run));
        assert_eq!(known.channels, [(tag, Some(offset))]);
        drop(run.log);
        run.journal.close(false);
    }
}

#[test]
fn positions_of_replayed_messages_count_after_the_next_restart() {
    let directory = Directory::new("replayed");
    let config = directory.config(SyncPolicy::Never);
    let mut run = Run::start(&config, 1, SELDOM);
    let offsets = [1, 2, 3].map(|number| run.publish("c1", "", number));
    drop(run.log);
    run.journal.close(true);
    let run = Run::start(&config, 2, SELDOM);
    let shown = run.state.history.position(offsets[0]);
    drop(run.log);
    run.journal.close(true);
    let run = Run::start(&config, 3, SELDOM);
    assert!(run.resumes("c1", shown));
}

#[test]
fn what_is_left_of_segments_before_a_checkpoint_changes_nothing() {
    let directory = Directory::new("left");
    let config = directory.config(SyncPolicy::Always);
    let mut run = Run::start(&config, 1, SELDOM);
    for number in 0..3_000 {
        run.publish("c1", &"x".repeat(1_000), number);
    }
    let tag = run.state.interests.tag("c1");
    let ann = run.state.offline.key(DialectId::Monitoring, "ann");
    assert_eq!(run.state.offline.subscribe(ann, tag, 0), LastSeen::Never);
    run.state
        .offline
        .disconnect(ann, [(tag, 5)].into_iter(), 50_000);
    let entries = run.entries();
    drop(run.log);
    run.journal.close(true);
    let before = directory.segments();
    assert!(before.len() > 2, "{before:?}");
    // A copy of a segment in the middle, which the deletion after a checkpoint did not reach.
    let bytes = std::fs::read(&before[1]).unwrap();
    let run = Run::start(&config, 2, OFTEN);
    for _ in 0..400 {
        if directory.segments().iter().all(|it| !before.contains(it)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(run.log);
    run.journal.close(true);
    std::fs::write(&before[1], bytes).unwrap();
    let run = Run::start(&config, 3, SELDOM);
    assert!(run.loaded.is_complete, "{:?}", run.loaded);
    assert_eq!(
        (run.loaded.unknown_records, run.loaded.offline_users),
        (0, 1)
    );
    assert_eq!(run.entries(), entries);
}

#[test]
fn persistent_subscriptions_are_there_again_with_or_without_a_session_at_the_end() {
    let directory = Directory::new("persistent");
    let config = directory.config(SyncPolicy::Always);
    let user = |name: &str, tenant: Option<&str>| PersistentUser {
        dialect: DialectId::Gateway,
        tenant: tenant.map(Into::into),
        user: name.into(),
    };
    let names = [
        ("ann", None),
        ("ann", Some("acme")),
        ("gone", None),
        ("none", None),
    ];
    for epoch in 1..=4 {
        let run = Run::start(&config, epoch, if epoch == 3 { OFTEN } else { SELDOM });
        let table = &run.state.persistent;
        let now_ms = run.clock.now().monotonic_ms;
        if epoch == 1 {
            for (name, tenant) in names {
                let channel = format!("c-{name}-{tenant:?}");
                assert!(table.insert(&user(name, tenant), "first", false));
                assert!(table.insert(&user(name, tenant), &channel, true));
            }
            table.release(&user("gone", None), now_ms);
            table.remove_all(&user("none", None));
        } else {
            for (name, tenant) in names {
                let (channels, expires_ms) = table.export(&user(name, tenant));
                let channels: Vec<_> = channels.iter().map(|it| it.to_string()).collect();
                if name == "none" {
                    assert!(channels.is_empty());
                    continue;
                }
                let channel = format!("c-{name}-{tenant:?}");
                assert_eq!(channels, ["first", &channel], "start {epoch}");
                assert!((now_ms + 40_000..=now_ms + 60_000).contains(&expires_ms));
            }
        }
        if epoch == 3 {
            std::thread::sleep(Duration::from_millis(500));
        }
        let is_clean = epoch % 2 == 0;
        if !is_clean {
            // The journal looks for changes now and then.
            std::thread::sleep(Duration::from_millis(500));
        }
        drop(run.log);
        run.journal.close(is_clean);
    }
}

#[test]
fn a_table_that_nobody_records_has_no_changes() {
    let users = OfflineUsers::new(10, NameKey::random());
    let ann = users.key(DialectId::Monitoring, "ann");
    let tag = fanwire::base::ChannelTag::from_bits(1);
    let now = Now::at(0, 0);
    assert_eq!(users.subscribe(ann, tag, now.monotonic_ms), LastSeen::Never);
    for part in 0..PARTS {
        assert_eq!(users.take_changed(part), (Vec::new(), false));
    }
}

#[test]
fn retained_values_are_there_again_and_those_that_were_cleared_are_not() {
    let directory = Directory::new("retained");
    let config = directory.config(SyncPolicy::Always);
    for epoch in 1..=4_u32 {
        let run = Run::start(&config, epoch, if epoch == 3 { OFTEN } else { SELDOM });
        let retained = &run.state.retained;
        let before = epoch - 1;
        let expected: Vec<Box<str>> = match before {
            0 => Vec::new(),
            before => vec![before.to_string().into(), format!("new {before}").into()],
        };
        assert_eq!(retained.of("jobs"), expected, "start {epoch}");
        assert_eq!(retained.of("other"), [] as [Box<str>; 0], "start {epoch}");
        retained.remove("jobs", &format!("n{before}"));
        assert!(retained.put("jobs", "a", &epoch.to_string()));
        assert!(retained.put("jobs", &format!("n{epoch}"), &format!("new {epoch}")));
        assert!(retained.put("other", "key", "value"));
        retained.remove("other", "key");
        let is_clean = epoch % 2 == 0;
        if !is_clean {
            // The journal looks for changes now and then, and writes checkpoints in the third run.
            std::thread::sleep(Duration::from_millis(500));
        }
        drop(run.log);
        run.journal.close(is_clean);
    }
}
