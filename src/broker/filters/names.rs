//! The names of the paths of all filters, and where a publication has them.
//!
//! Wherever a path `a.b.c` is found, the names on the way, joined by dots, are the path: `a.b.c`,
//! or `a` and then `b.c`, or `a`, `b` and `c`. So a table of paths and one of their beginnings
//! (`a`, `a.b`) say of each member of a publication whether it is a value that is compared, and of
//! each object whether to look into it.

use crate::base::interest::is_mostly_empty;
use crate::json::{Object, Value};
use hashbrown::{HashMap, HashTable};
use std::hash::{BuildHasher, RandomState};

/// A keyed hash of a name. Clients do not know the key, and two names have the same hash with a
/// probability of 2^-64.
pub(super) type NameHash = u64;

#[derive(Debug, Default)]
pub(super) struct Names {
    paths: NameCounts,
    /// Paths up to one of their dots.
    beginnings: NameCounts,
    /// A bit for each length of a name in the tables, modulo 64; bits of removed names may be left.
    lengths: u64,
    hasher: RandomState,
    /// The name of the member that is looked up; kept to reuse its memory.
    name: String,
}

/// Names, and how many filters have each one.
#[derive(Debug, Default)]
struct NameCounts(HashTable<NameCount>);

/// In parts of four bytes, so that an entry has twelve.
#[derive(Debug)]
struct NameCount {
    hash: [u32; 2],
    count: u32,
}

/// A value of a publication at a path.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// Names between the root and the value; fewer count.
    level: usize,
    /// Which of the values found it is, in the order of the publication.
    pub(super) rank: usize,
    pub(super) value: Value<'a>,
}

impl Names {
    /// Adds a path.
    pub(super) fn insert(&mut self, path: &str) -> NameHash {
        for (dot, _) in path.match_indices('.') {
            self.lengths |= length_bit(dot);
            self.beginnings.add(self.hasher.hash_one(&path[..dot]));
        }
        self.lengths |= length_bit(path.len());
        let hash = self.hasher.hash_one(path);
        self.paths.add(hash);
        hash
    }

    /// Reverses `insert`.
    pub(super) fn remove(&mut self, path: &str) {
        for (dot, _) in path.match_indices('.') {
            self.beginnings.subtract(self.hasher.hash_one(&path[..dot]));
        }
        self.paths.subtract(self.hasher.hash_one(path));
    }

    /// The values of a publication at the paths of filters. If a path can be resolved in two ways,
    /// the shallower one counts; of repeated members, the last one.
    pub(super) fn find<'a>(&mut self, publication: Object<'a>) -> HashMap<NameHash, Found<'a>> {
        let mut found = HashMap::new();
        let mut name = std::mem::take(&mut self.name);
        let mut objects = vec![(String::new(), publication)];
        let mut level = 0;
        while !objects.is_empty() {
            let mut deeper = HashMap::new();
            for (start, object) in objects {
                name.clear();
                name.push_str(&start);
                for (key, value) in object.members() {
                    let Some(key) = key.unescaped() else {
                        continue;
                    };
                    if self.lengths & length_bit(start.len() + key.len()) == 0 {
                        continue;
                    }
                    name.truncate(start.len());
                    name.push_str(&key);
                    let hash = self.hasher.hash_one(&*name);
                    if self.paths.has(hash) {
                        let rank = found.len();
                        let first = Found { level, rank, value };
                        let earlier = found.entry(hash).or_insert(first);
                        if earlier.level == level {
                            earlier.value = value;
                        }
                    }
                    if !key.contains('.') && self.beginnings.has(hash) {
                        let inner = value.object().map(|object| (format!("{name}."), object));
                        deeper.insert(hash, inner);
                    }
                }
            }
            objects = deeper.into_values().flatten().collect();
            level += 1;
        }
        self.name = name;
        found
    }

    /// Paths and beginnings of paths.
    #[cfg(test)]
    pub(super) fn counts(&self) -> [usize; 2] {
        [self.paths.0.len(), self.beginnings.0.len()]
    }
}

impl NameCounts {
    fn has(&self, hash: NameHash) -> bool {
        self.0.find(hash, |entry| entry.hash() == hash).is_some()
    }

    fn add(&mut self, hash: NameHash) {
        let entry = self
            .0
            .entry(hash, |entry| entry.hash() == hash, NameCount::hash);
        entry
            .or_insert_with(|| NameCount::new(hash))
            .get_mut()
            .count += 1;
    }

    fn subtract(&mut self, hash: NameHash) {
        if let Ok(mut entry) = self.0.find_entry(hash, |entry| entry.hash() == hash) {
            entry.get_mut().count -= 1;
            if entry.get().count == 0 {
                entry.remove();
            }
        }
        if is_mostly_empty(self.0.len(), self.0.capacity()) {
            self.0.shrink_to_fit(NameCount::hash);
        }
    }
}

impl NameCount {
    #[expect(clippy::cast_possible_truncation, reason = "both halves are kept")]
    fn new(hash: NameHash) -> Self {
        Self {
            hash: [hash as u32, (hash >> 32) as u32],
            count: 0,
        }
    }

    fn hash(&self) -> NameHash {
        u64::from(self.hash[0]) | u64::from(self.hash[1]) << 32
    }
}

fn length_bit(length: usize) -> u64 {
    1 << (length % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Document;

    #[test]
    fn removal_leaves_only_what_others_need() {
        let paths = ["a", "a.b", "a.b.c", "a..b", ".", "", "x.y.z", "x.y"];
        for first in 0..paths.len() {
            let mut names = Names::default();
            let mut counts = vec![names.counts()];
            let mut rotated = paths;
            rotated.rotate_left(first);
            for path in rotated {
                names.insert(path);
                counts.push(names.counts());
            }
            for path in rotated.iter().rev() {
                counts.pop();
                names.remove(path);
                assert_eq!(Some(&names.counts()), counts.last(), "{path}");
            }
        }
    }

    #[test]
    fn the_shallowest_way_and_the_last_member_count() {
        for (text, expected) in [
            (r#"{"a":{"b":{"c":3},"b.c":2},"a.b.c":1,"x":{"c":4}}"#, "1"),
            (r#"{"a":{"b":{"c":3},"b.c":2}}"#, "2"),
            (r#"{"a":{"b":{"c":3}}}"#, "3"),
            (r#"{"a":{"b.c":1},"a":{"b.c":2,"b.c":3}}"#, "3"),
        ] {
            let mut names = Names::default();
            let path = names.insert("a.b.c");
            let document = Document::new(text);
            let found = names.find(document.object().unwrap());
            assert_eq!(found[&path].value.raw(), expected, "{text}");
        }
        let mut names = Names::default();
        names.insert("a.b");
        let document = Document::new(r#"{"a":{"b":1},"a":0}"#);
        assert!(names.find(document.object().unwrap()).is_empty());
    }
}
