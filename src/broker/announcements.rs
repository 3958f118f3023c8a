//! The channels on which a shard announces who comes and goes.

use crate::base::ChannelTag;
use std::collections::VecDeque;

/// The channels whose changes this shard announces, those that are due first at the front: all have
/// the same interval.
pub(super) type Announcements = VecDeque<Announcement>;

/// A channel whose changes this shard announces.
#[derive(Debug)]
pub(super) struct Announcement {
    /// When it looks again what has changed, monotonic milliseconds.
    pub(super) due_ms: u64,
    pub(super) tag: ChannelTag,
    /// Its full name.
    pub(super) name: Box<str>,
}
