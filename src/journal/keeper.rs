//! The thread that keeps the store up to date with the tables, and writes checkpoints.

use super::entry::{Entry, RunSettings};
use crate::base::history::{self, HistoryRun};
use crate::base::limits::{
    JOURNAL_CHECKPOINT_BYTES_MIN, JOURNAL_CHECKPOINT_MS_MAX, JOURNAL_CHECKPOINT_MS_MIN,
    JOURNAL_DELETIONS_MAX, JOURNAL_DELETIONS_MS, JOURNAL_END_MS, JOURNAL_PAGE_BYTES,
};
use crate::base::now::Clock;
use crate::base::offline::{self, OfflineUser, UserKey};
use crate::base::persistent::{self, PersistentRecord, PersistentUser};
use crate::base::retained::RetainedRecord;
use crate::base::{ChannelTag, Now, ProcessState};
use crate::store::{
    AppendError, Appender, Completion, IntactMarker, StoreError, StoreMonitor, StoreState,
};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time between two looks at what has changed.
const TICK: Duration = Duration::from_millis(200);
/// Time for the disk to take the first record.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two attempts to append while the store has no room.
const PAUSE: Duration = Duration::from_millis(2);

/// What the keeper is told.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// Something was deleted.
    Deleted(Deletion),
    /// Append what has changed last, and end.
    Stop,
}

/// What was deleted from the history, up to an offset.
#[derive(Clone, Debug)]
pub(super) enum Deletion {
    Channel(ChannelTag, u64),
    /// Of a tenant, or without one.
    User(Option<Box<str>>, Box<str>, u64),
}

impl Deletion {
    pub(super) fn entry(&self) -> Entry<'_> {
        match self {
            Self::Channel(tag, through) => Entry::DeletedChannel {
                tag: *tag,
                through: *through,
            },
            Self::User(tenant, user, through) => Entry::DeletedUser {
                tenant: tenant.as_deref(),
                user,
                through: *through,
            },
        }
    }
}

/// The keeper has to end, or the store is closed.
struct Stopped;

pub(super) struct Keeper {
    pub(super) appender: Appender,
    pub(super) store: StoreMonitor,
    pub(super) process_state: Arc<ProcessState>,
    pub(super) lost_through: Arc<AtomicU64>,
    pub(super) orders: Receiver<Order>,
    pub(super) clock: Clock,
    /// Bytes that may wait for the store before the keeper waits.
    pub(super) queue_bytes_max: u64,
    /// What `lost_through` was when the store was told.
    told_lost_through: u64,
    /// What was deleted lately, and when, monotonic milliseconds. Shards may append what is older only now,
    /// behind a checkpoint.
    deleted: VecDeque<(u64, Deletion)>,
    /// Orders that came while the keeper waited for the store.
    waiting: VecDeque<Order>,
    is_told_to_stop: bool,
    is_marker_removed: bool,
    /// When the keeper gives up, once it was told to stop, monotonic milliseconds.
    ends_ms: Option<u64>,
    settings: RunSettings,
    marker: IntactMarker,
    pace: CheckpointPace,
    checkpoint: Checkpoints,
}

/// When checkpoints are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointPace {
    /// What the store may have beside twice the last one, bytes.
    pub bytes_min: u64,
    /// Time between two, if one is wanted, milliseconds.
    pub ms_min: u64,
    /// Time after which one is written if anything was, milliseconds.
    pub ms_max: u64,
}

impl Default for CheckpointPace {
    fn default() -> Self {
        Self {
            bytes_min: JOURNAL_CHECKPOINT_BYTES_MIN,
            ms_min: JOURNAL_CHECKPOINT_MS_MIN,
            ms_max: JOURNAL_CHECKPOINT_MS_MAX,
        }
    }
}

/// When the last checkpoint was, and when the next one is due.
#[derive(Debug)]
struct Checkpoints {
    is_wanted: bool,
    /// Whether the last one is not complete, so that the next one is not written at once.
    has_failed: bool,
    last_ms: u64,
    /// Bytes that the store had written at the end of the last one, and those of itself.
    written_bytes: u64,
    own_bytes: u64,
    /// The sequence number of the first record of the one that is complete; 0 = none.
    complete: Arc<AtomicU64>,
}

impl Keeper {
    pub(super) fn new(
        (appender, store): (Appender, StoreMonitor),
        process_state: Arc<ProcessState>,
        lost_through: Arc<AtomicU64>,
        orders: Receiver<Order>,
        clock: Clock,
        queue_bytes_max: usize,
        (settings, pace, marker): (RunSettings, CheckpointPace, IntactMarker),
    ) -> Self {
        let checkpoint = Checkpoints {
            is_wanted: false,
            has_failed: false,
            last_ms: clock.now().monotonic_ms,
            written_bytes: 0,
            // What earlier processes have written counts from the start on.
            own_bytes: 0,
            complete: Arc::default(),
        };
        Self {
            appender,
            store,
            process_state,
            lost_through,
            orders,
            clock,
            queue_bytes_max: queue_bytes_max as u64 / 4,
            told_lost_through: 0,
            deleted: VecDeque::new(),
            waiting: VecDeque::new(),
            is_told_to_stop: false,
            is_marker_removed: false,
            ends_ms: None,
            settings,
            marker,
            pace,
            checkpoint,
        }
    }

    /// States in the store that a process has started, before it gives any position. Without
    /// `continues`, positions of earlier ones do not count any more.
    pub(super) fn begin(&mut self, is_new: bool, continues: bool) -> Result<(), StoreError> {
        let runs = self.process_state.history.runs();
        let run = *runs.last().expect("this process is one");
        let (done, is_done) = bounded(1);
        let completion: Completion = Box::new(move |stored: Result<u64, _>| {
            // Fails when nobody waits any more.
            let _ = done.send(stored.is_ok());
        });
        let settings = self.settings;
        let appended = match is_new {
            true => {
                let begin = self.checkpoint_begin(runs);
                let begun = self.append(&begin, None);
                begun.and_then(|()| self.append(&Entry::End, Some(completion)))
            }
            false => {
                let entry = Entry::Run {
                    run,
                    continues,
                    settings,
                };
                self.append(&entry, Some(completion))
            }
        };
        self.checkpoint.is_wanted = !continues;
        // There is room: nothing else is appended yet.
        let is_appended = appended.is_ok() && self.appender.sync().is_ok();
        if is_appended && is_done.recv_timeout(START_TIMEOUT) == Ok(true) {
            return Ok(());
        }
        let why = match self.store.state() {
            StoreState::Failed { error } => error,
            _ => "its disk does not answer".to_owned(),
        };
        Err(StoreError::Thread(format!("cannot write the store: {why}")))
    }

    /// Runs until it is told to stop; whether the store then has, or is about to write, all that has
    /// changed.
    pub(super) fn run(mut self) -> bool {
        loop {
            let is_stopped = self.wait(TICK).is_err();
            while let Some(order) = self.waiting.pop_front() {
                self.carry_out(order);
            }
            if is_stopped {
                break;
            }
            let result = self.record_changes();
            if result.is_ok() && self.is_checkpoint_due() {
                // If it is not written to its end, what is before it stays.
                let _ = self.write_checkpoint();
            }
        }
        // The last word, for which the store gets some time.
        self.ends_ms = Some(self.clock.now().monotonic_ms + JOURNAL_END_MS);
        let result = self.record_changes();
        if result.is_err() {
            tracing::error!("the store does not have what has changed last");
        }
        result.is_ok()
    }

    fn carry_out(&mut self, order: Order) {
        let Order::Deleted(deletion) = order else {
            return;
        };
        if self.append(&deletion.entry(), None).is_err() {
            tracing::error!(?deletion, "the store does not know what was deleted");
        }
        let now_ms = self.clock.now().monotonic_ms;
        self.deleted.push_back((now_ms, deletion));
        let excess = self.deleted.len().saturating_sub(JOURNAL_DELETIONS_MAX);
        self.deleted.drain(..excess);
        // What was deleted is to leave the disk, too.
        self.checkpoint.is_wanted = true;
    }

    /// Says that something is missing in the store, if that is so: where the store cannot be written, a
    /// file can still be removed.
    fn note_losses(&mut self) {
        let through = self.lost_through.load(Ordering::Relaxed);
        let has_lost = through > 0 || self.store.stats().records_lost_total > 0;
        if has_lost && !self.is_marker_removed {
            match self.marker.remove() {
                Ok(()) => self.is_marker_removed = true,
                Err(error) => tracing::error!(%error, "cannot say that the store lacks something"),
            }
        }
    }

    /// Records what has changed beside the publications.
    fn record_changes(&mut self) -> Result<(), Stopped> {
        self.note_losses();
        let now = self.clock.now();
        for part in 0..offline::PARTS {
            let (changed, has_more) = self.process_state.offline.take_changed(part);
            for (user, known) in changed {
                self.append_user(user, known, now)?;
            }
            if has_more {
                for user in self.process_state.offline.users_of(part) {
                    self.append_user(user, self.process_state.offline.export(user), now)?;
                }
                // Who is gone is not among them.
                self.checkpoint.is_wanted = true;
            }
        }
        for part in 0..persistent::PARTS {
            let (changed, has_more) = self.process_state.persistent.take_changed(part);
            for (user, record) in changed {
                self.append_persistent(&user, record, now)?;
            }
            if has_more {
                self.append_persistent_part(part)?;
                self.checkpoint.is_wanted = true;
            }
        }
        let (changed, has_more) = self.process_state.retained.take_changed();
        for record in changed {
            self.append_retained(&record)?;
        }
        if has_more {
            self.append_all_retained()?;
            // What is not retained any more is not among it.
            self.checkpoint.is_wanted = true;
        }
        let through = self.lost_through.load(Ordering::Relaxed);
        if through > self.told_lost_through {
            self.append(&Entry::Lost { through }, None)?;
            self.told_lost_through = through;
        }
        self.flush()
    }

    fn append_user(&mut self, user: UserKey, known: OfflineUser, now: Now) -> Result<(), Stopped> {
        let left_ms = known.expires_ms.saturating_sub(now.monotonic_ms);
        let entry = Entry::OfflineUser {
            user: user.bits(),
            expires_unix_ms: now.unix_ms.saturating_add(left_ms),
            channels: known.channels,
        };
        self.append(&entry, None)
    }

    fn append_all_retained(&mut self) -> Result<(), Stopped> {
        for channel in self.process_state.retained.channels() {
            for record in self.process_state.retained.export(&channel) {
                self.append_retained(&record)?;
            }
        }
        Ok(())
    }

    fn append_retained(&mut self, record: &RetainedRecord) -> Result<(), Stopped> {
        let entry = Entry::Retained {
            channel: &record.channel,
            key: &record.key,
            value: record.value.as_deref(),
        };
        self.append(&entry, None)
    }

    fn append_persistent_part(&mut self, part: usize) -> Result<(), Stopped> {
        for user in self.process_state.persistent.users_of(part) {
            let record = self.process_state.persistent.export(&user);
            self.append_persistent(&user, record, self.clock.now())?;
        }
        Ok(())
    }

    fn append_persistent(
        &mut self,
        user: &PersistentUser,
        (channels, expires_ms): PersistentRecord,
        now: Now,
    ) -> Result<(), Stopped> {
        let left_ms = expires_ms.saturating_sub(now.monotonic_ms);
        let entry = Entry::PersistentUser {
            user: user.clone(),
            expires_unix_ms: match expires_ms {
                u64::MAX => u64::MAX,
                _ => now.unix_ms.saturating_add(left_ms),
            },
            channels,
        };
        self.append(&entry, None)
    }

    fn is_checkpoint_due(&self) -> bool {
        let Checkpoints {
            is_wanted,
            last_ms,
            written_bytes,
            own_bytes,
            has_failed,
            ..
        } = &self.checkpoint;
        let passed_ms = self.clock.now().monotonic_ms - last_ms;
        let stats = self.store.stats();
        let written = stats.bytes_written_total - written_bytes;
        // Before the first one of this process, the memory of the history says how large it will be.
        let live_bytes = match own_bytes {
            0 => self.process_state.history.stats().bytes,
            bytes => *bytes,
        };
        let is_large = stats.bytes >= (2 * live_bytes).saturating_add(self.pace.bytes_min);
        is_large && !(*has_failed && passed_ms < self.pace.ms_min)
            || *is_wanted && passed_ms >= self.pace.ms_min
            || written > 0 && passed_ms >= self.pace.ms_max
    }

    /// Appends the whole tables. When they are stored, what is before them is deleted.
    fn write_checkpoint(&mut self) -> Result<(), Stopped> {
        self.checkpoint.is_wanted = false;
        let stats = self.store.stats();
        let (before, lost_before) = (stats.bytes_written_total, stats.records_lost_total);
        self.checkpoint.has_failed = true;
        self.retry(|keeper| keeper.appender.begin_segment())?;
        let first = Arc::new(AtomicU64::new(0));
        let begin = self.checkpoint_begin(self.process_state.history.runs());
        let note_first = {
            let first = Arc::clone(&first);
            move |stored: Result<u64, _>| first.store(stored.unwrap_or(0), Ordering::Release)
        };
        self.append(&begin, Some(Box::new(note_first)))?;
        // What is published after the tables are read must come behind it.
        self.flush()?;
        // Also those of which the keeper does not know yet; see `Journal::record_deletion`.
        self.wait(Duration::ZERO)?;
        while let Some(order) = self.waiting.pop_front() {
            self.carry_out(order);
            self.wait(Duration::ZERO)?;
        }
        let since_ms = self
            .clock
            .now()
            .monotonic_ms
            .saturating_sub(JOURNAL_DELETIONS_MS);
        self.deleted.retain(|(at_ms, _)| *at_ms >= since_ms);
        for (_, deletion) in self.deleted.clone() {
            self.append(&deletion.entry(), None)?;
        }
        for part in 0..history::PARTS {
            for tag in self.process_state.history.channels_of(part) {
                self.append_channel(tag)?;
            }
            // After its channels: one that left the table meanwhile is in it.
            let entry = Entry::Part {
                part: part as u64,
                lost_through: self.process_state.history.absent_lost_through(part),
            };
            self.append(&entry, None)?;
            self.record_changes()?;
        }
        for part in 0..offline::PARTS {
            for user in self.process_state.offline.users_of(part) {
                let known = self.process_state.offline.export(user);
                self.append_user(user, known, self.clock.now())?;
            }
        }
        for part in 0..persistent::PARTS {
            self.append_persistent_part(part)?;
        }
        self.append_all_retained()?;
        let complete = Arc::clone(&self.checkpoint.complete);
        let note_complete = move |stored: Result<u64, _>| {
            if stored.is_ok() {
                complete.store(first.load(Ordering::Acquire), Ordering::Release);
            }
        };
        self.append(&Entry::End, Some(Box::new(note_complete)))?;
        self.flush()?;
        // A policy may let it wait for a while.
        while self.checkpoint.complete.load(Ordering::Acquire) == 0 {
            self.pause()?;
            if self.store.stats().records_lost_total > lost_before {
                break;
            }
        }
        let sequence = self.checkpoint.complete.swap(0, Ordering::AcqRel);
        if sequence > 0 {
            self.checkpoint.has_failed = false;
            self.retry(|keeper| keeper.appender.delete_before(sequence))?;
        }
        let written_bytes = self.store.stats().bytes_written_total;
        self.checkpoint.written_bytes = written_bytes;
        self.checkpoint.own_bytes = written_bytes - before;
        self.checkpoint.last_ms = self.clock.now().monotonic_ms;
        Ok(())
    }

    fn checkpoint_begin(&self, runs: Vec<HistoryRun>) -> Entry<'static> {
        Entry::Begin {
            name_key: self.process_state.offline.name_key(),
            incomplete_through: self.process_state.history.incomplete_through(),
            settings: self.settings,
            runs,
        }
    }

    /// Appends the entries of a channel, page by page, so that its part of the table is not locked for
    /// long.
    fn append_channel(&mut self, tag: ChannelTag) -> Result<(), Stopped> {
        let process_state = Arc::clone(&self.process_state);
        let mut after = 0;
        loop {
            let now = self.clock.now();
            let mut page = Vec::new();
            let mut bytes = 0;
            let visit = |offset, age_ms: u64, content: &[u8]| {
                page.push((offset, age_ms, content.to_vec()));
                bytes += content.len();
                bytes < JOURNAL_PAGE_BYTES
            };
            let Some(lost_through) =
                process_state
                    .history
                    .export(tag, after, now.monotonic_ms, visit)
            else {
                return Ok(());
            };
            for (offset, age_ms, content) in &page {
                let entry = Entry::Publication {
                    tag,
                    offset: *offset,
                    unix_ms: now.unix_ms.saturating_sub(*age_ms),
                    content,
                };
                self.append(&entry, None)?;
            }
            if bytes < JOURNAL_PAGE_BYTES {
                return self.append(&Entry::Channel { tag, lost_through }, None);
            }
            after = page.last().map_or(after, |(offset, ..)| *offset);
        }
    }

    /// Appends, and waits while more waits for the store than the keeper may add to: publications of
    /// the shards must find room.
    fn append(
        &mut self,
        entry: &Entry<'_>,
        mut completion: Option<Completion>,
    ) -> Result<(), Stopped> {
        while self.store.stats().queue_bytes > self.queue_bytes_max {
            self.pause()?;
        }
        self.retry(|keeper| {
            if completion.is_some() {
                // A chunk with room takes the record in any case.
                keeper.appender.flush()?;
            }
            entry.append(&mut keeper.appender, completion.take())
        })
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        self.retry(|keeper| keeper.appender.flush())
    }

    fn retry(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<(), AppendError>,
    ) -> Result<(), Stopped> {
        loop {
            match attempt(self) {
                Ok(()) => return Ok(()),
                Err(AppendError::QueueFull) => self.pause()?,
                Err(error) => {
                    if error != AppendError::Closed {
                        tracing::error!(%error, "a record of the journal is not stored");
                    }
                    return Err(Stopped);
                }
            }
        }
    }

    /// Waits for a moment, unless it is time to end.
    fn pause(&mut self) -> Result<(), Stopped> {
        self.note_losses();
        match self.ends_ms {
            Some(ends_ms) if self.clock.now().monotonic_ms >= ends_ms => Err(Stopped),
            Some(_) => {
                std::thread::sleep(PAUSE);
                Ok(())
            }
            None => self.wait(PAUSE),
        }
    }

    /// Waits for an order, which is put on the list; an error when it is the one to stop, or nobody can
    /// give one any more.
    fn wait(&mut self, timeout: Duration) -> Result<(), Stopped> {
        match self.orders.recv_timeout(timeout) {
            Ok(Order::Stop) => self.is_told_to_stop = true,
            Ok(order) => self.waiting.push_back(order),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.is_told_to_stop = true,
        }
        match self.is_told_to_stop {
            true => Err(Stopped),
            false => Ok(()),
        }
    }
}
