//! Finds the filters of a channel that match a publication, without evaluating each of them.
//!
//! A filter is a JSON object. Its keys are dotted paths, its values are what a publication must
//! have there:
//!
//! - an array matches any of its elements; an empty array matches nothing;
//! - any other value must be equal. Equality is that of JSON: a number is not a text, numbers are
//!   equal by value (`1` and `1.0`), objects whatever the order of their keys, arrays by element;
//! - all keys must match; a path that the publication lacks does not; no keys match everything.
//!
//! A path is resolved level by level: first the whole rest of the path is tried as one key;
//! otherwise it is split at its first dot and resolved in the object found there. Of repeated keys
//! the last one counts, in filters and in publications.
//!
//! Numbers are compared as the parser returns them: 64-bit integers exactly, all others as the
//! nearest double.
//!
//! ```text
//!  publication ──Names──▶ (path, value) ──hash──▶ value hash ──postings──▶ candidates
//!   {"a":{"b":7}}          a.b     7               9c41…07                 filters 2, 5
//!                                                                                  │
//!                          matched filters ◀── the other conditions of each ────────┘
//! ```
//!
//! Subscribers with equal filters share one *filter*. A filter is posted under only one of its
//! conditions, the one with the shortest lists, so the work per publication depends on the number
//! of its members and of the candidates, not on the number of filters.

mod filter;
mod index;
mod names;
mod value;

#[cfg(test)]
mod oracle;

pub use filter::{Filter, FilterError};
pub use index::{FilterId, FilterIndex};

/// Converts a key of a `Slab` to the four bytes that an id has.
fn u32_key(key: usize) -> u32 {
    u32::try_from(key).expect("memory is exhausted before 2^32 entries")
}
