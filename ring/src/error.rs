//! What can be refused, and whose fault it is.

use std::error::Error;
use std::fmt;

/// Why a ring or a reader could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RingError {
    /// The caller's fault: the capacity is not a power of two, or below 4096.
    CapacityInvalid {
        /// The capacity that was asked for.
        capacity_bytes: u32,
    },
    /// The caller's fault: the number of readers is not in `1..=1023`.
    ReadersInvalid {
        /// The number that was asked for.
        readers_max: u32,
    },
    /// The machine's: the region could not be allocated.
    OutOfMemory {
        /// The size of the region.
        region_bytes: usize,
    },
    /// The machine's: the system gave no random bytes for the salt.
    NoRandomness,
    /// The caller's: the ring has a retirer.
    RetirerTaken,
    /// The caller's: all `readers_max` slots are taken.
    ReadersFull {
        /// The number of slots.
        readers_max: u32,
    },
}

impl fmt::Display for RingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CapacityInvalid { capacity_bytes } => write!(
                formatter,
                "ring capacity {capacity_bytes} is not a power of two of at least 4096 bytes"
            ),
            Self::ReadersInvalid { readers_max } => {
                write!(
                    formatter,
                    "ring readers_max {readers_max} is not in 1..=1023"
                )
            }
            Self::OutOfMemory { region_bytes } => {
                write!(
                    formatter,
                    "no memory for a ring region of {region_bytes} bytes"
                )
            }
            Self::RetirerTaken => formatter.write_str("the ring has a retirer already"),
            Self::NoRandomness => write!(
                formatter,
                "the system gave no random bytes for the ring's salt"
            ),
            Self::ReadersFull { readers_max } => {
                write!(
                    formatter,
                    "all {readers_max} reader slots of the ring are taken"
                )
            }
        }
    }
}

impl Error for RingError {}

/// Why a record could not be written. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The slowest reader, or the oldest open grant, has not passed enough bytes. Back-pressure:
    /// count it and try again later.
    ///
    /// While a reader is joining, and while another writer looks for room in a ring that has no
    /// reader, this can be answered although a moment later there is room.
    Full,
    /// The caller's fault: the payload is larger than `record_bytes_max`. It will never fit.
    TooLarge,
}

impl fmt::Display for WriteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Full => "the ring is full",
            Self::TooLarge => "the payload is larger than the ring's record_bytes_max",
        })
    }
}

impl Error for WriteError {}

/// A record came too late: its claim was older than what the caller of
/// [`Retirer::look`](crate::Retirer::look) allows, and readers have passed it. No reader sees the
/// record, so it can be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retired;

impl fmt::Display for Retired {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the claim of the record was retired before its commit")
    }
}

impl Error for Retired {}

/// A reader that was put out of the gate has been overtaken by the writers: records that it had not
/// read are overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lapped {
    /// Bytes of records, with their headers, that were written and not visited.
    pub bytes: u64,
}

impl fmt::Display for Lapped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the reader missed {} bytes of records",
            self.bytes
        )
    }
}

impl Error for Lapped {}
