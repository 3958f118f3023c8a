//! A part of the history of a channel, copied out of the table.

use super::envelope::{self, Envelope};
use super::record::Record;
use crate::base::channel_names::{channel_of_tenant, is_reserved, user_channel};
use crate::base::limits::HISTORY_REPLY_BYTES_MAX;
use crate::base::{Now, Position, ProcessState};
use crate::broker::{BroadcastTarget, HistoryMessage, TenantScope};

/// Publications of one channel, oldest first.
#[derive(Debug)]
pub struct HistoryPage {
    entries: Vec<(u64, Vec<u8>)>,
    /// The channel's full name.
    name: String,
    /// Up to where it reaches.
    pub position: Position,
    /// Whether nothing is missing: neither after it nor, if a position was named, before it.
    pub is_complete: bool,
}

/// What is read of a channel.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest<'a> {
    /// The channel's full name.
    pub name: &'a str,
    /// What follows this position; `None` = the newest.
    pub after: Option<Position>,
    /// At most so many publications.
    pub limit: usize,
    /// The position of the ring up to which everything is wanted.
    pub ring_position: u64,
}

impl HistoryPage {
    /// Reads publications of about [`HISTORY_REPLY_BYTES_MAX`] bytes at most; `None` if the channel
    /// has no history.
    #[must_use]
    pub fn read(process_state: &ProcessState, request: PageRequest<'_>, now: Now) -> Option<Self> {
        let PageRequest {
            name,
            after,
            limit,
            ring_position,
        } = request;
        let history = &process_state.history;
        history.limits_of(name)?;
        let tag = process_state.interests.tag(name);
        let reached = history.offset_before(ring_position);
        let now_ms = now.monotonic_ms;
        let size = (limit, HISTORY_REPLY_BYTES_MAX);
        let newest = || history.offset_of_newest(tag, size, reached, now_ms);
        let resumed = after.map(|after| history.resume(tag, after, reached + 1, now_ms));
        let (start, mut is_complete) = match resumed {
            Some(Ok(after)) => (after, true),
            Some(Err(_)) => (newest(), false),
            None => (newest(), true),
        };
        let is_newest = after.is_none() || !is_complete;
        let mut entries: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut bytes = 0;
        // The first one always has room.
        let read = history.read(tag, start, reached, now_ms, |offset, content| {
            let is_full = entries.len() == limit
                || !entries.is_empty() && bytes + content.len() > HISTORY_REPLY_BYTES_MAX;
            if !is_newest && is_full {
                is_complete = false;
                return false;
            }
            bytes += content.len();
            entries.push((offset, content.to_vec()));
            true
        });
        is_complete &= read.is_ok() && history.is_settled(ring_position);
        let through = match (is_complete, entries.last()) {
            (true, _) => reached,
            (false, Some((offset, _))) => *offset,
            (false, None) => start,
        };
        Some(Self {
            entries,
            name: name.to_owned(),
            position: history.position_on(tag, through),
            is_complete,
        })
    }

    /// The publications, each with whom it was for.
    pub fn messages(
        &self,
    ) -> impl Iterator<Item = (HistoryMessage<'_>, BroadcastTarget<'_>, TenantScope<'_>)> {
        self.entries.iter().filter_map(|(offset, content)| {
            let record = Record::read_kept(content)?;
            let publication = record.publication()?;
            let local = Position {
                offset: *offset,
                ..self.position
            };
            let message = HistoryMessage {
                position: record.meta.shared.unwrap_or(local),
                kind: publication.kind,
                data: publication.data,
                unix_ms: record.meta.unix_ms,
            };
            let is_its = record.channel == self.name.as_bytes();
            is_its.then_some((message, publication.target, record.reach()?))
        })
    }
}

/// The full name of the channel of an entry of the history.
#[must_use]
pub fn channel_of_entry(content: &[u8]) -> Option<&str> {
    std::str::from_utf8(Record::read_kept(content)?.channel).ok()
}

/// Whether an entry of the history is for one user only, and that is this one: of a tenant, or
/// without one. On the channel of the user, or for the user among the subscribers of another.
#[must_use]
pub fn is_entry_for_user(content: &[u8], tenant: Option<&str>, user: &str) -> bool {
    let Some(record) = Record::read_kept(content) else {
        return false;
    };
    let of = (record.reach(), record.target());
    is_for_user(record.channel, of, (tenant, user))
}

/// The same of an envelope on a channel, by its full name.
#[must_use]
pub fn is_envelope_for_user(channel: &str, bytes: &[u8], tenant: Option<&str>, user: &str) -> bool {
    let Some(Envelope { publication, .. }) = envelope::open(channel, bytes) else {
        return false;
    };
    let of = (Some(publication.scope), Some(publication.target));
    is_for_user(channel.as_bytes(), of, (tenant, user))
}

fn is_for_user(
    channel: &[u8],
    (reach, target): (Option<TenantScope<'_>>, Option<BroadcastTarget<'_>>),
    (tenant, user): (Option<&str>, &str),
) -> bool {
    if channel == user_channel(user).as_bytes() {
        return match (reach, tenant) {
            (Some(TenantScope::Of(own)), Some(tenant)) => own == tenant,
            (Some(TenantScope::Without | TenantScope::All), None) => true,
            _ => false,
        };
    }
    let is_in_tenant = match tenant {
        Some(tenant) => {
            let prefix = channel_of_tenant(tenant, "");
            channel.starts_with(prefix.as_bytes())
        }
        None => !is_reserved(&String::from_utf8_lossy(channel)),
    };
    is_in_tenant && target == Some(BroadcastTarget::User(user))
}
