//! What all layers above share: ids, time as a value, limits, finished frames and counters.
//!
//! Nothing here depends on a protocol, a socket or a thread.

mod backend_counters;
pub mod catch;
pub mod channel_names;
mod channel_set;
pub mod client_counters;
pub mod counters;
pub mod heartbeat;
pub mod history;
mod history_channel;
mod history_position;
mod history_removed;
pub mod id;
mod ingest_counters;
pub mod interest;
pub mod label;
pub mod limits;
pub mod memory;
pub mod metric;
pub mod name_hash;
pub mod network;
mod node_counters;
mod node_link;
mod node_questions;
mod node_user;
pub mod now;
pub mod offline;
pub mod persistent;
pub mod presence;
mod presence_channel;
mod presence_nodes;
pub mod process_state;
pub mod publish_times;
pub mod retained;
pub mod run;
pub mod slab;
mod state_changes;
pub mod top_channels;
pub mod trace;

pub use backend_counters::{BackendCounters, CallbackKind, CallbackOutcome, WebhookOutcome};
pub use catch::catch_panic;
pub use channel_set::ChannelSet;
pub use counters::ShardCounters;
pub use heartbeat::Heartbeats;
pub use history::{
    History, HistoryError, HistoryLimits, HistoryRemoval, HistoryRule, HistoryStats,
};
pub use history_position::{POSITION_BYTES, Position};
pub use id::{ConnectionId, DialectId, FrameEncoding, Variant};
pub use ingest_counters::{IngestCounters, IngestRejection, SourceCounters, SourceRejection};
pub use interest::{ChannelTag, Interests, ShardSet};
pub use name_hash::NameKey;
pub use network::network_of;
pub use node_counters::{NodeCounters, NodeDrop};
pub use node_link::{ChannelRequest, NodeLink, Outgoing, RetainedChange, Sent, Task};
pub use node_questions::{Answers, IsIt, NodeDeletion, NodeQuestions, PendingQuestion, Question};
pub use node_user::{CountedOwner, NodeUser, UserArrival, UserChange, WaitingUser};
pub use now::Now;
pub use presence::{
    PresenceChanges, PresenceCounts, PresenceMode, PresenceNews, PresencePage, PresencePlace,
    PresenceRule, PresenceStats, PresenceTable,
};
pub use presence_channel::NodePresence;
pub use presence_nodes::{LocalPresence, Telling};
pub use process_state::ProcessState;
pub use run::{FrameRun, SUBSCRIPTION_ID_BYTES, SubscriptionId};
pub use slab::{Slab, SlabFull, SlotMap};
pub use state_changes::{
    StateChange, StateChanges, StateChangesConfig, StateChangesStats, WebhookEvent,
};
pub use trace::{TraceContext, Tracer};
