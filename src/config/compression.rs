//! Whether and how messages are compressed.

use crate::base::label::label;

label! {
    /// How messages are compressed for clients that offer it.
    Compression {
        /// Not at all.
        Off = "off" | "none" | "null" | "",
        /// With permessage-deflate (RFC 7692).
        Deflate = "deflate",
    }
}

/// How messages are compressed, where that is agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionPolicy {
    /// From 1, the fastest, to 9, the smallest output.
    pub level: u32,
    /// Bytes from which a message is compressed.
    pub bytes_min: usize,
}

impl CompressionPolicy {
    /// The level by default: twice as fast as 6, the default of zlib, for output that is 5 % larger.
    pub(super) const LEVEL: u32 = 3;
    /// The shortest message by default, bytes: such a one becomes half as long.
    pub(super) const BYTES_MIN: u32 = 256;
}

impl Default for CompressionPolicy {
    fn default() -> Self {
        Self {
            level: Self::LEVEL,
            bytes_min: Self::BYTES_MIN as usize,
        }
    }
}
