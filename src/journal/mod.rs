//! The journal: what of the process's state is in the durable store, and how it comes back.
//!
//! The history and the users who are offline are tables in memory. Each change of them is appended to the
//! store as a record. Now and then the whole tables are appended, as a *checkpoint*, at the beginning
//! of a segment; when it is complete, the segments before it are deleted. So the store has, from its
//! first record on, all that is needed to rebuild the tables.
//!
//! ```text
//!   shard ─ publication ─▶ PublicationLog ─┐
//!   offline users ─ changes ─▶ Keeper ─────┼─▶ store ─▶ (the next start) Loader ─▶ tables
//!   tables ─ checkpoint ─▶ Keeper ─────────┘
//! ```

mod entry;
mod keeper;
mod loader;
mod publications;

pub use keeper::CheckpointPace;
pub use loader::{EntryFormat, Loaded, Tables};
pub use publications::PublicationLog;

use crate::base::now::Clock;
use crate::base::offline::OfflineUsers;
use crate::base::persistent::PersistentSubscriptions;
use crate::base::retained::RetainedValues;
use crate::base::{ChannelTag, History, ProcessState};
use crate::store::{
    Appender, IntactMarker, Store, StoreConfig, StoreError, StoreMonitor, StoreScan, StoreState,
    StoreStats, SyncPolicy,
};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use entry::RunSettings;
use keeper::{Deletion, Keeper, Order};
use loader::Loader;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time for the disk to take what is left at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A journal that is written.
#[derive(Debug)]
pub struct Journal {
    store: Mutex<Option<Store>>,
    monitor: StoreMonitor,
    settings: RunSettings,
    marker: IntactMarker,
    queue_bytes_max: usize,
    /// Publications up to this offset are not all in the store.
    lost_through: Arc<AtomicU64>,
    /// Losses and rejections at the last call of `take_losses`.
    losses_told: AtomicU64,
    is_new: bool,
    is_complete: bool,
    pace: CheckpointPace,
    clock: Clock,
    orders: Sender<Order>,
    /// Until the keeper is started.
    received: Mutex<Option<Receiver<Order>>>,
    keeper: Mutex<Option<JoinHandle<bool>>>,
}

/// A journal, the tables that were in it, and what is to be said of them.
#[derive(Debug)]
pub struct Opened {
    /// To be written from now on.
    pub journal: Journal,
    /// With what was in the store.
    pub history: History,
    /// The same.
    pub offline: OfflineUsers,
    /// The same.
    pub persistent: PersistentSubscriptions,
    /// The same.
    pub retained: RetainedValues,
    /// What was found.
    pub loaded: Loaded,
    /// What the store itself found.
    pub scan: StoreScan,
}

impl Journal {
    /// Opens the store and rebuilds the tables from it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(
        config: &StoreConfig,
        format: EntryFormat,
        tables: Tables,
        clock: Clock,
    ) -> Result<Opened, StoreError> {
        let settings = RunSettings {
            acknowledges_stored: config.sync == SyncPolicy::Always,
            coverage: tables.history.coverage(),
        };
        let mut loader = Loader::new(format, tables.history, clock.now());
        let (store, scan) = Store::open(config, clock, |record| loader.add(&record))?;
        let marker = store.intact_marker().clone();
        let is_new = scan.records == 0;
        let users = (tables.offline_users_max, tables.offline_ttl_ms);
        let mut persistent = tables.persistent;
        let (history, offline, retained, loaded) =
            loader.finish(&scan, marker.exists(), users, settings, &mut persistent);
        let (orders, received) = unbounded();
        let journal = Self {
            monitor: store.monitor(),
            store: Mutex::new(Some(store)),
            settings,
            marker,
            queue_bytes_max: config.queue_bytes_max,
            lost_through: Arc::default(),
            losses_told: AtomicU64::new(0),
            is_new,
            is_complete: loaded.is_complete,
            pace: CheckpointPace::default(),
            clock,
            orders,
            received: Mutex::new(Some(received)),
            keeper: Mutex::default(),
        };
        Ok(Opened {
            journal,
            history,
            offline,
            persistent,
            retained,
            loaded,
            scan,
        })
    }

    /// The same, with checkpoints at another pace.
    #[must_use]
    pub fn with_pace(mut self, pace: CheckpointPace) -> Self {
        self.pace = pace;
        self
    }

    /// States in the store that a process has started, and starts the thread that keeps the store up to
    /// date with these tables. Before anything is published, so that the next start knows that something
    /// may be missing if this process is killed.
    ///
    /// # Errors
    /// If the store cannot be written within some seconds, or the thread cannot be started.
    pub fn start(&self, process_state: &Arc<ProcessState>) -> Result<(), StoreError> {
        let received = lock(&self.received).take();
        let appender = self.appender();
        let (Some(received), Some(appender)) = (received, appender) else {
            return Ok(());
        };
        let mut keeper = Keeper::new(
            (appender, self.monitor.clone()),
            Arc::clone(process_state),
            Arc::clone(&self.lost_through),
            received,
            self.clock,
            self.queue_bytes_max,
            (self.settings, self.pace, self.marker.clone()),
        );
        keeper.begin(self.is_new, self.is_complete)?;
        self.marker.create()?;
        let thread = std::thread::Builder::new().name("journal".into());
        let thread = thread.spawn(move || keeper.run());
        let thread = thread.map_err(|error| StoreError::Thread(error.to_string()))?;
        *lock(&self.keeper) = Some(thread);
        Ok(())
    }

    /// A log for the publications of one thread; `None` when the journal is closed.
    #[must_use]
    pub fn log(&self) -> Option<PublicationLog> {
        let lost_through = Arc::clone(&self.lost_through);
        let waits = self.settings.acknowledges_stored;
        self.appender()
            .map(|appender| PublicationLog::new(appender, lost_through, waits))
    }

    fn appender(&self) -> Option<Appender> {
        lock(&self.store).as_ref().map(Store::appender)
    }

    /// Records that the entries of a channel up to an offset were deleted. The bytes leave the disk with
    /// the next checkpoint, some seconds later.
    pub fn delete_channel(&self, tag: ChannelTag, through: u64) {
        self.record_deletion(Deletion::Channel(tag, through));
    }

    /// Records that what was published for a user only, up to an offset, was deleted.
    pub fn delete_user(&self, tenant: Option<&str>, user: &str, through: u64) {
        let tenant = tenant.map(Into::into);
        self.record_deletion(Deletion::User(tenant, user.into(), through));
    }

    /// Records it twice: before whatever is published next, if there is room, and by the keeper. The keeper
    /// knows of it first, so that no checkpoint begins behind the record and does not repeat it.
    fn record_deletion(&self, deletion: Deletion) {
        // Fails when the journal is closed.
        let _ = self.orders.send(Order::Deleted(deletion.clone()));
        if let Some(mut appender) = self.appender() {
            let _ = deletion.entry().append(&mut appender, None);
        }
    }

    /// The state of the store.
    #[must_use]
    pub fn state(&self) -> StoreState {
        self.monitor.state()
    }

    /// The counts of the store.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.monitor.stats()
    }

    /// Whether something was lost or rejected since the last call.
    #[must_use]
    pub fn take_losses(&self) -> bool {
        let stats = self.monitor.stats();
        let losses = stats.records_lost_total + stats.rejected_queue_full_total;
        // Relaxed: only the value itself counts.
        self.losses_told.swap(losses, Ordering::Relaxed) != losses
    }

    /// Writes what is left and closes the store; returns when that is done. `is_whole`: nobody publishes
    /// any more.
    pub fn close(&self, is_whole: bool) {
        let _ = self.orders.send(Order::Stop);
        let keeper = lock(&self.keeper).take();
        let Some(store) = lock(&self.store).take() else {
            return;
        };
        let (closed, is_closed) = bounded(1);
        let close = move || {
            let has_all = keeper.is_some_and(|keeper| keeper.join().unwrap_or(false));
            match is_whole && has_all {
                true => store.close(),
                false => store.close_unfinished(),
            }
            // Fails when nobody waits any more.
            let _ = closed.send(());
        };
        // On a thread of its own, as a disk may never answer.
        let thread = std::thread::Builder::new().name("journal-end".into());
        let is_begun = thread.spawn(close).is_ok();
        if !is_begun || is_closed.recv_timeout(CLOSE_TIMEOUT).is_err() {
            tracing::error!("the store was not closed in time: its disk does not answer");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Nobody has said that all is in it.
        self.close(false);
    }
}

/// What is behind these locks is whole after every operation.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
