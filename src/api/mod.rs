//! The HTTP API: hyper over the wire's connections, one task of the executor per connection.
//!
//! hyper reads and writes a pipe that the wire fills and empties, not a socket.

mod answer;
mod context;
mod handler;
mod notify;
mod pipe;
mod routes;

pub use context::{ApiContext, NotifyAccess};
pub use handler::Api;
