//! A WebSocket fan-out server for Linux: one pinned executor per core, one encode per publication.
//!
//! The modules stand in the order of the data's way; imports point only downward, from later
//! modules to earlier ones. `docs/ARCHITECTURE.md` has the map and the invariants.
//!
//! ```text
//!  socket ─▶ net::wire ─▶ http ─▶ ws ─▶ dialect ─▶ broker ─▶ shard::fanout ─▶ ring ─┐
//!  socket ◀─ net::wire ◀─ shard::send queue ◀─ shard::publication reader ◀───────────────────────────┘
//! ```

pub mod base;

pub mod auth;
pub mod config;
pub mod http;
pub mod json;
pub mod ws;

pub mod broker;

pub mod dialect;

pub mod shard;

pub mod net;
pub mod observe;

pub mod api;

pub mod server;

pub use base::DialectId;
pub use server::Server;
pub use shard::{Denied, Message, Session};
