//! A bounded broadcast byte ring: many writers, and every reader sees every record, in one order.
//!
//! It exists because a fan-out server hands each publication to every shard. A channel per pair of
//! shards would copy the publication once per shard and give each shard an order of its own; here a
//! record is written once, and the order of claims is the order of the whole process.
//!
//! Readers gate writers: a writer never overwrites what a reader in the gate has not passed, so
//! nothing is lost. A full ring is an answer ([`WriteError::Full`]), never a wait: no call here
//! blocks, spins for another thread or enters the kernel.
//!
//! A reader whose thread does not get on can be put out of the gate by anybody ([`Ring::put_out`]).
//! It is not disturbed by that: it enters the gate again where it stands, or learns that it was
//! lapped ([`Lapped`]). When to do so is the caller's decision, as the ring has no clock.
//!
//! # Layout
//!
//! One contiguous region without a pointer in it, so the same bytes mean the same thing at any
//! address and in any process. `R` is `readers_max`; lines are 128 bytes, because processors fetch
//! 64-byte lines in pairs.
//!
//! ```text
//!  byte          line
//!      0        ┌────────────────────────────────────────────────────────────────────┐
//!               │ identity   magic u64 │ version u32 │ capacity u32 │ readers_max u32 │  written once
//!               │            data_offset u32 │ salt u64                               │
//!    128        ├────────────────────────────────────────────────────────────────────┤
//!               │ claim      tail u64 │ gate u64                                      │  writers
//!    256        ├────────────────────────────────────────────────────────────────────┤
//!               │ parked     one bit per reader, 16 × u64                             │  sleeping readers
//!    384        ├────────────────────────────────────────────────────────────────────┤
//!               │ counters   aborted_total u64                                        │  rare
//!    512        ├────────────────────────────────────────────────────────────────────┤
//!               │ slot 0     position u64 (top bit: not in the gate; all ones: free) │  reader 0
//!               ├────────────────────────────────────────────────────────────────────┤
//!               │ ...                                                                 │
//!               ├────────────────────────────────────────────────────────────────────┤
//!               │ slot R     position u64                                             │  the sweeper
//!  640 + 128·R  ├────────────────────────────────────────────────────────────────────┤
//!               │ data       capacity bytes, a power of two                           │
//!               └────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! # Records
//!
//! ```text
//!        0                 8               12              16        24
//!        ┌─────────────────┬───────────────┬───────────────┬─────────┬─────────┬─────────┐
//!        │ stamp u64       │ payload bytes │ kind u32      │ tag u64 │ payload │ to the  │
//!        │ position ^ salt │ u32           │               │         │         │ next 32 │
//!        └─────────────────┴───────────────┴───────────────┴─────────┴─────────┴─────────┘
//! ```
//!
//! The *tag* is the writer's: readers decide by it whether they want the record, before they touch
//! its payload. Header and tag lie in one cache line.
//!
//! A *position* counts bytes since the ring was made and never wraps; its low bits are the offset
//! in the data. Records start at multiples of 32 and never cross the end of the data: the claim
//! that would do so takes the rest of the lap as a padding record and starts at offset 0. No rest is
//! too small for a header.
//!
//! A record is committed by the release store of its stamp. No stamp is ever the right one for two
//! positions, so what an earlier lap left behind is never taken for a commit and nothing needs to
//! be cleared; the salt is random and secret, so neither are bytes that a stranger chose.
//!
//! ```text
//!  limit - capacity <= slot[i] <= reader i <= tail <= limit <= tail + capacity
//! ```
//!
//! for every reader in the gate. Every record before `limit - capacity` is committed and passed by
//! each of them: that is what makes its bytes free to be claimed again. The limit is cached in the claim line (as the gate,
//! see `layout`), so a write normally reads one line beside its own record; the slots are read only
//! when the cached limit is reached.
//!
//! # What can stall
//!
//! A reader in the gate that does not drain, and a grant that is neither committed nor dropped
//! (`mem::forget`), hold the ring: after at most `capacity` bytes every write answers `Full`.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod error;
mod gate;
mod layout;
mod reader;
mod record;
mod region;
mod ring;
mod sync;
mod words;
mod writer;

pub use error::{Lapped, RingError, WriteError};
pub use reader::{Reader, Visit};
pub use ring::{Ring, RingConfig};
pub use writer::{Grant, Writer};
