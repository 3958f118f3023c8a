//! Who subscribed to what, on one shard.

use crate::base::Variant;
use std::collections::HashMap;

/// The subscribers of a channel that want the same variant.
#[derive(Debug)]
pub struct Audience {
    /// The form in which they want frames.
    pub variant: Variant,
    /// Their slots, in no order. A slot leaves before its connection does, so none is stale.
    pub slots: Vec<u32>,
}

/// A channel with at least one subscriber on this shard.
#[derive(Debug)]
pub struct Channel {
    name: Box<str>,
    audiences: Vec<Audience>,
}

impl Channel {
    /// The subscribers, grouped by variant.
    #[must_use]
    pub fn audiences(&self) -> &[Audience] {
        &self.audiences
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Index of a channel in this shard's table; reused when the channel has lost its last subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChannelIndex(u32);

/// A slot that moved to another position in its audience when a neighbour left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) slot: u32,
    pub(super) position: u32,
}

/// The channels of one shard.
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_name: HashMap<Box<str>, ChannelIndex>,
    channels: Vec<Channel>,
    free: Vec<ChannelIndex>,
}

impl Channels {
    /// The channel of that name, if it has subscribers here.
    pub(super) fn find(&self, name: &str) -> Option<(ChannelIndex, &Channel)> {
        let index = *self.by_name.get(name)?;
        Some((index, self.at(index)))
    }

    /// The channel with that index.
    pub(super) fn at(&self, index: ChannelIndex) -> &Channel {
        &self.channels[index.0 as usize]
    }

    /// How many channels have subscribers.
    pub(super) fn count(&self) -> usize {
        self.by_name.len()
    }

    /// The channel of that name, made if there is none.
    pub(super) fn open(&mut self, name: &str) -> ChannelIndex {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let channel = Channel {
            name: name.into(),
            audiences: Vec::new(),
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.channels[index.0 as usize] = channel;
                index
            }
            None => {
                self.channels.push(channel);
                let index = u32::try_from(self.channels.len() - 1);
                ChannelIndex(index.expect("fewer channels than subscriptions, which are u32"))
            }
        };
        self.by_name.insert(name.into(), index);
        index
    }

    /// Adds a subscriber and returns its position.
    pub(super) fn join(&mut self, index: ChannelIndex, variant: Variant, slot: u32) -> u32 {
        let audiences = &mut self.channels[index.0 as usize].audiences;
        let found = audiences
            .iter()
            .position(|audience| audience.variant == variant);
        let at = found.unwrap_or_else(|| {
            audiences.push(Audience {
                variant,
                slots: Vec::new(),
            });
            audiences.len() - 1
        });
        let slots = &mut audiences[at].slots;
        slots.push(slot);
        u32::try_from(slots.len() - 1).expect("fewer subscribers than slots, which are u32")
    }

    /// Removes the subscriber at `position`; the channel goes with its last one.
    pub(super) fn leave(
        &mut self,
        index: ChannelIndex,
        variant: Variant,
        position: u32,
    ) -> Option<Moved> {
        let audiences = &mut self.channels[index.0 as usize].audiences;
        let at = audiences
            .iter()
            .position(|audience| audience.variant == variant)?;
        let slots = &mut audiences[at].slots;
        slots.swap_remove(position as usize);
        let moved = slots.get(position as usize).map(|slot| Moved {
            slot: *slot,
            position,
        });
        if slots.is_empty() {
            audiences.swap_remove(at);
        }
        if audiences.is_empty() {
            let name = std::mem::take(&mut self.channels[index.0 as usize].name);
            self.by_name.remove(&name);
            self.free.push(index);
        }
        moved
    }
}
