//! Tables indexed by slot: one that assigns ids, one that is indexed by them.

use super::id::ConnectionId;

/// Entries that are allocated together.
const PAGE_ENTRIES: usize = 256;

/// A table that grows by pages. A vector would move every entry when it grows, and leave up to half
/// of its memory unused.
#[derive(Debug)]
struct Pages<T> {
    pages: Vec<Box<[Option<T>]>>,
}

impl<T> Pages<T> {
    fn get(&self, slot: u32) -> Option<&T> {
        let index = slot as usize;
        let page = self.pages.get(index / PAGE_ENTRIES)?;
        page[index % PAGE_ENTRIES].as_ref()
    }

    fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let index = slot as usize;
        let page = self.pages.get_mut(index / PAGE_ENTRIES)?;
        page[index % PAGE_ENTRIES].as_mut()
    }

    /// The entry of `slot`, created if there is none.
    fn entry(&mut self, slot: u32) -> &mut Option<T> {
        let index = slot as usize;
        while self.pages.len() <= index / PAGE_ENTRIES {
            self.pages.push((0..PAGE_ENTRIES).map(|_| None).collect());
        }
        &mut self.pages[index / PAGE_ENTRIES][index % PAGE_ENTRIES]
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten().flatten()
    }
}

/// A table that assigns ids and rejects stale ones.
///
/// Slots are reused last-in first-out, so a busy server keeps using entries that are in the cache.
#[derive(Debug)]
pub struct Slab<T> {
    entries: Pages<Entry<T>>,
    /// Slots that have been used at least once.
    used: u32,
    free: Vec<u32>,
    slots_max: u32,
}

#[derive(Debug)]
struct Entry<T> {
    id: ConnectionId,
    value: Option<T>,
}

/// Every slot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabFull;

impl<T> Slab<T> {
    /// An empty table of at most `slots_max` entries; memory grows with use.
    #[must_use]
    pub fn new(slots_max: u32) -> Self {
        Self {
            entries: Pages { pages: Vec::new() },
            used: 0,
            free: Vec::new(),
            slots_max,
        }
    }

    /// Stores what `make` returns for the new id.
    ///
    /// # Errors
    /// [`SlabFull`] when all slots are taken; `make` is not called then.
    pub fn insert_with(
        &mut self,
        make: impl FnOnce(ConnectionId) -> T,
    ) -> Result<ConnectionId, SlabFull> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.used < self.slots_max => {
                self.used += 1;
                self.used - 1
            }
            None => return Err(SlabFull),
        };
        let entry = self.entries.entry(slot);
        let id = match entry {
            Some(earlier) => earlier.id.next_generation(),
            None => ConnectionId::new(slot, 0),
        };
        *entry = Some(Entry {
            id,
            value: Some(make(id)),
        });
        Ok(id)
    }

    /// The entry of `id`, unless it has been removed.
    #[must_use]
    pub fn get(&self, id: ConnectionId) -> Option<&T> {
        let entry = self.entries.get(id.slot())?;
        entry.value.as_ref().filter(|_| entry.id == id)
    }

    /// The entry of `id`, mutable, unless it has been removed.
    #[must_use]
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut T> {
        let (found, value) = self.at_slot_mut(id.slot())?;
        (found == id).then_some(value)
    }

    /// The entry in `slot` and its id.
    #[must_use]
    pub fn at_slot_mut(&mut self, slot: u32) -> Option<(ConnectionId, &mut T)> {
        let entry = self.entries.get_mut(slot)?;
        let id = entry.id;
        entry.value.as_mut().map(|value| (id, value))
    }

    /// Removes the entry of `id` and frees its slot.
    pub fn remove(&mut self, id: ConnectionId) -> Option<T> {
        let entry = self.entries.get_mut(id.slot())?;
        if entry.id != id {
            return None;
        }
        let value = entry.value.take()?;
        self.free.push(id.slot());
        Some(value)
    }

    /// Entries in the table.
    #[must_use]
    pub fn count(&self) -> usize {
        self.used as usize - self.free.len()
    }

    /// Entries for which there is room.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.slots_max as usize - self.count()
    }

    /// All ids in the table, in slot order.
    pub fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        let entries = self.entries.iter();
        entries
            .filter(|entry| entry.value.is_some())
            .map(|entry| entry.id)
    }
}

/// A table indexed by the ids of a [`Slab`]: what another layer stores for the same connection.
#[derive(Debug)]
pub struct SlotMap<T> {
    entries: Pages<(u32, T)>,
    count: usize,
}

impl<T> Default for SlotMap<T> {
    fn default() -> Self {
        Self {
            entries: Pages { pages: Vec::new() },
            count: 0,
        }
    }
}

impl<T> SlotMap<T> {
    /// Stores `value` for `id` and returns what an earlier use of the slot left.
    pub fn insert(&mut self, id: ConnectionId, value: T) -> Option<T> {
        let entry = self.entries.entry(id.slot());
        let earlier = entry.replace((id.generation(), value));
        self.count += usize::from(earlier.is_none());
        earlier.map(|(_, value)| value)
    }

    /// The entry of `id`.
    #[must_use]
    pub fn get(&self, id: ConnectionId) -> Option<&T> {
        let (generation, value) = self.entries.get(id.slot())?;
        (*generation == id.generation()).then_some(value)
    }

    /// The entry of `id`, mutable.
    #[must_use]
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut T> {
        let (generation, value) = self.entries.get_mut(id.slot())?;
        (*generation == id.generation()).then_some(value)
    }

    /// The entry in `slot`.
    #[must_use]
    pub fn at_slot(&self, slot: u32) -> Option<&T> {
        self.entries.get(slot).map(|(_, value)| value)
    }

    /// The entry in `slot`, mutable.
    #[must_use]
    pub fn at_slot_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.entries.get_mut(slot).map(|(_, value)| value)
    }

    /// Removes the entry of `id`.
    pub fn remove(&mut self, id: ConnectionId) -> Option<T> {
        self.get(id)?;
        self.count -= 1;
        let entry = self.entries.entry(id.slot());
        entry.take().map(|(_, value)| value)
    }

    /// The id of the entry in `slot`.
    #[must_use]
    pub fn id_at_slot(&self, slot: u32) -> Option<ConnectionId> {
        let (generation, _) = self.entries.get(slot)?;
        Some(ConnectionId::new(slot, *generation))
    }

    /// A number greater than all slots in use.
    #[must_use]
    pub fn slot_count(&self) -> u32 {
        u32::try_from(self.entries.pages.len() * PAGE_ENTRIES).unwrap_or(u32::MAX)
    }

    /// All ids in the table, in slot order.
    pub fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        let slots = 0..self.slot_count();
        slots.filter_map(|slot| self.id_at_slot(slot))
    }

    /// Entries in the table.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_finds_nothing_after_its_slot_was_reused() {
        let mut slab = Slab::new(4);
        let first = slab.insert_with(|_| "first").unwrap();
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert_with(|_| "second").unwrap();
        assert_eq!(first.slot(), second.slot());
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
    }

    #[test]
    fn a_full_slab_refuses_and_takes_again_after_a_removal() {
        let mut slab = Slab::new(2);
        let first = slab.insert_with(|_| 1).unwrap();
        slab.insert_with(|_| 2).unwrap();
        assert_eq!(slab.insert_with(|_| 3), Err(SlabFull));
        slab.remove(first);
        assert!(slab.insert_with(|_| 3).is_ok());
        assert_eq!(slab.count(), 2);
    }

    #[test]
    fn a_slot_map_knows_the_generation_it_was_given() {
        let mut map = SlotMap::default();
        let old = ConnectionId::new(3, 7);
        map.insert(old, "old");
        let new = old.next_generation();
        assert_eq!(map.get(new), None);
        assert_eq!(map.insert(new, "new"), Some("old"));
        assert_eq!((map.get(old), map.get(new)), (None, Some(&"new")));
        assert_eq!(map.count(), 1);
    }
}
