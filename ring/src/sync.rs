//! The atomics: those of the core library, or under `cfg(loom)` loom's, which explore every
//! order that the memory model allows.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU64, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
