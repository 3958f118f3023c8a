//! The request head: parsed with httparse, checked for an upgrade, and answered when it is
//! rejected.

pub mod head;
pub mod rejection;
pub mod target;

pub use head::{Head, HeadError, UpgradeError};
pub use target::Target;
