//! Which filters of a channel match a publication, without asking each of them.
//!
//! A filter is a JSON object. Its keys are dotted paths, its values what must stand there:
//!
//! - an array means any of its elements; an empty one matches nothing;
//! - any other value must be equal. Equality is that of JSON: a number is not a text, numbers are
//!   equal by value (`1` and `1.0`), objects whatever the order of their keys, arrays by element;
//! - all keys must match; a path that the publication lacks does not; no keys match everything.
//!
//! A path is resolved level by level: the whole rest of it is tried as one key first, else it is
//! split at its first dot and followed into the object found there. Of keys written twice the last
//! counts, in filters and publications alike.
//!
//! Numbers are those of the parser: integers of 64 bits exactly, all others as the nearest double.
//!
//! ```text
//!  publication ──Trie──▶ (path, value) ──TermIndex──▶ value index ──postings──▶ candidates
//!   {"a":{"b":7}}         a.b     7                       #3                    filters 2, 5
//!                                                                                  │
//!                          matched filters ◀── the other conditions of each ────────┘
//! ```
//!
//! Subscribers with equal filters form one *filter*. A filter is posted under one of its conditions
//! only, that with the shortest lists, so the work per publication follows the number of its members
//! and of the candidates, not of the filters.

mod filter;
mod index;
mod term_index;
mod trie;
mod value;

#[cfg(test)]
mod oracle;

pub use filter::{Filter, FilterError};
pub use index::{FilterId, FilterIndex};

/// A key of a `Slab` in the four bytes that the indices here have for it.
fn u32_key(key: usize) -> u32 {
    u32::try_from(key).expect("memory ends before 2^32 entries")
}
