//! Does the store give back what it was given, whatever happens to the process, the disk and the
//! files?

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod child;
mod command_line;
mod damages;
mod disks;
mod failures;
mod harness;
mod journal;
mod kills;
mod round_trips;
