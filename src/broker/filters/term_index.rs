//! The paths and values in the filters of a channel, and which of them a publication has.

use super::filter::Condition;
use super::index::FilterId;
use super::trie::Trie;
use super::u32_key;
use super::value::{FilterValue, Plain, canonical};
use crate::json::{JsonReader, Members, Value as JsonValue};
use slab::Slab;
use std::collections::HashMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathIndex(pub(super) u32);

/// Index of a value at one path; the same value at another path has another index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ValueIndex(u32);

/// Paths and values in use. Conditions become numbers here, so that a candidate is evaluated by
/// comparing numbers.
#[derive(Debug, Default)]
pub(super) struct TermIndex {
    trie: Trie,
    paths: Slab<Path>,
    values: Slab<Value>,
    /// Publications read so far; marks of earlier publications are stale and need not be cleared.
    readings: u64,
}

/// A path and the values that filters name there; at least one.
#[derive(Debug)]
struct Path {
    name: Box<str>,
    plain: HashMap<Plain, ValueIndex>,
    texts: HashMap<Box<str>, ValueIndex>,
    compounds: HashMap<Box<str>, ValueIndex>,
    /// The last publication that had the path, and its known value there.
    reading: u64,
    read: Option<ValueIndex>,
}

/// A value at a path; it exists as long as conditions name it.
#[derive(Debug)]
struct Value {
    path: PathIndex,
    value: FilterValue,
    conditions: usize,
    /// The filters posted under the value, in no particular order.
    posted: Vec<Posting>,
}

/// The entry of a filter in the list of one value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Posting {
    pub(super) filter_id: FilterId,
    /// Which alternative of the filter's condition the value is.
    rank: u32,
}

/// The positions of a filter's postings in their lists, by rank. Searching for them would be slow
/// when clients have many alternatives in common.
#[derive(Debug, Default)]
pub(super) struct Positions(Vec<u32>);

/// A condition whose path and values are in the term index.
#[derive(Debug)]
pub(super) struct InternedCondition {
    path: PathIndex,
    /// In ascending order; at least one.
    alternatives: Box<[ValueIndex]>,
}

impl TermIndex {
    /// Reads a publication and appends the known values that it contains, at most one for each
    /// path.
    pub(super) fn read(
        &mut self,
        publication: Members<'_>,
        reader: &mut JsonReader,
        found: &mut Vec<ValueIndex>,
    ) {
        self.readings += 1;
        let (reading, paths) = (self.readings, &mut self.paths);
        self.trie.walk(publication, |path, value| {
            let path = &mut paths[path.0 as usize];
            if path.reading == reading {
                // The path was already resolved at a shallower level.
                return;
            }
            path.reading = reading;
            path.read = path.find(value, reader);
            found.extend(path.read);
        });
    }

    /// Whether the publication that was last read satisfies the condition.
    pub(super) fn satisfies(&self, condition: &InternedCondition) -> bool {
        let path = &self.paths[condition.path.0 as usize];
        let read = path.read.filter(|_| path.reading == self.readings);
        read.is_some_and(|value| condition.alternatives.binary_search(&value).is_ok())
    }

    /// The filters posted under a value.
    pub(super) fn posted(&self, value: ValueIndex) -> &[Posting] {
        &self.values[value.0 as usize].posted
    }

    /// The cost of posting under the condition: the most candidates that one publication can have,
    /// and the number of alternatives.
    pub(super) fn cost(&self, condition: &InternedCondition) -> (usize, usize) {
        let lists = condition.alternatives.iter();
        let longest = lists.map(|value| self.posted(*value).len()).max();
        (longest.unwrap_or(0), condition.alternatives.len())
    }

    /// Posts the filter under every alternative.
    pub(super) fn post(&mut self, condition: &InternedCondition, filter_id: FilterId) -> Positions {
        let ranked = (0..).zip(&condition.alternatives);
        let positions = ranked.map(|(rank, value)| {
            let posted = &mut self.values[value.0 as usize].posted;
            posted.push(Posting { filter_id, rank });
            u32::try_from(posted.len() - 1).expect("a list is no longer than the table of filters")
        });
        Positions(positions.collect())
    }

    /// Reverses `post`. Calls `moved` for the postings whose position has changed.
    pub(super) fn unpost(
        &mut self,
        condition: &InternedCondition,
        filter_id: FilterId,
        positions: &Positions,
        mut moved: impl FnMut(Posting, u32),
    ) {
        for (value, position) in condition.alternatives.iter().zip(&positions.0) {
            let posted = &mut self.values[value.0 as usize].posted;
            let removed = posted.swap_remove(*position as usize);
            assert_eq!(
                removed.filter_id, filter_id,
                "positions are updated at every move"
            );
            if let Some(posting) = posted.get(*position as usize) {
                moved(*posting, *position);
            }
        }
    }

    /// Adds the path and the values of the condition.
    pub(super) fn intern(&mut self, condition: Condition) -> InternedCondition {
        let path = self.trie.find(&condition.path).unwrap_or_else(|| {
            let path = PathIndex(u32_key(
                self.paths.insert(Path::new(condition.path.clone())),
            ));
            self.trie.insert(&condition.path, path);
            path
        });
        let alternatives = condition.alternatives.into_iter();
        let mut alternatives: Box<[_]> =
            alternatives.map(|value| self.value(path, value)).collect();
        alternatives.sort_unstable();
        InternedCondition { path, alternatives }
    }

    /// Reverses `intern`; the condition must not be posted any more. Returns how many values it
    /// names.
    pub(super) fn release(&mut self, condition: &InternedCondition) -> usize {
        for index in &condition.alternatives {
            let value = &mut self.values[index.0 as usize];
            value.conditions -= 1;
            if value.conditions > 0 {
                continue;
            }
            let value = self.values.remove(index.0 as usize);
            assert!(value.posted.is_empty(), "a posted filter names the value");
            self.paths[value.path.0 as usize].remove(&value.value);
        }
        if self.paths[condition.path.0 as usize].is_empty() {
            let path = self.paths.remove(condition.path.0 as usize);
            self.trie.remove(&path.name);
        }
        condition.alternatives.len()
    }

    /// The value at the path, with one more condition that names it.
    fn value(&mut self, path: PathIndex, value: FilterValue) -> ValueIndex {
        let values = &mut self.values;
        let index = self.paths[path.0 as usize].find_or_insert(&value, || {
            ValueIndex(u32_key(values.insert(Value {
                path,
                value: value.clone(),
                conditions: 0,
                posted: Vec::new(),
            })))
        });
        self.values[index.0 as usize].conditions += 1;
        index
    }

    /// Nodes, edges, paths, values and postings.
    #[cfg(test)]
    pub(super) fn counts(&self) -> [usize; 5] {
        let (nodes, edges) = self.trie.counts();
        let (paths, values) = (self.paths.len(), self.values.len());
        let posted = self
            .values
            .iter()
            .map(|(_, value)| value.posted.len())
            .sum();
        [nodes, edges, paths, values, posted]
    }
}

impl Positions {
    /// Records a new position that `unpost` reported.
    pub(super) fn set(&mut self, posting: Posting, position: u32) {
        self.0[posting.rank as usize] = position;
    }
}

impl Path {
    fn new(name: Box<str>) -> Self {
        Self {
            name,
            plain: HashMap::new(),
            texts: HashMap::new(),
            compounds: HashMap::new(),
            reading: 0,
            read: None,
        }
    }

    /// The known value that equals `value`, which is converted only if there are values of its
    /// type.
    fn find(&self, value: JsonValue<'_>, reader: &mut JsonReader) -> Option<ValueIndex> {
        let found = match value.raw().as_bytes().first()? {
            b'"' if self.texts.is_empty() => None,
            b'"' => self.texts.get(&*value.string()?),
            b'[' | b'{' if self.compounds.is_empty() => None,
            b'[' | b'{' => {
                let converted = reader.convert(value.raw())?;
                self.compounds.get(canonical(converted.value()).as_str())
            }
            _ if self.plain.is_empty() => None,
            _ => {
                // Most numbers are integers, which need no converter.
                let plain = match value.raw().parse::<i64>() {
                    Ok(number) => Plain::Integer(i128::from(number)),
                    Err(_) => Plain::of(reader.convert(value.raw())?.value())?,
                };
                self.plain.get(&plain)
            }
        };
        found.copied()
    }

    fn find_or_insert(
        &mut self,
        value: &FilterValue,
        make: impl FnOnce() -> ValueIndex,
    ) -> ValueIndex {
        match value {
            FilterValue::Plain(plain) => *self.plain.entry(*plain).or_insert_with(make),
            FilterValue::Text(text) => *self.texts.entry(text.clone()).or_insert_with(make),
            FilterValue::Compound(text) => *self.compounds.entry(text.clone()).or_insert_with(make),
        }
    }

    fn remove(&mut self, value: &FilterValue) {
        let removed = match value {
            FilterValue::Plain(plain) => self.plain.remove(plain),
            FilterValue::Text(text) => self.texts.remove(text),
            FilterValue::Compound(text) => self.compounds.remove(text),
        };
        assert!(removed.is_some(), "a value is known at its path");
    }

    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.texts.is_empty() && self.compounds.is_empty()
    }
}
