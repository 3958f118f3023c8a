//! The request head: parsed with httparse, judged for an upgrade, answered when it is refused.

pub mod head;
pub mod rejection;
pub mod target;

pub use head::{Head, HeadError, UpgradeFault};
pub use target::Target;
