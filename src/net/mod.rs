//! The shard's interface to the kernel: sockets through a raw `io_uring`, listeners, wake-ups.

pub mod listener;
pub mod tls;
pub mod waker;
pub mod wire;

pub use listener::{BindError, bind_shards};
pub use waker::{Peers, Waker};
