//! What every layer above shares: ids, time as a value, limits, finished frames and counters.
//!
//! Nothing here knows a protocol, a socket or a thread.

pub mod census;
pub mod counters;
pub mod id;
pub mod limits;
pub mod now;
pub mod run;
pub mod slab;

pub use census::Census;
pub use counters::ShardCounters;
pub use id::{ConnectionId, DialectId, Variant};
pub use now::Now;
pub use run::{FrameRun, TAG_BYTES, Tag};
pub use slab::{Slab, SlabFull, SlotMap};
