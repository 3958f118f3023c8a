//! What a region says about itself in its first line, and how a process that finds a region checks
//! it before it believes a word of it.
//!
//! ```text
//!  word 0  magic u64
//!       1  version u32        │ byte order mark u32
//!       2  capacity u32       │ readers_max u32
//!       3  peers_max u32      │ writers_max u32
//!       4  data_offset u64
//!       5  total_bytes u64
//!       6  salt u64
//!       7  checksum u64       FNV-1a of the words before it
//! ```
//!
//! The line is read once, word by word, into this process's memory; geometry and salt are kept there
//! and never read again, so that a peer which changes the line later changes nothing.

use crate::error::AttachError;
use crate::layout::{Geometry, MAGIC, SALT_BIT, VERSION};

/// Reads as itself only in the byte order it was written in.
const BYTE_ORDER: u32 = 0x0102_0304;

/// Words of the line in use.
pub(crate) const IDENTITY_WORDS: usize = 8;

/// The line, as it is or will be in the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(pub(crate) [u64; IDENTITY_WORDS]);

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << u32::BITS
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of a word")]
fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> u32::BITS) as u32)
}

/// FNV-1a: it finds damage, not forgery. A forger can as well damage what comes behind the line.
fn checksum(words: &[u64]) -> u64 {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Identity {
    pub(crate) fn new(geometry: Geometry, salt: u64) -> Self {
        let mut words = [
            MAGIC,
            pair(VERSION, BYTE_ORDER),
            pair(geometry.capacity_bytes(), geometry.readers_max()),
            pair(geometry.peers_max(), geometry.writers_max()),
            geometry.data_offset() as u64,
            geometry.total_bytes() as u64,
            salt,
            0,
        ];
        words[7] = checksum(&words[..7]);
        Self(words)
    }

    /// Geometry and salt of a region of `bytes_found` bytes.
    pub(crate) fn validate(&self, bytes_found: usize) -> Result<(Geometry, u64), AttachError> {
        let words = &self.0;
        if words[0] == MAGIC.swap_bytes() {
            return Err(AttachError::ByteOrder);
        }
        if words[0] != MAGIC {
            return Err(AttachError::Magic { found: words[0] });
        }
        let (version, byte_order) = halves(words[1]);
        if byte_order != BYTE_ORDER {
            return Err(AttachError::ByteOrder);
        }
        if version != VERSION {
            return Err(AttachError::Version { found: version });
        }
        if words[7] != checksum(&words[..7]) {
            return Err(AttachError::Checksum);
        }
        let (capacity_bytes, readers_max) = halves(words[2]);
        let (peers_max, writers_max) = halves(words[3]);
        let geometry = Geometry::new(capacity_bytes, readers_max)
            .and_then(|geometry| geometry.with_peers(peers_max, writers_max))
            .map_err(AttachError::Geometry)?;
        if words[4] != geometry.data_offset() as u64 {
            return Err(AttachError::DataOffset { found: words[4] });
        }
        if words[5] != geometry.total_bytes() as u64 || geometry.total_bytes() > bytes_found {
            return Err(AttachError::TotalBytes {
                stated: words[5],
                needed: geometry.total_bytes(),
                found: bytes_found,
            });
        }
        if words[6] & SALT_BIT == 0 {
            return Err(AttachError::Salt);
        }
        Ok((geometry, words[6]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RingError;

    fn identity() -> (Identity, usize) {
        let geometry = Geometry::new(4096, 3).and_then(|it| it.with_peers(5, 7));
        let geometry = geometry.expect("numbers in range");
        (
            Identity::new(geometry, SALT_BIT | 9),
            geometry.total_bytes(),
        )
    }

    /// What is said of the line with one word changed, its checksum made right again or not.
    fn check(word: usize, value: u64, with_checksum: bool, expected: &AttachError) {
        let (mut identity, bytes) = identity();
        assert_ne!(identity.0[word], value);
        identity.0[word] = value;
        if with_checksum {
            identity.0[7] = checksum(&identity.0[..7]);
        }
        assert_eq!(
            identity.validate(bytes).as_ref(),
            Err(expected),
            "word {word}"
        );
    }

    #[test]
    fn a_line_is_read_back_as_it_was_written() {
        let (identity, bytes) = identity();
        let (geometry, salt) = identity.validate(bytes).unwrap();
        assert_eq!(Identity::new(geometry, salt), identity);
        assert!(identity.validate(bytes + 4096).is_ok());
    }

    #[test]
    fn each_field_is_checked_and_named() {
        let (valid, bytes) = identity();
        check(0, 0, true, &AttachError::Magic { found: 0 });
        check(0, MAGIC.swap_bytes(), true, &AttachError::ByteOrder);
        check(
            1,
            pair(VERSION, BYTE_ORDER.swap_bytes()),
            true,
            &AttachError::ByteOrder,
        );
        check(
            1,
            pair(3, BYTE_ORDER),
            true,
            &AttachError::Version { found: 3 },
        );
        let geometry = |error| AttachError::Geometry(error);
        let capacity_bytes = 4096 + 32;
        check(
            2,
            pair(capacity_bytes, 3),
            true,
            &geometry(RingError::CapacityInvalid { capacity_bytes }),
        );
        check(
            2,
            pair(4096, 0),
            true,
            &geometry(RingError::ReadersInvalid { readers_max: 0 }),
        );
        let peers = |peers_max, writers_max| {
            geometry(RingError::PeersInvalid {
                peers_max,
                writers_max,
            })
        };
        check(3, pair(1024, 7), true, &peers(1024, 7));
        check(3, pair(5, 1024), true, &peers(5, 1024));
        check(3, pair(5, 0), true, &peers(5, 0));
        check(
            4,
            valid.0[4] + 128,
            true,
            &AttachError::DataOffset {
                found: valid.0[4] + 128,
            },
        );
        let stated = valid.0[5] + 128;
        check(
            5,
            stated,
            true,
            &AttachError::TotalBytes {
                stated,
                needed: bytes,
                found: bytes,
            },
        );
        check(6, 9, true, &AttachError::Salt);
        for (word, mask) in [(2, 1 << 13), (3, 1), (4, 128), (5, 128), (6, 1), (7, 1)] {
            check(word, valid.0[word] ^ mask, false, &AttachError::Checksum);
        }
    }

    #[test]
    fn a_region_that_is_shorter_than_it_says_is_rejected() {
        let (identity, bytes) = identity();
        let expected = AttachError::TotalBytes {
            stated: bytes as u64,
            needed: bytes,
            found: bytes - 1,
        };
        assert_eq!(identity.validate(bytes - 1), Err(expected));
    }
}
