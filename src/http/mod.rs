//! The request head: parsed with httparse, judged for an upgrade, answered when it is refused.

pub mod head;
pub mod refusal;
pub mod target;

pub use head::{Head, HeadError, UpgradeFault};
pub use target::Target;
