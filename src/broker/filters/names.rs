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
    sketch: Sketch,
    hasher: RandomState,
    /// The name of the member that is looked up; kept to reuse its memory.
    name: String,
}

/// Tells most names that are in no table, for less than a hash. Names that were removed are left in
/// it until it is built again.
#[derive(Debug)]
struct Sketch {
    /// A power of two, and eight bits or more for each name.
    bits: Box<[u64]>,
    /// Odd, and not known to clients.
    key: u64,
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
    pub(super) path: NameHash,
    pub(super) value: Value<'a>,
}

/// What a publication has at a path, on one level.
#[derive(Debug)]
struct Candidate<'a> {
    path: NameHash,
    /// Objects around the object with the value; fewer count.
    level: usize,
    /// The last value, and the object that has it.
    last: Option<(ObjectId, Value<'a>)>,
}

/// The last of the members of a publication at one beginning of a path. What was found in the
/// earlier ones does not count.
#[derive(Debug)]
struct LastMember {
    number: usize,
    /// The object that has it.
    around: ObjectId,
}

/// An object of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ObjectId {
    Root,
    /// The index of its `LastMember`, and its number.
    Member(usize, usize),
}

/// An object whose end was not read yet.
#[derive(Debug)]
struct OpenObject {
    id: ObjectId,
    /// Bytes of the names on the way to it and of the dots after them.
    name_bytes: usize,
    /// If it is a value that is compared: its candidate, and where it begins.
    compared: Option<(usize, usize)>,
}

/// The use of a name on one level.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    /// The index of its candidate, if it is a path.
    candidate: Option<usize>,
    /// The index of its last member, if it is a beginning.
    beginning: Option<usize>,
}

/// The use of a name that came up more than once, so that it is not hashed each time.
#[derive(Debug)]
struct Repeated {
    digest: u64,
    level: usize,
    name: Box<str>,
    used: Use,
}

/// What was found so far in a publication.
#[derive(Debug, Default)]
struct Search<'a> {
    candidates: Vec<Candidate<'a>>,
    candidates_by_path: HashMap<(NameHash, usize), usize>,
    beginnings: Vec<LastMember>,
    beginnings_by_name: HashMap<NameHash, usize>,
    repeated: HashTable<Repeated>,
    /// Of the last member at a beginning.
    number: usize,
}

impl Names {
    /// Adds a path.
    pub(super) fn insert(&mut self, path: &str) -> NameHash {
        for (dot, _) in path.match_indices('.') {
            self.beginnings.add(self.hasher.hash_one(&path[..dot]));
        }
        self.sketch.insert_path(path);
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

    /// Whether the names should be inserted again into a larger sketch, by
    /// [`sketch_again`](Self::sketch_again).
    pub(super) fn has_outgrown_sketch(&self) -> bool {
        8 * (self.paths.0.len() + self.beginnings.0.len()) > self.sketch.bits.len() * 64
    }

    /// Replaces the sketch by one for twice the names. `paths` are all that were inserted.
    pub(super) fn sketch_again<'a>(&mut self, paths: impl Iterator<Item = &'a str>) {
        let names = self.paths.0.len() + self.beginnings.0.len();
        self.sketch = Sketch::for_names(2 * names);
        for path in paths {
            self.sketch.insert_path(path);
        }
    }

    /// The values of a publication at the paths of filters, in one pass. If a path can be resolved
    /// in two ways, the shallower one counts; of repeated members, the last one.
    pub(super) fn find<'a>(&mut self, publication: Object<'a>) -> Vec<Found<'a>> {
        let mut search = Search::default();
        let mut name = std::mem::take(&mut self.name);
        let mut walk = publication.walk();
        let mut around = Vec::new();
        let mut object = OpenObject {
            id: ObjectId::Root,
            name_bytes: 0,
            compared: None,
        };
        loop {
            let Some(key) = walk.next_name() else {
                let Some(outer) = around.pop() else {
                    break;
                };
                let ended = std::mem::replace(&mut object, outer);
                if let Some((candidate, start)) = ended.compared {
                    let value = walk.since(start).map(|value| (object.id, value));
                    search.candidates[candidate].last = value;
                }
                continue;
            };
            // In the root, most names are what was written.
            let written = key.without_escapes().filter(|_| object.name_bytes == 0);
            let joined = if let Some(key) = written {
                key
            } else {
                name.truncate(object.name_bytes);
                if !key.append_to(&mut name) {
                    walk.skip();
                    continue;
                }
                &name
            };
            let digest = self.sketch.digest(joined.as_bytes());
            if !self.sketch.may_have(digest) {
                walk.skip();
                continue;
            }
            let level = around.len();
            let is_it = |repeated: &Repeated| repeated.is(joined, level);
            let used = match search.repeated.find(digest, is_it) {
                Some(repeated) => repeated.used,
                None => self.look_up(&mut search, joined, object.name_bytes, level, digest),
            };
            let start = walk.position();
            if let Some(index) = used.beginning {
                search.number += 1;
                let last = &mut search.beginnings[index];
                last.number = search.number;
                last.around = object.id;
                if walk.enter() {
                    if let Some(key) = written {
                        name.clear();
                        name.push_str(key);
                    }
                    name.push('.');
                    let inner = OpenObject {
                        id: ObjectId::Member(index, search.number),
                        name_bytes: name.len(),
                        compared: used.candidate.map(|candidate| (candidate, start)),
                    };
                    around.push(std::mem::replace(&mut object, inner));
                    continue;
                }
            }
            let value = walk.skip();
            if let Some(candidate) = used.candidate {
                search.candidates[candidate].last = value.map(|value| (object.id, value));
            }
        }
        self.name = name;
        search.resolve()
    }

    /// Looks a name up in the tables. The bytes before `key_start` are those of the objects around
    /// the member.
    fn look_up(
        &self,
        search: &mut Search<'_>,
        joined: &str,
        key_start: usize,
        level: usize,
        digest: u64,
    ) -> Use {
        let hash = self.hasher.hash_one(joined);
        let mut used = Use::default();
        let known = (search.candidates.len(), search.beginnings.len());
        if self.paths.has(hash) {
            let index = search.candidates_by_path.entry((hash, level));
            let index = *index.or_insert(search.candidates.len());
            if index == search.candidates.len() {
                search.candidates.push(Candidate {
                    path: hash,
                    level,
                    last: None,
                });
            }
            used.candidate = Some(index);
        }
        if self.beginnings.has(hash) && !joined[key_start..].contains('.') {
            let index = search.beginnings_by_name.entry(hash);
            let index = *index.or_insert(search.beginnings.len());
            if index == search.beginnings.len() {
                search.beginnings.push(LastMember {
                    number: 0,
                    around: ObjectId::Root,
                });
            }
            used.beginning = Some(index);
        }
        let is_used = used.candidate.is_some() || used.beginning.is_some();
        if is_used && known == (search.candidates.len(), search.beginnings.len()) {
            let repeated = Repeated {
                digest,
                level,
                name: joined.into(),
                used,
            };
            let digest_of = |repeated: &Repeated| repeated.digest;
            search.repeated.insert_unique(digest, repeated, digest_of);
        }
        used
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

impl Default for Sketch {
    fn default() -> Self {
        Self::for_names(1)
    }
}

impl Sketch {
    fn for_names(count: usize) -> Self {
        let words = count.div_ceil(8).next_power_of_two().max(4);
        Self {
            bits: vec![0; words].into(),
            key: RandomState::new().hash_one(0) | 1,
        }
    }

    fn insert_path(&mut self, path: &str) {
        let dots = path.match_indices('.').map(|(dot, _)| dot);
        for end in dots.chain([path.len()]) {
            let (word, bit) = self.place(self.digest(&path.as_bytes()[..end]));
            self.bits[word] |= bit;
        }
    }

    fn may_have(&self, digest: u64) -> bool {
        let (word, bit) = self.place(digest);
        self.bits[word] & bit != 0
    }

    /// A number made of the length of a name and its first and last bytes.
    fn digest(&self, name: &[u8]) -> u64 {
        let content = match (name.first_chunk::<8>(), name.last_chunk::<8>()) {
            (Some(first), Some(last)) => {
                u64::from_le_bytes(*first) ^ u64::from_le_bytes(*last).rotate_left(29)
            }
            _ => name
                .iter()
                .fold(0, |content, byte| content << 8 | u64::from(*byte)),
        };
        let content = content ^ (name.len() as u64) << 56;
        // The halves together depend on all bytes.
        let (lower, upper) = content.carrying_mul(self.key, 0);
        lower ^ upper
    }

    /// The word and the bit of a name.
    fn place(&self, digest: u64) -> (usize, u64) {
        let word = (digest >> 6) as usize & (self.bits.len() - 1);
        (word, 1 << (digest & 63))
    }
}

impl Repeated {
    fn is(&self, name: &str, level: usize) -> bool {
        self.level == level && *self.name == *name
    }
}

impl<'a> Search<'a> {
    /// For each path the value that counts, in the order in which the paths came up.
    fn resolve(self) -> Vec<Found<'a>> {
        let mut found = Vec::new();
        for candidate in &self.candidates {
            let Some((within, value)) = candidate.last else {
                continue;
            };
            if !self.is_last(within) || self.is_resolved_above(candidate) {
                continue;
            }
            found.push(Found {
                path: candidate.path,
                value,
            });
        }
        found
    }

    /// Whether the path of a candidate was found in an object around it.
    fn is_resolved_above(&self, candidate: &Candidate<'_>) -> bool {
        (0..candidate.level).any(|level| {
            let index = self.candidates_by_path.get(&(candidate.path, level));
            let last = index.and_then(|index| self.candidates[*index].last.as_ref());
            last.is_some_and(|(within, _)| self.is_last(*within))
        })
    }

    /// Whether neither the object nor one around it is followed by another of its name.
    fn is_last(&self, mut object: ObjectId) -> bool {
        while let ObjectId::Member(index, number) = object {
            let last = &self.beginnings[index];
            if last.number != number {
                return false;
            }
            object = last.around;
        }
        true
    }
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
            assert_eq!((found.len(), found[0].path), (1, path), "{text}");
            assert_eq!(found[0].value.raw(), expected, "{text}");
        }
        let mut names = Names::default();
        names.insert("a.b");
        for (text, expected) in [
            (r#"{"a":{"b":1},"a":0}"#, None),
            (r#"{"a":{"b":1},"a":{}}"#, None),
            (r#"{"a":{"b":1},"a":{"b":2}}"#, Some("2")),
            (r#"{"a":{"b":1,"c":{"b":3}},"b":4}"#, Some("1")),
            (r#"{"a":{"b":1},"\u0061":{"\u0062":2}}"#, Some("2")),
        ] {
            let document = Document::new(text);
            let found = names.find(document.object().unwrap());
            let found = found.first().map(|found| found.value.raw());
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn the_sketch_has_all_names_and_few_others() {
        let mut names = Names::default();
        let paths: Vec<_> = (0..1_000).map(|number| format!("path{number}.b")).collect();
        for (index, path) in paths.iter().enumerate() {
            names.insert(path);
            if names.has_outgrown_sketch() {
                names.sketch_again(paths[..=index].iter().map(String::as_str));
            }
        }
        let may_have = |name: &str| names.sketch.may_have(names.sketch.digest(name.as_bytes()));
        for path in &paths {
            assert!(may_have(path) && may_have(&path[..path.len() - 2]));
        }
        let others = (0..1_000).map(|number| format!("path{number}.c"));
        let others = others.filter(|name| may_have(name)).count();
        assert!(others < 300, "{others} of 1,000");
    }
}
