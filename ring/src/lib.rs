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
//! A writer whose thread does not get on between its claim and its commit holds nobody for longer than
//! the caller allows: a [`Retirer`] takes the claim from it. The late writer is told
//! ([`Retired`]) and can write its record again.
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
//!               │ identity   magic u64 │ version u32 │ byte order u32                 │  written once
//!               │            capacity u32 │ readers_max u32                          │
//!               │            peers_max u32 │ writers_max u32 │ data_offset u64        │
//!               │            total_bytes u64 │ salt u64 │ checksum u64                │
//!    128        ├────────────────────────────────────────────────────────────────────┤
//!               │ claim      tail u64 │ gate u64                                      │  writers
//!    256        ├────────────────────────────────────────────────────────────────────┤
//!               │ parked     one bit per reader, 16 × u64                             │  sleeping readers
//!    384        ├────────────────────────────────────────────────────────────────────┤
//!               │ counters   aborted_total u64 │ retirements_total u64               │  rare
//!               │            retirements_rejected_total u64 │ rewritten_total u64     │
//!    512        ├────────────────────────────────────────────────────────────────────┤
//!               │ gaps       changes and entries in use u64                          │  the retirer
//!               │            4 × (start u64 │ bytes u64 │ until u64)                 │
//!    640        ├────────────────────────────────────────────────────────────────────┤
//!               │ slot 0     position u64 (top bit: not in the gate; all ones: free) │  reader 0
//!               │            owner u64 │ anchor 5 × u64 │ wake u64                    │
//!               ├────────────────────────────────────────────────────────────────────┤
//!               │ ...                                                                 │
//!               ├────────────────────────────────────────────────────────────────────┤
//!               │ slot R     the same                                                 │  the sweeper
//!               ├────────────────────────────────────────────────────────────────────┤
//!               │ slot R+1   the same                                                 │  the retirer
//!  896 + 128·R  ├────────────────────────────────────────────────────────────────────┤
//!               │ peers      epoch u64 each, 16 in a line                             │  shared rings only
//!               ├────────────────────────────────────────────────────────────────────┤
//!               │ writer 0   owner u64 │ 7 × (position u64 │ end u64)                 │  shared rings only
//!               ├────────────────────────────────────────────────────────────────────┤
//!               │ ...                                                                 │
//!  data_offset  ├────────────────────────────────────────────────────────────────────┤
//!               │ data       capacity bytes, a power of two                           │
//!               └────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Words are in the byte order of the machine. Who has a slot or a writer's line in a shared ring is
//! said in `peers.rs`; what an anchor is, in `anchors.rs`; what writers announce, in
//! `announcements.rs`.
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
//! in the data. Records start at multiples of 32 and never cross the end of the data: a writer whose
//! record would do so takes the rest of the lap as a padding record first. No rest is too small for
//! a header.
//!
//! A record is committed by a swap of its first word to its stamp. The retirer swaps the same word
//! to the mark of a retired record, and one of the two succeeds, so all readers see the record or
//! none does. No stamp is ever the right one for two positions, so what an earlier lap left behind is never taken for a commit and nothing needs to
//! be cleared; the salt is random and secret, so neither are bytes that a stranger chose.
//!
//! ```text
//!  limit - capacity <= slot[i] <= reader i <= tail <= limit <= tail + capacity
//! ```
//!
//! for every reader in the gate. Every record before `limit - capacity` is committed or retired, and
//! passed by each of them: that is what makes its bytes free to be claimed again, but for those of
//! gaps. The limit is cached in the claim line (as the gate,
//! see `layout`), so a write normally reads one line beside its own record; the slots are read only
//! when the cached limit is reached.
//!
//! # Gaps
//!
//! The bytes of a retired claim are a *gap*: the late writer may store into them until it finds out.
//! Claims leave a gap out, with padding in front of it, and readers that come to its start go on
//! behind it, from the table in the line above; the gap's own bytes are never looked at. The gap
//! ends when each late writer has returned its bytes by a mark in its record's first word; its bytes
//! are used again from the next lap on.
//!
//! ```text
//!                   start          start + bytes
//!  lap n    record │ claimed, retired │ record │ ...        readers go on at start + bytes
//!  lap n+1  record │ padding │  gap  │ record │ ...        the same one lap later, while it is
//!                                                           before `until`
//! ```
//!
//! # What can stall
//!
//! A reader in the gate that does not drain holds the ring: after at most `capacity` bytes every write
//! answers `Full`. So does a grant that is neither committed nor dropped, if there is no retirer,
//! or if four stretches of bytes or about a quarter of the ring are held already. The sweeper and
//! the retirer stand in the gate for some microseconds, and hold the ring if their threads do not
//! get on meanwhile. Bytes of a forgotten grant (`mem::forget`) are lost.
//!
//! In a shared ring the dead stall nobody for longer than it takes until somebody calls
//! [`Ring::evict_dead`] and, twice, [`Retirer::look`]. A process that is stopped (SIGSTOP, a debugger)
//! lives: its readers gate until they are put out, its claims are retired.
//!
//! # Hostile peers
//!
//! Whoever may write the memory of a shared ring can spoil what others read and stop them from writing.
//! It cannot make them panic, touch memory outside of the ring, or stay in a call: what is loaded from
//! the ring is never used as an address or a size before it is checked against numbers in the
//! process's own memory, and every loop has a bound. What cannot be is [`Damaged`]. Records are
//! copied before they are shown, so they do not change while they are looked at.

#![cfg_attr(not(loom), no_std)]
#![cfg_attr(
    loom,
    allow(
        dead_code,
        reason = "loom's atomics are in no memory that could be attached to"
    )
)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod anchors;
mod announcements;
mod error;
mod gaps;
mod gate;
mod identity;
mod layout;
#[cfg(not(loom))]
mod memory;
mod observer;
mod peers;
pub mod publication;
mod reader;
mod record;
mod region;
mod retirer;
mod ring;
#[cfg(all(feature = "shared-memory", target_os = "linux", not(loom)))]
pub mod shared;
mod sync;
#[cfg(feature = "std")]
mod wakers;
mod words;
mod writer;

pub use error::{
    AttachError, Damaged, Lapped, ObserveError, ReadError, Retired, RingError, WriteError,
};
#[cfg(not(loom))]
pub use memory::{PeerIdentity, SharedConfig};
pub use observer::{Bookmark, Observer, Start};
pub use peers::Liveness;
pub use reader::{Reader, Record, Visit};
pub use retirer::Retirer;
pub use ring::{Ring, RingConfig};
#[cfg(feature = "std")]
pub use wakers::Wakers;
pub use writer::{Grant, Writer};
