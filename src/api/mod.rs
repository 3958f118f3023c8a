//! The HTTP API: hyper over the wire's connections, one task per connection.
//!
//! hyper reads and writes a pipe that the wire fills and empties, not a socket.

mod access;
mod answer;
mod answering;
mod asking;
mod assist;
mod body;
mod caller;
mod channel_page;
mod channels;
mod connections;
mod context;
mod documentation;
mod handler;
mod head;
mod idempotency;
mod info;
mod notify;
mod pipe;
mod publish;
mod question;
mod request;
mod routes;
mod sessions;
mod shards;
mod status;
mod tasks;

pub use context::{ApiContext, HttpListener, NotifyKey};
pub use handler::Api;
pub use idempotency::Idempotency;
pub use info::{ConnectionInfo, Stats, TenantStats};
pub use question::{SessionAction, SessionAnswer};
pub use sessions::{ConnectionPage, Unreached};
pub use shards::{Shards, WhileStalled};
