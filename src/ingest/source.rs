//! One program that publishes, and its ring.

use super::IngestParts;
use crate::base::limits::{
    INGEST_END_LOOKS, INGEST_TICK_MS, INGEST_TURN_BYTES, INGEST_TURN_RECORDS,
};
use crate::base::{IngestCounters, IngestRejection, Now, SourceCounters};
use crate::broker::{BroadcastTarget, Publication, SessionId, TenantScope};
use crate::json;
use crate::shard::PublishError;
use fanwire_ring::publication::{Content, Publication as Written, Scope, Target};
use fanwire_ring::shared::{RingPeer, SharedRing};
use fanwire_ring::{ReadError, Reader, Retirer, RingConfig, SharedConfig};
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Time until a publication that found the ring of the shards full is tried again.
const RETRY: Duration = Duration::from_micros(500);
/// Processes in the ring of a source: it, this server, and what it may start.
const PEERS_MAX: u32 = 16;
/// Writers in the ring of a source: more threads than this share lines.
const WRITERS_MAX: u32 = 64;

/// What a turn of a source was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Something was read.
    Read,
    /// There was nothing.
    Nothing,
    /// The program has written what no ring holds. The source is at its end.
    Damaged,
}

pub(super) struct Source {
    reader: Reader,
    retirer: Retirer,
    shared: SharedRing,
    counters: Arc<SourceCounters>,
    /// Last, so that the program sees the end of it when the reader is gone.
    peer: RingPeer,
    /// Records behind this position are not read: they were written after the server's end began.
    end_position: Option<u64>,
    /// When its ring was last looked at, monotonic milliseconds.
    looked_ms: u64,
    /// Whether something was read since the last look, how often nothing was, and whether the program is gone.
    has_read: bool,
    idle_looks: u32,
    is_gone: bool,
    /// The reasons of rejections that were logged, whether a loss was, and whether its end is to be.
    logged: u32,
    has_missed: bool,
    is_logged: bool,
}

impl Source {
    /// Makes a ring for a program, and gives it to it.
    pub(super) fn new(
        peer: RingPeer,
        ring_bytes: u32,
        counters: &IngestCounters,
        is_logged: bool,
    ) -> io::Result<Self> {
        let config = SharedConfig {
            peers_max: PEERS_MAX,
            writers_max: WRITERS_MAX,
            ..SharedConfig::new(RingConfig {
                capacity_bytes: ring_bytes,
                readers_max: 1,
            })
        };
        let shared = SharedRing::memfd("fanwire-source", &config).map_err(io::Error::other)?;
        let reader = shared.ring().reader().map_err(io::Error::other)?;
        let retirer = shared.ring().retirer().map_err(io::Error::other)?;
        peer.give(&shared)?;
        let name = name_of(peer.process_id());
        if is_logged {
            tracing::info!(
                source = name,
                process_id = peer.process_id(),
                user_id = peer.user_id(),
                "a program publishes through shared memory"
            );
        }
        Ok(Self {
            reader,
            retirer,
            shared,
            counters: counters.connect(&name),
            peer,
            end_position: None,
            looked_ms: 0,
            has_read: false,
            idle_looks: 0,
            is_gone: false,
            logged: 0,
            has_missed: false,
            is_logged,
        })
    }

    pub(super) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Takes back what dead writers had; false if the program is gone and all it has written is read.
    pub(super) fn look(&mut self, now: Now) -> bool {
        if now.monotonic_ms >= self.looked_ms + INGEST_TICK_MS {
            self.looked_ms = now.monotonic_ms;
            self.retirer.look();
            // A reader that the program has made for itself, and left there, would hold its writers.
            self.shared.ring().evict_dead();
            // Claims that nobody commits any more are taken back in the third look.
            self.idle_looks = match std::mem::take(&mut self.has_read) {
                true => 0,
                false => self.idle_looks.saturating_add(1),
            };
        }
        if self.is_gone || self.peer.is_connected() {
            return !self.is_gone || (!self.has_read_all() && self.idle_looks < INGEST_END_LOOKS);
        }
        (self.is_gone, self.idle_looks) = (true, 0);
        true
    }

    /// Nothing that is written from now on is read.
    pub(super) fn end(&mut self) {
        self.end_position = Some(self.shared.ring().tail_position());
    }

    /// Whether all is read that was written, or will be read.
    pub(super) fn has_read_all(&self) -> bool {
        match self.end_position {
            Some(end) => self.reader.next_position() >= end,
            None => self.reader.lag_bytes() == 0,
        }
    }

    /// Reads and publishes until it is another one's turn. A publication for which there is no room waits for it
    /// as long as `may_wait` says, and stays where it is then.
    pub(super) fn read(&mut self, parts: &IngestParts, may_wait: &dyn Fn() -> bool) -> Progress {
        let end = self.end_position.unwrap_or(u64::MAX);
        let (mut records, mut bytes) = (0, 0);
        let error = loop {
            if records >= INGEST_TURN_RECORDS || bytes >= INGEST_TURN_BYTES {
                break None;
            }
            match self.reader.next() {
                Ok(Some(record)) if record.position < end => {}
                Ok(_) => break None,
                Err(error) => break Some(error),
            }
            // In any case, so that nobody keeps us here.
            records += 1;
            let record = match self.reader.payload() {
                Ok(Some(record)) => record,
                // Overwritten meanwhile: the next look says so.
                Ok(None) => continue,
                Err(error) => break Some(error),
            };
            bytes += record.len();
            match publish(record, parts, may_wait) {
                Ok(true) => self.counters.accept(record.len()),
                Ok(false) => break None,
                Err(rejection) => {
                    self.counters.reject(rejection);
                    log(&self.counters, rejection, &mut self.logged);
                }
            }
            self.reader.advance();
        };
        // Not before: whoever flushes relies on it that all before this position is published.
        self.reader.publish();
        self.has_read |= records > 0;
        match error {
            Some(ReadError::Lapped(lapped)) => {
                self.miss(lapped.bytes, "it has overwritten what was not read");
                Progress::Read
            }
            Some(_) => {
                tracing::error!(
                    source = self.counters.name(),
                    process_id = self.peer.process_id(),
                    "a program has damaged its shared memory, and is disconnected"
                );
                Progress::Damaged
            }
            None if records > 0 => Progress::Read,
            None => Progress::Nothing,
        }
    }

    /// Counts what is lost, and says so once.
    fn miss(&mut self, bytes: u64, why: &'static str) {
        self.counters.miss(bytes);
        if !std::mem::replace(&mut self.has_missed, true) {
            tracing::warn!(
                source = self.counters.name(),
                process_id = self.peer.process_id(),
                bytes,
                why,
                "lost what a program has written into shared memory"
            );
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.counters.disconnect();
        // What a program has claimed may be any number.
        let capacity_bytes = self.shared.ring().capacity_bytes();
        let unread_bytes = self.reader.lag_bytes().min(capacity_bytes.into());
        if unread_bytes > 0 {
            self.miss(unread_bytes, "it, or the server, has ended before");
        }
        if self.is_logged {
            tracing::info!(
                source = self.counters.name(),
                process_id = self.peer.process_id(),
                "a program does not publish through shared memory any more"
            );
        }
    }
}

/// What a source is called: the name of its process, which the process can choose.
fn name_of(process_id: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{process_id}/comm"));
    let name = name.map(|name| name.trim_end().to_owned());
    name.ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Once for each reason: more is in the metrics.
fn log(counters: &SourceCounters, rejection: IngestRejection, logged: &mut u32) {
    use crate::base::label::Label;
    let bit = 1 << rejection.index();
    if *logged & bit == 0 {
        *logged |= bit;
        tracing::warn!(
            source = counters.name(),
            reason = rejection.name(),
            "rejected a publication from shared memory; further ones for this reason are only counted"
        );
    }
}

/// Checks and publishes one record. Waits while the shards are behind; false if it may not wait any longer.
fn publish(
    record: &[u8],
    parts: &IngestParts,
    may_wait: &dyn Fn() -> bool,
) -> Result<bool, IngestRejection> {
    let written = Written::parse(record).map_err(|_| IngestRejection::Record)?;
    let publication = checked(&written)?;
    loop {
        let published = parts.publisher.publish(&publication, parts.clock.now());
        return match published {
            Ok(_) => Ok(true),
            Err(PublishError::RingFull) if may_wait() => {
                std::thread::sleep(RETRY);
                continue;
            }
            Err(PublishError::RingFull) => Ok(false),
            Err(PublishError::Stopped) => Err(IngestRejection::Stopped),
            Err(PublishError::Name) => Err(IngestRejection::Name),
            Err(PublishError::Tenant) => Err(IngestRejection::Tenant),
            Err(PublishError::Data(_)) => Err(IngestRejection::Data),
        };
    }
}

/// The publication of a record, as far as its own bytes can tell.
fn checked<'a>(written: &Written<'a>) -> Result<Publication<'a>, IngestRejection> {
    let publication = match written.content {
        Content::Json { kind, data } => {
            let data = str::from_utf8(data).map_err(|_| IngestRejection::Data)?;
            json::check(data).map_err(|_| IngestRejection::Data)?;
            Publication::new(written.channel, kind, data)
        }
        Content::Binary(data) => Publication::binary(written.channel, data),
        _ => return Err(IngestRejection::Record),
    };
    let target = match written.target {
        Target::All => BroadcastTarget::All,
        Target::User(user) => BroadcastTarget::User(user),
        Target::Role(role) => BroadcastTarget::Role(role),
        Target::Permission(permission) => BroadcastTarget::Permission(permission),
        Target::ExceptSession(id) if id.parse::<SessionId>().is_ok() => BroadcastTarget::Except(id),
        _ => return Err(IngestRejection::Target),
    };
    let scope = match written.scope {
        Scope::WithoutTenant => TenantScope::Without,
        Scope::Tenant(tenant) => TenantScope::Of(tenant),
        Scope::AllTenants => TenantScope::All,
        _ => return Err(IngestRejection::Record),
    };
    Ok(Publication {
        target,
        ..publication.in_scope(scope)
    })
}
