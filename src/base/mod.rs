//! What all layers above share: ids, time as a value, limits, finished frames and counters.
//!
//! Nothing here depends on a protocol, a socket or a thread.

pub mod channel_names;
pub mod counters;
pub mod id;
pub mod label;
pub mod limits;
pub mod metric;
pub mod now;
pub mod process_counts;
pub mod run;
pub mod slab;

pub use counters::ShardCounters;
pub use id::{ConnectionId, DialectId, Variant};
pub use now::Now;
pub use process_counts::ProcessCounts;
pub use run::{FrameRun, SUBSCRIPTION_ID_BYTES, SubscriptionId};
pub use slab::{Slab, SlabFull, SlotMap};
