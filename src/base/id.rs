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

/// The form in which a publication is sent: the text of one dialect in an uncompressed frame.
///
/// Other forms than the plain ones take the indices from `DialectId::COUNT` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant(u8);

impl Variant {
    /// How many variants there are; a mask of them fits a `u32`.
    pub const COUNT: usize = DialectId::COUNT + 1;
    /// The frames of the gateway dialect that have the position of the publication before, too.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a mask of dialects fits a u32"
    )]
    pub const GATEWAY_WITH_PREVIOUS: Self = Self(DialectId::COUNT as u8);

    /// The uncompressed frames of `dialect`.
    #[must_use]
    pub const fn plain(dialect: DialectId) -> Self {
        Self(dialect as u8)
    }

    /// All variants, in the order of their indices.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        <Self as Label>::ALL.iter().copied()
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

    /// The dialect whose text the frame contains.
    #[must_use]
    pub fn dialect(self) -> DialectId {
        match self {
            Self::GATEWAY_WITH_PREVIOUS => DialectId::Gateway,
            Self(plain) => DialectId::ALL[usize::from(plain)],
        }
    }

    /// Whether its frames have the position of the publication before, where they have one.
    #[must_use]
    pub fn has_previous(self) -> bool {
        self == Self::GATEWAY_WITH_PREVIOUS
    }

    /// The same with the position of the publication before, if there is such a form.
    #[must_use]
    pub fn with_previous(self) -> Self {
        match self.dialect() {
            DialectId::Gateway => Self::GATEWAY_WITH_PREVIOUS,
            _ => self,
        }
    }

    /// The value of the `variant` label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GATEWAY_WITH_PREVIOUS => "gateway_with_previous",
            _ => self.dialect().name(),
        }
    }
}

impl Label for Variant {
    const ALL: &'static [Self] = &{
        let mut all = [Self::GATEWAY_WITH_PREVIOUS; Self::COUNT];
        let mut index = 0;
        while index < DialectId::COUNT {
            all[index] = Self::plain(DialectId::ALL[index]);
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
