//! What can be refused, and whose fault it is.

use core::error::Error;
use core::fmt;

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
    /// The caller's: the numbers of peers and writers are not both in `1..=1023`.
    PeersInvalid {
        /// The number of peers that was asked for.
        peers_max: u32,
        /// The number of writers that was asked for.
        writers_max: u32,
    },
    /// The machine's: the region could not be allocated.
    OutOfMemory {
        /// The size of the region.
        region_bytes: usize,
    },
    /// The machine's: the system gave no random bytes for the salt.
    NoRandomness,
    /// A peer's: see [`Damaged`].
    Damaged,
    /// The caller's: the ring is attached for reading only, which is enough for observers.
    ReadOnly,
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
            Self::PeersInvalid {
                peers_max,
                writers_max,
            } => write!(
                formatter,
                "ring peers_max {peers_max} and writers_max {writers_max} are not both in 1..=1023"
            ),
            Self::Damaged => Damaged.fmt(formatter),
            Self::ReadOnly => formatter.write_str("the ring is attached for reading only"),
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
#[non_exhaustive]
pub enum WriteError {
    /// The slowest reader, or the oldest open grant, has not passed enough bytes. Back-pressure:
    /// count it and try again later.
    ///
    /// While a reader is joining, and while another writer looks for room in a ring that has no
    /// reader, this can be answered although a moment later there is room.
    Full,
    /// The caller's fault: the payload is larger than `record_bytes_max`. It will never fit.
    TooLarge,
    /// The caller's: this writer of a shared ring has seven grants open, or all lines of writers are
    /// taken.
    TooManyGrants,
    /// The caller's: the ring is attached for reading only.
    ReadOnly,
    /// A peer's: see [`Damaged`].
    Damaged,
}

impl From<Damaged> for WriteError {
    fn from(_: Damaged) -> Self {
        Self::Damaged
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Full => "the ring is full",
            Self::TooLarge => "the payload is larger than the ring's record_bytes_max",
            Self::TooManyGrants => "the writer has no room to announce a further claim",
            Self::ReadOnly => "the ring is attached for reading only",
            Self::Damaged => return Damaged.fmt(formatter),
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

/// The ring's memory holds what no use of this crate leaves there. Whoever can write the memory can
/// bring that about, so only a ring that is shared with a peer, or whose memory the caller gave, can
/// be damaged. What was read before it is as trustworthy as the peers are. Detach, and make a new
/// ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

impl fmt::Display for Damaged {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the memory of the ring is damaged")
    }
}

impl Error for Damaged {}

/// Why a reader has no record to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// The reader was put out of the gate and overtaken. It has caught up.
    Lapped(Lapped),
    /// A peer's fault: see [`Damaged`]. The reader stays where it is.
    Damaged,
}

impl From<Damaged> for ReadError {
    fn from(_: Damaged) -> Self {
        Self::Damaged
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lapped(lapped) => lapped.fmt(formatter),
            Self::Damaged => Damaged.fmt(formatter),
        }
    }
}

impl Error for ReadError {}

/// Why an observer has no record to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObserveError {
    /// The writers have overtaken the observer. It has gone on to where a gating reader was last.
    Missed {
        /// Records it has not shown and never will, exactly.
        records: u64,
        /// Bytes of the ring from where it was to where it is now, headers and padding included.
        bytes: u64,
    },
    /// A peer's fault: see [`Damaged`]. The observer stays where it is.
    Damaged,
}

impl From<Damaged> for ObserveError {
    fn from(_: Damaged) -> Self {
        Self::Damaged
    }
}

impl fmt::Display for ObserveError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missed { records, bytes } => write!(
                formatter,
                "the observer missed {records} records in {bytes} bytes of the ring"
            ),
            Self::Damaged => Damaged.fmt(formatter),
        }
    }
}

impl Error for ObserveError {}

/// Why memory was not accepted as a ring. Fields are checked in the order of this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachError {
    /// The memory is too small for a ring's first line, or not aligned to 128 bytes.
    TooSmall {
        /// Bytes that were found.
        found: usize,
    },
    /// The file can be shrunk or grown, or the seals can be changed: a peer that shrinks it kills
    /// all who touch it behind its end.
    NotSealed,
    /// It is no ring, or not one yet.
    Magic {
        /// What stands there instead.
        found: u64,
    },
    /// It was made on a machine of the other byte order.
    ByteOrder,
    /// It was made by a version of this crate with another layout.
    Version {
        /// The version of the layout.
        found: u32,
    },
    /// The first line was damaged.
    Checksum,
    /// Capacity or numbers are out of range.
    Geometry(RingError),
    /// The data does not begin where it must.
    DataOffset {
        /// The offset that is stated.
        found: u64,
    },
    /// The size that is stated is not the one the numbers make, or not there.
    TotalBytes {
        /// Bytes that the first line states.
        stated: u64,
        /// Bytes that its numbers make.
        needed: usize,
        /// Bytes of the memory.
        found: usize,
    },
    /// The salt is none.
    Salt,
    /// All numbers of peers are taken by processes that live.
    PeersFull {
        /// The number of peers.
        peers_max: u32,
    },
}

impl fmt::Display for AttachError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { found } => {
                write!(
                    formatter,
                    "{found} bytes, or bytes at an odd address, are no ring"
                )
            }
            Self::NotSealed => formatter.write_str("the file of the ring can change its size"),
            Self::Magic { found } => write!(formatter, "magic {found:#x} is not that of a ring"),
            Self::ByteOrder => formatter.write_str("the ring has the other byte order"),
            Self::Version { found } => {
                write!(formatter, "layout version {found} of the ring is unknown")
            }
            Self::Checksum => formatter.write_str("the first line of the ring is damaged"),
            Self::Geometry(error) => error.fmt(formatter),
            Self::DataOffset { found } => write!(formatter, "data offset {found} is wrong"),
            Self::TotalBytes {
                stated,
                needed,
                found,
            } => write!(
                formatter,
                "the ring states {stated} bytes and needs {needed}, there are {found}"
            ),
            Self::Salt => formatter.write_str("the salt of the ring is none"),
            Self::PeersFull { peers_max } => {
                write!(formatter, "all {peers_max} peers of the ring are alive")
            }
        }
    }
}

impl Error for AttachError {}
