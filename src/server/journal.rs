//! Opens the durable store, and says what was in it.

use super::error::StartError;
use crate::base::now::Clock;
use crate::base::offline::OfflineUsers;
use crate::base::persistent::PersistentSubscriptions;
use crate::base::retained::RetainedValues;
use crate::base::{History, NameKey};
use crate::config::{Settings, StoreSync};
use crate::journal::{EntryFormat, Journal, Opened, Tables};
use crate::shard::{channel_of_entry, is_entry_for_user};
use crate::store::{StoreConfig, SyncPolicy};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Part of the store that the history may have: a checkpoint is written beside the one before it, and
/// between them what is published.
const HISTORY_PART: u64 = 4;
/// What the files may have beside that, if it is not set, bytes.
const BYTES_BESIDE: u64 = 256 << 20;
/// What may wait for the disk, bytes.
const QUEUE_BYTES: usize = 64 << 20;
/// Sizes of segments, bytes.
const SEGMENT_BYTES: (u64, u64) = (1 << 20, 64 << 20);

/// The tables of a process, and the journal that keeps them if there is a store.
pub(super) struct Restored {
    pub(super) journal: Option<Arc<Journal>>,
    pub(super) history: History,
    pub(super) offline: OfflineUsers,
    pub(super) persistent: PersistentSubscriptions,
    pub(super) retained: RetainedValues,
}

/// Memory for the history, with a limit of the store.
pub(super) fn history_bytes_max(settings: &Settings, wanted: u64) -> u64 {
    let store_bytes_max = settings.process.store_bytes_max.0;
    if settings.process.store.is_none() || store_bytes_max == 0 {
        return wanted;
    }
    let most = store_bytes_max / HISTORY_PART;
    if wanted > most && settings.process.history_bytes_max.0 > 0 {
        tracing::warn!(
            history_bytes_max = most,
            "the history has less memory than set: a quarter of store_bytes_max"
        );
    }
    wanted.min(most)
}

/// Opens the store, if there is one, and rebuilds the tables.
pub(super) fn open(
    settings: &Settings,
    (history, persistent): (History, PersistentSubscriptions),
    history_bytes_max: u64,
    avoid_cores: &[usize],
    clock: Clock,
) -> Result<Restored, StartError> {
    let offline_users_max = settings.process.offline_users_max;
    let Some(directory) = &settings.process.store else {
        return Ok(Restored {
            journal: None,
            history,
            offline: OfflineUsers::new(offline_users_max, NameKey::random()),
            persistent,
            retained: RetainedValues::default(),
        });
    };
    let ttls = settings.dialects.iter();
    let ttls = ttls.map(|dialect| dialect.offline_queue_ttl.0);
    let tables = Tables {
        history,
        persistent,
        offline_users_max,
        offline_ttl_ms: ttls.max().unwrap_or_default(),
    };
    let format = EntryFormat {
        channel: channel_of_entry,
        is_for_user: is_entry_for_user,
    };
    let config = config(settings, directory, history_bytes_max, avoid_cores);
    let found = Journal::open(&config, format, tables, clock);
    let found = found.map_err(|error| StartError::Other(error.to_string()))?;
    report(&found, directory);
    Ok(Restored {
        journal: Some(Arc::new(found.journal)),
        history: found.history,
        offline: found.offline,
        persistent: found.persistent,
        retained: found.retained,
    })
}

fn config(
    settings: &Settings,
    directory: &Path,
    history_bytes_max: u64,
    avoid_cores: &[usize],
) -> StoreConfig {
    let store_bytes_max = match settings.process.store_bytes_max.0 {
        0 => HISTORY_PART
            .saturating_mul(history_bytes_max)
            .saturating_add(BYTES_BESIDE),
        bytes => bytes,
    };
    StoreConfig {
        segment_bytes: (store_bytes_max / 8).clamp(SEGMENT_BYTES.0, SEGMENT_BYTES.1),
        store_bytes_max,
        sync: match settings.process.store_sync {
            StoreSync::Always => SyncPolicy::Always,
            StoreSync::Every(time) => SyncPolicy::Interval(time),
            StoreSync::Never => SyncPolicy::Never,
        },
        queue_bytes_max: QUEUE_BYTES,
        retry_interval: Duration::from_secs(1),
        avoid_cores: avoid_cores.to_vec(),
        ..StoreConfig::new(directory)
    }
}

/// Tells the operator what was found.
fn report(found: &Opened, directory: &Path) {
    let Opened { loaded, scan, .. } = found;
    let directory = directory.display();
    for damage in &scan.damages {
        tracing::error!(%damage, "the store is damaged");
    }
    if let Some(tail) = &scan.torn_tail {
        let segment = tail.segment.display();
        tracing::warn!(
            %segment, offset = tail.offset, bytes = tail.bytes,
            "cut off what a write that did not end has left in the store"
        );
    }
    if loaded.unknown_records > 0 {
        let count = loaded.unknown_records;
        tracing::warn!(count, "the store has records of no meaning to this version");
    }
    if !loaded.is_complete {
        tracing::warn!(
            "the store was not closed in order: clients cannot recover from before this start"
        );
    }
    tracing::info!(
        %directory, publications = loaded.publications, offline_users = loaded.offline_users,
        bytes = scan.bytes, "restored the history from the store"
    );
}
