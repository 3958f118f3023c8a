//! The HTTP API: hyper over the wire's connections, one task of the executor per connection.
//!
//! hyper sees a pipe that the wire fills and empties; it knows no socket.

mod handler;
mod notify;
mod pipe;
mod routes;

pub use handler::Api;
pub use notify::NotifyAccess;
pub use routes::ApiContext;
