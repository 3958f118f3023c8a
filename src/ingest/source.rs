//! One program that publishes, and its ring.

use super::IngestParts;
use crate::base::limits::{INGEST_END_MS, INGEST_TICK_MS, INGEST_TURN_BYTES, INGEST_TURN_RECORDS};
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
    /// When the program was found gone, and when its ring was last looked at, monotonic milliseconds.
    gone_ms: Option<u64>,
    looked_ms: u64,
    /// The reasons of rejections that were logged.
    logged: u32,
}

impl Source {
    /// Makes a ring for a program, and gives it to it.
    pub(super) fn new(
        peer: RingPeer,
        ring_bytes: u32,
        counters: &IngestCounters,
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
        tracing::info!(
            source = name,
            process_id = peer.process_id(),
            user_id = peer.user_id(),
            "a program publishes through shared memory"
        );
        Ok(Self {
            reader,
            retirer,
            shared,
            counters: counters.connect(&name),
            peer,
            end_position: None,
            gone_ms: None,
            looked_ms: 0,
            logged: 0,
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
        }
        if self.gone_ms.is_none() && !self.peer.is_connected() {
            self.gone_ms = Some(now.monotonic_ms);
        }
        // Claims that nobody commits any more are taken back in the third look.
        match self.gone_ms {
            Some(gone_ms) => !self.has_read_all() && now.monotonic_ms < gone_ms + INGEST_END_MS,
            None => true,
        }
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

    /// Reads and publishes until it is another one's turn.
    pub(super) fn read(&mut self, parts: &IngestParts, until_ms: Option<u64>) -> Progress {
        let mut bytes = 0;
        let (counters, logged) = (&self.counters, &mut self.logged);
        let end = self.end_position.unwrap_or(u64::MAX);
        let visit = |position: u64, _, record: &[u8]| {
            if position >= end {
                return false;
            }
            bytes += record.len();
            match publish(record, parts, until_ms) {
                Ok(()) => counters.accept(record.len()),
                Err(rejection) => {
                    counters.reject(rejection);
                    log(counters, rejection, logged);
                }
            }
            bytes < INGEST_TURN_BYTES
        };
        let records_max = INGEST_TURN_RECORDS;
        match self.reader.drain_while(records_max, &mut (|_| true, visit)) {
            Ok(0) => Progress::Nothing,
            Ok(_) => Progress::Read,
            Err(ReadError::Lapped(lapped)) => {
                let is_first = self.counters.missed_bytes() == 0;
                self.counters.miss(lapped.bytes);
                if is_first {
                    tracing::warn!(
                        source = self.counters.name(),
                        bytes = lapped.bytes,
                        "a program that publishes through shared memory has overwritten what was not read"
                    );
                }
                Progress::Read
            }
            Err(_) => {
                tracing::error!(
                    source = self.counters.name(),
                    process_id = self.peer.process_id(),
                    "a program has damaged its shared memory, and is disconnected"
                );
                Progress::Damaged
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.counters.disconnect();
        tracing::info!(
            source = self.counters.name(),
            process_id = self.peer.process_id(),
            unread_bytes = self.reader.lag_bytes(),
            "a program does not publish through shared memory any more"
        );
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

/// Checks and publishes one record. Waits while the shards are behind, but not longer than `until_ms`.
fn publish(
    record: &[u8],
    parts: &IngestParts,
    until_ms: Option<u64>,
) -> Result<(), IngestRejection> {
    let written = Written::parse(record).map_err(|_| IngestRejection::Record)?;
    let publication = checked(&written)?;
    loop {
        let now = parts.clock.now();
        let error = match parts.publisher.publish(&publication, now) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        return Err(match error {
            PublishError::RingFull if until_ms.is_none_or(|until| now.monotonic_ms < until) => {
                std::thread::sleep(RETRY);
                continue;
            }
            PublishError::RingFull | PublishError::Stopped => IngestRejection::Stopped,
            PublishError::Name => IngestRejection::Name,
            PublishError::Tenant => IngestRejection::Tenant,
            PublishError::Data(_) => IngestRejection::Data,
        });
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
