//! The HTTP API: hyper over the wire's connections, one task of the executor per connection.
//!
//! hyper sees a pipe that the wire fills and empties; it knows no socket.

mod host;
mod notify;
mod pipe;
mod routes;

pub use host::Api;
pub use notify::NotifyAccess;
pub use routes::ApiContext;
