//! How publications get to the store.

use super::entry::Entry;
use crate::base::{ChannelTag, Now};
use crate::store::{AppendError, Appender, Completion};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Appends the publications of one thread to the store. Nothing waits for the disk.
pub struct PublicationLog {
    appender: Appender,
    /// The offset up to which publications are missing in the store; shared by all logs.
    lost_through: Arc<AtomicU64>,
    /// Whether a publication is acknowledged only when it is stored.
    acknowledges_stored: bool,
    content: Vec<u8>,
}

impl fmt::Debug for PublicationLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PublicationLog")
    }
}

impl PublicationLog {
    pub(super) fn new(
        appender: Appender,
        lost_through: Arc<AtomicU64>,
        acknowledges_stored: bool,
    ) -> Self {
        Self {
            appender,
            lost_through,
            acknowledges_stored,
            content: Vec::new(),
        }
    }

    /// Whether a publication is acknowledged only when it is stored.
    #[must_use]
    pub const fn acknowledges_stored(&self) -> bool {
        self.acknowledges_stored
    }

    /// Appends an entry of the history, the concatenation of `parts`. `completion` is called on another
    /// thread when it is as durable as the policy promises, or lost; not if the answer is false: then
    /// it is not stored, and who recovers after the next start is told that something is missing.
    pub fn append(
        &mut self,
        (tag, offset): (ChannelTag, u64),
        parts: &[&[u8]],
        now: Now,
        completion: Option<Completion>,
    ) -> bool {
        self.content.clear();
        parts
            .iter()
            .for_each(|part| self.content.extend_from_slice(part));
        let entry = Entry::Publication {
            tag,
            offset,
            unix_ms: now.unix_ms,
            content: &self.content,
        };
        let is_appended = entry.append(&mut self.appender, completion).is_ok();
        if !is_appended {
            // Relaxed: the thread of the journal reads it now and then.
            self.lost_through.fetch_max(offset, Ordering::Relaxed);
        }
        is_appended
    }

    /// Whether the store cannot write at the moment.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.appender.is_failing()
    }

    /// Hands over what was appended. To be called at the end of each turn.
    pub fn flush(&mut self) {
        // What finds no room waits for the next call.
        let _ = self.appender.flush();
    }

    /// Calls `completion` when all that was appended here before is stored, or something of it lost.
    ///
    /// # Errors
    /// If the store has no room or is closed.
    pub fn mark(&mut self, completion: Completion) -> Result<(), AppendError> {
        Entry::Mark.append(&mut self.appender, Some(completion))?;
        self.appender.flush()
    }
}
