//! The C API of fanwire-ring. `include/fanwire_ring.h` is made from this crate, and
//! `include/fanwire_ring.hpp` wraps it for C++.
//!
//! Each function checks its pointers for null, catches panics, and answers a status. What it cannot check
//! is the caller's promise, under *Safety*: a handle is one that a function of this library gave and that
//! was not given back; memory has the length that is stated.

#![expect(unsafe_code, reason = "pointers of C")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the promise is the same for all functions, and stated above and in the header"
)]

pub mod observer;
mod pointer;
pub mod publisher;
pub mod reader;
pub mod ring;
pub mod shared;
pub mod status;
pub mod writer;
