//! Which shards have subscribers of a channel, and which variants those receive.
//!
//! Publishers ask it twice: before encoding, for the variants in use, and after the record is
//! written, for the shards to wake. It is exact at any number of channels: an entry exists as long
//! as a channel has subscribers anywhere in the process. A shard changes an entry only when it gains
//! its first or loses its last subscriber of a variant.

use super::Variant;
use super::name_hash::NameKey;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Independently locked parts of the table.
const STRIPES: usize = 64;

/// The name of a channel as a keyed hash: what a record of the ring carries in its first cache
/// line. Equal names have equal tags in a process, and in all with the same [`NameKey`]. Two names have the same tag with a probability
/// of 2^-64; they then cost each other work, never a wrong delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelTag(u64);

impl ChannelTag {
    /// The tag in a record.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The tag of a record.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Which of 64 parts of a table it belongs to. The low bits choose the place in the part.
    pub(super) fn stripe(self) -> usize {
        (self.0 >> 58) as usize
    }
}

/// A hasher for keys that are hashes already.
#[derive(Debug, Default)]
pub(super) struct TagHasher(u64);

impl Hasher for TagHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.is_empty(), "only tags are hashed");
    }

    fn write_u64(&mut self, tag: u64) {
        self.0 = tag;
    }
}

/// The subscribers of one channel.
#[derive(Debug, Default)]
struct Interest {
    /// Each shard with subscribers, and their variants as a mask.
    by_shard: Vec<(u16, u32)>,
    /// The variants of all shards.
    variants: u32,
}

/// A table of channels by their tags.
pub(super) type TagMap<T> = HashMap<ChannelTag, T, BuildHasherDefault<TagHasher>>;

type Stripe = TagMap<Interest>;

/// The table of all channels with subscribers.
#[derive(Debug, Default)]
pub struct Interests {
    key: NameKey,
    stripes: [Lines<RwLock<Stripe>>; STRIPES / 4],
}

/// Four stripes, apart from the next four: shards that lock one do not slow down the others.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lines<T>([T; 4]);

impl Interests {
    /// No channels; tags depend on the key.
    #[must_use]
    pub fn with_key(key: NameKey) -> Self {
        Self {
            key,
            ..Self::default()
        }
    }

    /// The tag of a channel.
    #[must_use]
    pub fn tag(&self, channel: &str) -> ChannelTag {
        ChannelTag(self.key.hash(channel))
    }

    /// The variants that subscribers of a channel receive, anywhere in the process, as a mask.
    #[must_use]
    pub fn variants(&self, tag: ChannelTag) -> u32 {
        let stripe = read(self.stripe(tag));
        stripe.get(&tag).map_or(0, |interest| interest.variants)
    }

    /// Adds the shards that have subscribers of a channel to `shards`. To wake them, call it after
    /// the record is written: a shard that gets its first subscriber later finds the record by
    /// itself before it sleeps.
    pub fn add_shards(&self, tag: ChannelTag, shards: &mut ShardSet) {
        let stripe = read(self.stripe(tag));
        let interest = stripe.get(&tag).into_iter();
        for (shard, _) in interest.flat_map(|interest| &interest.by_shard) {
            shards.insert(*shard);
        }
    }

    /// States which variants the subscribers of a channel on a shard receive, as a mask; 0 when
    /// there are none.
    pub fn set(&self, tag: ChannelTag, shard: u16, variants: u32) {
        let mut stripe = write(self.stripe(tag));
        let interest = stripe.entry(tag).or_default();
        interest.by_shard.retain(|(other, _)| *other != shard);
        if variants != 0 {
            interest.by_shard.push((shard, variants));
        }
        interest.variants = interest
            .by_shard
            .iter()
            .fold(0, |mask, (_, variants)| mask | variants);
        if interest.by_shard.is_empty() {
            stripe.remove(&tag);
            if is_mostly_empty(stripe.len(), stripe.capacity()) {
                stripe.shrink_to_fit();
            }
        }
    }

    /// Whether a channel has subscribers.
    #[must_use]
    pub fn has_subscribers(&self, channel: &str) -> bool {
        self.variants(self.tag(channel)) != 0
    }

    fn stripe(&self, tag: ChannelTag) -> &RwLock<Stripe> {
        let stripe = tag.stripe();
        &self.stripes[stripe / 4].0[stripe % 4]
    }
}

/// A panic of another thread leaves a stripe as it was.
fn read(stripe: &RwLock<Stripe>) -> RwLockReadGuard<'_, Stripe> {
    stripe.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(stripe: &RwLock<Stripe>) -> RwLockWriteGuard<'_, Stripe> {
    stripe.write().unwrap_or_else(PoisonError::into_inner)
}

/// A set of shards.
#[derive(Clone, Debug, Default)]
pub struct ShardSet {
    words: Vec<u64>,
}

impl ShardSet {
    /// Adds a shard.
    pub fn insert(&mut self, shard: u16) {
        let word = usize::from(shard / 64);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (shard % 64);
    }

    /// The shards `64 * word ..`, as bits.
    #[must_use]
    pub fn word(&self, word: u32) -> u64 {
        self.words.get(word as usize).copied().unwrap_or(0)
    }

    /// Removes all shards.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }
}

/// Whether a table that was once larger should give memory back.
#[must_use]
pub fn is_mostly_empty(len: usize, capacity: usize) -> bool {
    capacity > 64 && len < capacity / 4
}

/// The variants of a mask.
pub fn variants_of(mask: u32) -> impl Iterator<Item = Variant> + Clone {
    Variant::all().filter(move |variant| mask & variant.bit() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DialectId;

    const GATEWAY: u32 = Variant::plain(DialectId::Gateway).bit();
    const MONITORING: u32 = Variant::plain(DialectId::Monitoring).bit();

    fn shards(interests: &Interests, channel: &str) -> u64 {
        let mut shards = ShardSet::default();
        interests.add_shards(interests.tag(channel), &mut shards);
        shards.word(0)
    }

    #[test]
    fn a_channel_has_the_variants_and_the_shards_of_its_subscribers() {
        let interests = Interests::default();
        let news = interests.tag("news");
        interests.set(news, 0, GATEWAY);
        interests.set(news, 5, MONITORING | GATEWAY);
        assert_eq!(interests.variants(news), MONITORING | GATEWAY);
        assert_eq!(shards(&interests, "news"), 0b10_0001);
        interests.set(news, 5, 0);
        assert_eq!(interests.variants(news), GATEWAY);
        assert_eq!(shards(&interests, "news"), 1);
        interests.set(news, 0, 0);
        assert!(!interests.has_subscribers("news"));
        assert_eq!(shards(&interests, "news"), 0);
    }

    #[test]
    fn many_channels_do_not_share_entries_and_leave_nothing_behind() {
        let interests = Interests::default();
        let name = |index: u32| format!("channel:{index}");
        for index in 0..20_000 {
            let mask = if index % 2 == 0 { GATEWAY } else { MONITORING };
            interests.set(interests.tag(&name(index)), (index % 3) as u16, mask);
        }
        for index in 0..20_000 {
            let mask = if index % 2 == 0 { GATEWAY } else { MONITORING };
            assert_eq!(interests.variants(interests.tag(&name(index))), mask);
            assert_eq!(shards(&interests, &name(index)), 1 << (index % 3));
        }
        for index in 0..20_000 {
            interests.set(interests.tag(&name(index)), (index % 3) as u16, 0);
        }
        let stripes = interests.stripes.iter().flat_map(|lines| &lines.0);
        let capacities = stripes.map(|stripe| read(stripe).capacity());
        assert!(capacities.max().is_some_and(|capacity| capacity <= 64));
    }
}
