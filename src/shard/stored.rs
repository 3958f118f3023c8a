//! Publications on their way to the durable store.

use super::Shard;
use super::publication_writer::Pieces;
use super::record;
use crate::base::Now;
use crate::journal::PublicationLog;
use crate::store::Completion;

/// Appends a publication that is in the ring to a log, if its channel has a history; false = it is not
/// stored.
pub(super) fn log(
    log: &mut PublicationLog,
    pieces: &Pieces,
    completion: Option<Completion>,
    now: Now,
) -> bool {
    let parts = record::without_frames(&pieces.record);
    match (pieces.offset, parts) {
        (Some(offset), Some(parts)) => log.append((pieces.tag, offset), &parts, now, completion),
        _ => true,
    }
}

impl Shard {
    /// Appends what this shard publishes on channels with a history to a log.
    pub fn store_publications(&mut self, log: PublicationLog) {
        self.writer.log = Some(log);
    }
}
