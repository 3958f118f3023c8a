//! Ids of connections, dialects and frame variants.

use super::label::{Label, label};
use std::fmt;

/// Bits of a generation in the `io_uring` user data, beside the slot and the operation.
pub const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// Id of a connection of a shard: a slot and its generation.
///
/// A slot is reused, but a (slot, generation) pair only after 2^24 uses of the same slot, so a late
/// completion or a stale list entry never refers to a newer connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    slot: u32,
    generation: u32,
}

impl ConnectionId {
    /// The id of `slot` in its `generation`; only the low 24 bits of the generation count.
    #[must_use]
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self {
            slot,
            generation: generation & GENERATION_MASK,
        }
    }

    /// Index into the shard's tables and into the wire ring's file table.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// Which use of the slot this is, 0 <= generation < 2^24.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// The id that the next use of this slot gets.
    #[must_use]
    pub const fn next_generation(self) -> Self {
        Self::new(self.slot, self.generation.wrapping_add(1))
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}#{}", self.slot, self.generation)
    }
}

label! {
    /// The protocols that clients speak to the server. A new one needs its name here, its row in
    /// `config::profiles` and its folder in `dialect`; without them the crate does not compile.
    ///
    /// ```
    /// use fanwire::DialectId;
    ///
    /// assert_eq!(DialectId::named("gateway"), Some(DialectId::Gateway));
    /// ```
    #[non_exhaustive]
    DialectId {
        /// `{"type","channel","data"}` messages on named channels.
        Gateway = "gateway",
        /// Upper-case, flat messages on properties.
        Monitoring = "monitoring",
        /// Streams of analytics with filters and subscription ids.
        Analytics = "analytics",
        /// Rooms, jobs, documents and the metrics of the host.
        Assist = "assist",
        /// Notifications to everyone.
        Notifications = "notifications",
    }
}

impl DialectId {
    /// How many dialects there are.
    pub const COUNT: usize = <Self as Label>::ALL.len();
    /// All of them, in the order of their indices.
    pub const ALL: [Self; Self::COUNT] = {
        let mut all = [<Self as Label>::ALL[0]; Self::COUNT];
        let mut index = 0;
        while index < Self::COUNT {
            all[index] = <Self as Label>::ALL[index];
            index += 1;
        }
        all
    };

    /// Index in tables that have one entry per dialect.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The dialect of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// The name in paths, labels, subprotocols and configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        Label::name(self)
    }
}

/// How the payload of a data frame for a client is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameEncoding {
    /// As text.
    #[default]
    Plain,
    /// Compressed with permessage-deflate (RFC 7692), if that makes it smaller.
    Deflate,
    /// The same for clients that asked for a window of less than 32 KiB: one of 512 bytes, the
    /// smallest, serves them all.
    DeflateSmallWindow,
}

impl FrameEncoding {
    /// All of them, in the order of their indices.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Deflate, Self::DeflateSmallWindow];
}

/// The form in which a publication is sent: the text of one dialect, and how its frame is encoded.
///
/// ```text
///   index = encoding × (dialects + 1) + text       the texts: one per dialect, and gateway's with
///                                                   the position of the publication before
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant(u8);

impl Variant {
    /// How many texts there are.
    const TEXTS: u8 = small(DialectId::COUNT + 1);
    /// How many variants there are; a mask of them fits a `u32`.
    pub const COUNT: usize = Self::TEXTS as usize * FrameEncoding::ALL.len();
    /// The frames of the gateway dialect that have the position of the publication before, too.
    pub const GATEWAY_WITH_PREVIOUS: Self = Self(Self::TEXTS - 1);

    /// The uncompressed frames of `dialect`.
    #[must_use]
    pub const fn plain(dialect: DialectId) -> Self {
        Self(dialect as u8)
    }

    /// All variants, in the order of their indices.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        <Self as Label>::ALL.iter().copied()
    }

    /// The variants of all texts as uncompressed frames.
    pub fn all_plain() -> impl Iterator<Item = Self> {
        Self::all().take(usize::from(Self::TEXTS))
    }

    /// Index in tables that have one entry per variant, and bit number in masks.
    #[must_use]
    pub const fn index(self) -> u8 {
        self.0
    }

    /// The bit of this variant in a mask.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self.0
    }

    /// The same text in frames that are encoded so.
    #[must_use]
    pub const fn encoded(self, encoding: FrameEncoding) -> Self {
        Self(self.0 % Self::TEXTS + encoding as u8 * Self::TEXTS)
    }

    /// The bits of the variants with the same text.
    #[must_use]
    pub const fn all_encodings(self) -> u32 {
        let plain = 1 << (self.0 % Self::TEXTS);
        plain | plain << Self::TEXTS | plain << (2 * Self::TEXTS)
    }

    /// How the frame is encoded.
    #[must_use]
    pub fn encoding(self) -> FrameEncoding {
        FrameEncoding::ALL[usize::from(self.0 / Self::TEXTS)]
    }

    /// The dialect whose text the frame contains.
    #[must_use]
    pub fn dialect(self) -> DialectId {
        match self.encoded(FrameEncoding::Plain) {
            Self::GATEWAY_WITH_PREVIOUS => DialectId::Gateway,
            Self(plain) => DialectId::ALL[usize::from(plain)],
        }
    }

    /// Whether its frames have the position of the publication before, where they have one.
    #[must_use]
    pub fn has_previous(self) -> bool {
        self.encoded(FrameEncoding::Plain) == Self::GATEWAY_WITH_PREVIOUS
    }

    /// The same with the position of the publication before, if there is such a form.
    #[must_use]
    pub fn with_previous(self) -> Self {
        match self.dialect() {
            DialectId::Gateway => Self::GATEWAY_WITH_PREVIOUS.encoded(self.encoding()),
            _ => self,
        }
    }

    /// The value of the `variant` label.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }
}

/// An index of a variant, or a count of them, as it is stored.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a mask of variants fits a u32"
)]
const fn small(index: usize) -> u8 {
    index as u8
}

/// The names of the variants, in the order of their indices.
const NAMES: [&str; Variant::COUNT] = [
    "gateway",
    "monitoring",
    "analytics",
    "assist",
    "notifications",
    "gateway_with_previous",
    "gateway_deflate",
    "monitoring_deflate",
    "analytics_deflate",
    "assist_deflate",
    "notifications_deflate",
    "gateway_with_previous_deflate",
    "gateway_deflate_small_window",
    "monitoring_deflate_small_window",
    "analytics_deflate_small_window",
    "assist_deflate_small_window",
    "notifications_deflate_small_window",
    "gateway_with_previous_deflate_small_window",
];

impl Label for Variant {
    const ALL: &'static [Self] = &{
        let mut all = [Self(0); Self::COUNT];
        let mut index = 0;
        while index < all.len() {
            all[index] = Self(small(index));
            index += 1;
        }
        all
    };
    const ALIASES: &'static [(&'static str, Self)] = &[];
    fn index(self) -> usize {
        usize::from(self.0)
    }
    fn name(self) -> &'static str {
        Self::name(self)
    }
}

const _: () = assert!(Variant::COUNT <= 32, "a variant mask is a u32");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_a_text_and_an_encoding() {
        for (index, variant) in Variant::all().enumerate() {
            assert_eq!(usize::from(variant.index()), index);
            let plain = variant.encoded(FrameEncoding::Plain);
            assert_eq!(plain.encoding(), FrameEncoding::Plain);
            assert_eq!(plain.encoded(variant.encoding()), variant);
            assert_eq!(plain.dialect(), variant.dialect());
            assert_eq!(plain.has_previous(), variant.has_previous());
            let suffix = match variant.encoding() {
                FrameEncoding::Plain => "",
                FrameEncoding::Deflate => "_deflate",
                FrameEncoding::DeflateSmallWindow => "_deflate_small_window",
            };
            assert_eq!(variant.name(), format!("{}{suffix}", plain.name()));
            let with_previous = variant.with_previous();
            assert_eq!(with_previous.encoding(), variant.encoding());
            assert_eq!(
                with_previous.has_previous(),
                variant.dialect() == DialectId::Gateway
            );
        }
        assert_eq!(Variant::plain(DialectId::Assist).name(), "assist");
        assert_eq!(Variant::all_plain().count(), DialectId::COUNT + 1);
    }
}
