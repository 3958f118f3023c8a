//! Sockets of a shard, all in one raw `io_uring`.
//!
//! ```text
//!   accept ─▶ file table ─▶ receive into provided buffers ─▶ Shard ─▶ send, submitted together
//! ```
//!
//! `event_loop` is the loop that drives a shard, over the trait `Kernel`. `uring` implements it
//! with the real kernel and holds nearly all unsafe code of this crate; the tests implement it with
//! a kernel whose completions fail and arrive out of order.

mod buffers;
mod event_loop;
#[cfg(test)]
mod fake;
mod kernel;
mod kernel_tls;
mod reuseport;
mod secure;
mod sockets;
mod uring;

pub(crate) use event_loop::EventLoop;
pub use event_loop::{HttpHandler, ShardCommand};
pub(crate) use reuseport::ReuseportGroup;
pub use secure::{Ahead, SecureConnections};
pub use uring::SetupError;
pub(crate) use uring::{Uring, UringConfig};
