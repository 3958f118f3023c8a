//! A table whose free positions are used again.

/// Entries by index. Whoever holds an index must know that its entry is still there.
#[derive(Debug)]
pub(super) struct Table<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Table<T> {
    /// Stores `entry` and tells where.
    pub(super) fn insert(&mut self, entry: T) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            u32::try_from(self.entries.len() - 1).expect("memory ends before 2^32 entries")
        });
        self.entries[index as usize] = Some(entry);
        index
    }

    /// Takes the entry out.
    ///
    /// # Panics
    /// When there is none, as do the two below.
    pub(super) fn remove(&mut self, index: u32) -> T {
        let entry = self.entries[index as usize].take();
        self.free.push(index);
        entry.expect("an index is kept no longer than its entry")
    }

    pub(super) fn at(&self, index: u32) -> &T {
        let entry = self.entries[index as usize].as_ref();
        entry.expect("an index is kept no longer than its entry")
    }

    pub(super) fn at_mut(&mut self, index: u32) -> &mut T {
        let entry = self.entries[index as usize].as_mut();
        entry.expect("an index is kept no longer than its entry")
    }

    /// Entries in the table.
    pub(super) fn count(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// All entries, for tests that look for what was left behind.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut table = Table::default();
        let (first, second) = (table.insert('a'), table.insert('b'));
        assert_eq!(table.remove(first), 'a');
        assert_eq!((table.count(), *table.at(second)), (1, 'b'));
        assert_eq!(table.insert('c'), first);
        *table.at_mut(first) = 'd';
        assert_eq!(table.iter().collect::<String>(), "db");
    }
}
