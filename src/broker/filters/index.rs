//! The filters of one channel, found by the paths and values of a publication.

use super::filter::{Filter, filter_memory_max};
use super::names::{NameHash, Names};
use super::u32_key;
use super::value::FilterValue;
use crate::base::interest::is_mostly_empty;
use crate::base::memory::Waiting;
use crate::json::{JsonReader, Object};
use hashbrown::{HashMap, HashTable};
use slab::Slab;
use std::hash::{BuildHasher, RandomState};

/// Filters under one value that are counted to find a condition with few of them.
const POSTINGS_COUNTED_MAX: usize = 64;

/// Index of a filter in this table; reused after removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(u32);

/// The distinct filters of a channel. Paths and values are stored and compared as keyed hashes of
/// 64 bits, which makes a filter small: a publication reaches a subscriber whose filter it does not
/// match with a probability of 2^-64 per value compared.
#[derive(Debug, Default)]
pub struct FilterIndex {
    by_fingerprint: HashTable<FilterId>,
    filters: Slab<IndexedFilter>,
    names: Names,
    postings: HashTable<Posting>,
    /// Whether some filter named an array or an object since the index was empty. Comparing one is
    /// expensive, and such filters are rare.
    has_compounds: bool,
    hasher: RandomState,
}

/// A keyed hash of a path and a value there.
type ValueHash = u64;

/// A filter, shared by all subscribers that have it.
#[derive(Debug)]
struct IndexedFilter {
    /// Of its canonical text.
    fingerprint: [u64; 2],
    text_bytes: u32,
    /// The filter is posted under the first condition only. Empty if the filter matches nothing.
    conditions: Box<[IndexedCondition]>,
    /// The values of all conditions; those of one condition in ascending order.
    values: Box<[ValueHash]>,
    /// The paths of all conditions, to remove them from the names.
    paths: Box<str>,
    _waiting: Waiting,
}

/// Twelve bytes: a filter has at most 16 KiB of text, so the ends fit.
#[derive(Clone, Copy, Debug)]
struct IndexedCondition {
    path: [u32; 2],
    /// Where its values and its path end among those of the filter.
    values_end: u16,
    path_end: u16,
}

/// A filter under one of the values of its first condition. A filter is in the table once for each
/// tag, so no filter is a candidate twice.
#[derive(Debug)]
struct Posting {
    tag: u32,
    filter_id: FilterId,
}

impl FilterId {
    /// The index as a number, for tables parallel to this one.
    #[must_use]
    pub fn slot(self) -> u32 {
        self.0
    }
}

impl FilterIndex {
    /// The id of the filter with the same meaning.
    #[must_use]
    pub fn find(&self, filter: &Filter) -> Option<FilterId> {
        self.find_fingerprint(self.fingerprint(filter))
    }

    /// Bytes of JSON that the filter had when it was inserted.
    #[must_use]
    pub fn text_bytes(&self, filter_id: FilterId) -> u32 {
        self.filters[filter_id.0 as usize].text_bytes
    }

    /// Adds a filter.
    ///
    /// # Panics
    /// When one of the same meaning is present: call [`find`](Self::find) first.
    pub fn insert(&mut self, filter: Filter) -> FilterId {
        let fingerprint = self.fingerprint(&filter);
        let earlier = self.find_fingerprint(fingerprint);
        assert!(earlier.is_none(), "a filter is inserted once");
        let text_bytes = filter.text_bytes();
        let conditions = filter.into_conditions().into_iter();
        let mut conditions: Vec<_> = conditions
            .map(|condition| {
                let path = self.names.insert(&condition.path);
                let values = condition.alternatives.iter();
                self.has_compounds |= values.clone().any(FilterValue::is_compound);
                let mut values: Vec<_> = values.map(|value| self.hash_value(path, value)).collect();
                values.sort_unstable();
                (path, condition.path, values)
            })
            .collect();
        let costs = conditions.iter().map(|(_, _, values)| self.cost(values));
        if let Some((cheapest, _)) = costs.enumerate().min_by_key(|(_, cost)| *cost) {
            conditions.swap(0, cheapest);
        }
        let (mut values, mut paths) = (Vec::new(), String::new());
        let indexed = conditions.iter().map(|(path, name, own)| {
            values.extend_from_slice(own);
            paths.push_str(name);
            IndexedCondition::new(*path, values.len(), paths.len())
        });
        let filter = IndexedFilter {
            fingerprint,
            text_bytes,
            conditions: indexed.collect(),
            values: values.into(),
            paths: paths.into(),
            _waiting: Waiting::of(filter_memory_max(text_bytes as usize)),
        };
        let filter_id = FilterId(u32_key(self.filters.insert(filter)));
        if self.names.has_outgrown_sketch() {
            let filters = self.filters.iter();
            let paths = filters.flat_map(|(_, filter)| filter.paths());
            self.names.sketch_again(paths);
        }
        for tag in self.tags(filter_id) {
            self.postings
                .insert_unique(spread(tag), Posting { tag, filter_id }, Posting::hash);
        }
        let filters = &self.filters;
        self.by_fingerprint
            .insert_unique(fingerprint[0], filter_id, |id| {
                filters[id.0 as usize].fingerprint[0]
            });
        filter_id
    }

    /// Removes a filter and all entries that only this filter needed; returns how many values it
    /// named.
    ///
    /// # Panics
    /// When there is none at the index.
    pub fn remove(&mut self, filter_id: FilterId) -> usize {
        for tag in self.tags(filter_id) {
            let is_it = |posting: &Posting| posting.tag == tag && posting.filter_id == filter_id;
            if let Ok(posting) = self.postings.find_entry(spread(tag), is_it) {
                posting.remove();
            }
        }
        let filter = self.filters.remove(filter_id.0 as usize);
        let fingerprint = filter.fingerprint[0];
        if let Ok(entry) = self
            .by_fingerprint
            .find_entry(fingerprint, |id| *id == filter_id)
        {
            entry.remove();
        }
        for path in filter.paths() {
            self.names.remove(path);
        }
        // Tables keep the memory of their largest size.
        if self.is_empty() {
            *self = Self::default();
        }
        if is_mostly_empty(self.postings.len(), self.postings.capacity()) {
            self.postings.shrink_to_fit(Posting::hash);
        }
        if is_mostly_empty(self.by_fingerprint.len(), self.by_fingerprint.capacity()) {
            let filters = &self.filters;
            self.by_fingerprint
                .shrink_to_fit(|id| filters[id.0 as usize].fingerprint[0]);
        }
        filter.values.len()
    }

    /// Whether there is no filter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Appends each filter that matches the publication, in no particular order; returns the number
    /// of candidates, for the counter `filter_evaluations`.
    ///
    /// No filter is a candidate twice: it is posted under different values of one path, and the
    /// publication has one value there.
    pub fn matches(
        &mut self,
        root: &Object<'_>,
        reader: &mut JsonReader,
        matched: &mut Vec<FilterId>,
    ) -> u64 {
        let found = self.names.find(*root).into_iter().filter_map(|found| {
            let value = FilterValue::read(found.value, self.has_compounds, reader)?;
            Some((found.path, self.hash_value(found.path, &value)))
        });
        let found: Vec<_> = found.collect();
        let values = HashMap::from_iter(found.iter().copied());
        let mut evaluations = 0;
        for (path, value) in &found {
            let tag = tag_of(*value);
            let candidates = self.postings.iter_hash(spread(tag));
            for posting in candidates.filter(|posting| posting.tag == tag) {
                evaluations += 1;
                let filter = &self.filters[posting.filter_id.0 as usize];
                let is_posted_here = filter.conditions[0].path() == *path;
                if is_posted_here && filter.is_met_by(&values) {
                    matched.push(posting.filter_id);
                }
            }
        }
        evaluations
    }

    fn fingerprint(&self, filter: &Filter) -> [u64; 2] {
        let text = filter.canonical();
        [
            self.hasher.hash_one((0_u8, text)),
            self.hasher.hash_one((1_u8, text)),
        ]
    }

    fn find_fingerprint(&self, fingerprint: [u64; 2]) -> Option<FilterId> {
        let is_it = |id: &FilterId| self.filters[id.0 as usize].fingerprint == fingerprint;
        self.by_fingerprint.find(fingerprint[0], is_it).copied()
    }

    fn hash_value(&self, path: NameHash, value: &FilterValue<'_>) -> ValueHash {
        self.hasher.hash_one((path, value))
    }

    /// The cost of posting under a condition: the most candidates that one publication can have,
    /// and the number of alternatives.
    fn cost(&self, values: &[ValueHash]) -> (usize, usize) {
        let lists = values.iter().map(|value| {
            let tag = tag_of(*value);
            let posted = self.postings.iter_hash(spread(tag));
            let posted = posted.filter(|posting| posting.tag == tag);
            posted.take(POSTINGS_COUNTED_MAX).count()
        });
        (lists.max().unwrap_or(0), values.len())
    }

    /// The tags under which a filter is posted, each once.
    fn tags(&self, filter_id: FilterId) -> Vec<u32> {
        let filter = &self.filters[filter_id.0 as usize];
        let posted = filter.conditions.first();
        let posted_end = posted.map_or(0, |posted| usize::from(posted.values_end));
        let mut tags: Vec<_> = filter.values[..posted_end]
            .iter()
            .map(|value| tag_of(*value))
            .collect();
        tags.sort_unstable();
        tags.dedup();
        tags
    }

    /// Sizes of the tables: filters by text, filters, postings, and names.
    #[cfg(test)]
    pub(super) fn counts(&self) -> ([usize; 3], [usize; 2]) {
        let own = [
            self.by_fingerprint.len(),
            self.filters.len(),
            self.postings.len(),
        ];
        (own, self.names.counts())
    }
}

impl IndexedFilter {
    /// The path of each condition.
    fn paths(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.conditions.iter().map(move |condition| {
            let end = usize::from(condition.path_end);
            &self.paths[std::mem::replace(&mut start, end)..end]
        })
    }

    /// Whether a publication has, for each condition, one of its values.
    fn is_met_by(&self, publication: &HashMap<NameHash, ValueHash>) -> bool {
        let mut start = 0;
        self.conditions.iter().all(|condition| {
            let end = usize::from(condition.values_end);
            let values = &self.values[start..end];
            start = end;
            let value = publication.get(&condition.path());
            value.is_some_and(|value| values.binary_search(value).is_ok())
        })
    }
}

impl IndexedCondition {
    #[expect(clippy::cast_possible_truncation, reason = "both halves are kept")]
    fn new(path: NameHash, values_end: usize, path_end: usize) -> Self {
        let end = |end| u16::try_from(end).expect("a filter has at most 16 KiB of text");
        Self {
            path: [path as u32, (path >> 32) as u32],
            values_end: end(values_end),
            path_end: end(path_end),
        }
    }

    fn path(&self) -> NameHash {
        u64::from(self.path[0]) | u64::from(self.path[1]) << 32
    }
}

impl Posting {
    fn hash(&self) -> u64 {
        spread(self.tag)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a tag is a part of the hash"
)]
fn tag_of(value: ValueHash) -> u32 {
    value as u32
}

/// The hash of a tag: multiplied, so that its bits are in the upper ones too, which the table
/// compares first.
fn spread(tag: u32) -> u64 {
    u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Document;

    fn filter(text: &str) -> Filter {
        let filter = Filter::parse(text, &mut JsonReader::default());
        filter.unwrap().unwrap()
    }

    fn matches(index: &mut FilterIndex, publication: &str) -> (Vec<FilterId>, u64) {
        let mut reader = JsonReader::default();
        let document = Document::new(publication);
        let mut matched = Vec::new();
        let object = document.object().unwrap();
        let evaluations = index.matches(&object, &mut reader, &mut matched);
        (matched, evaluations)
    }

    fn check_match(filter_text: &str, publication: &str, expected: bool) {
        let mut index = FilterIndex::default();
        let filter_id = index.insert(filter(filter_text));
        let (matched, _) = matches(&mut index, publication);
        let expected = Vec::from_iter(expected.then_some(filter_id));
        assert_eq!(matched, expected, "{filter_text} on {publication}");
    }

    /// 1, written with more digits than are compared.
    const LONG_ONE: &str =
        "1.00000000000000000000000000000000000000000000000000000000000000000000000000000";

    #[test]
    fn values_are_compared_as_json() {
        for (filter, value, expected) in [
            ("1", "1", true),
            ("1", "1.0", true),
            ("1.0", "1", true),
            ("0", "-0.0", true),
            ("1", "\"1\"", false),
            ("\"1\"", "1", false),
            ("1", "true", false),
            ("0", "false", false),
            ("0", "null", false),
            ("\"\"", "null", false),
            ("null", "null", true),
            ("true", "true", true),
            ("true", "false", false),
            ("9007199254740993", "9007199254740993", true),
            ("9007199254740993", "9007199254740992", false),
            ("9007199254740992", "9007199254740992.0", true),
            ("18446744073709551615", "18446744073709551615", true),
            ("18446744073709551615", "1.8446744073709552e19", false),
            ("0.1", "1e-1", true),
            ("\"x\"", "\"\\u0078\"", true),
            ("\"x\"", "\"X\"", false),
            ("\"x.*\"", "\"xy\"", false),
            ("\"[]\"", "[]", false),
            (r#"{"a":1,"b":[2]}"#, r#"{"b":[2.0],"a":1}"#, true),
            (r#"{"a":1}"#, r#"{"a":1,"b":2}"#, false),
            (r#"{"a":1}"#, r#"{"a":2,"a":1}"#, true),
            ("{}", "{}", true),
            ("{}", "[]", false),
            (r#""\n\u0061""#, r#""\u000aa""#, true),
            ("1", "1e400", false),
            ("1", LONG_ONE, false),
        ] {
            let publication = format!(r#"{{"v":{value}}}"#);
            check_match(&format!(r#"{{"v":{filter}}}"#), &publication, expected);
            check_match(&format!(r#"{{"v":[{filter}]}}"#), &publication, expected);
        }
    }

    #[test]
    fn arrays_mean_any_of_their_elements() {
        for (filter, value, expected) in [
            (r#"["x","y"]"#, r#""x""#, true),
            (r#"["x","y"]"#, r#""y""#, true),
            (r#"["x","y"]"#, r#""z""#, false),
            (r#"["x","y"]"#, r#"["x","y"]"#, false),
            (r#"[["x","y"]]"#, r#"["x","y"]"#, true),
            (r#"[["x","y"]]"#, r#"["y","x"]"#, false),
            (r#"["x",null,{"a":1}]"#, "null", true),
            (r#"["x",null,{"a":1}]"#, r#"{"a":1}"#, true),
            ("[[]]", "[]", true),
            ("[]", "[]", false),
            ("[]", "null", false),
            ("1", "[1]", false),
        ] {
            let publication = format!(r#"{{"v":{value}}}"#);
            check_match(&format!(r#"{{"v":{filter}}}"#), &publication, expected);
        }
    }

    #[test]
    fn paths_are_literal_first_and_then_split_at_the_first_dot() {
        for (filter, publication, expected) in [
            (r#"{"a.b":1}"#, r#"{"a":{"b":1}}"#, true),
            (r#"{"a.b":1}"#, r#"{"a.b":1}"#, true),
            (r#"{"a.b":1}"#, r#"{"a.b":2,"a":{"b":1}}"#, false),
            (r#"{"a.b":1}"#, r#"{"a":{"b":1},"a.b":2}"#, false),
            (r#"{"a.b":1}"#, r#"{"a":{"b":2},"a.b":1}"#, true),
            (r#"{"a.b.c":1}"#, r#"{"a":{"b":{"c":1}}}"#, true),
            (r#"{"a.b.c":1}"#, r#"{"a":{"b.c":1}}"#, true),
            (r#"{"a.b.c":1}"#, r#"{"a":{"b.c":2,"b":{"c":1}}}"#, false),
            (r#"{"a.b.c":1}"#, r#"{"a.b":{"c":1}}"#, false),
            (r#"{"a.b":1}"#, r#"{"a":1}"#, false),
            (r#"{"a.b":1}"#, r#"{"a":[{"b":1}]}"#, false),
            (r#"{"a.0":1}"#, r#"{"a":[1]}"#, false),
            (r#"{"a.b":null}"#, r#"{"a":{}}"#, false),
            (r#"{"a":null}"#, "{}", false),
            (r#"{"a":{"b":1}}"#, r#"{"a":{"b":1}}"#, true),
            (r#"{"":1}"#, r#"{"":1}"#, true),
            (r#"{"a":1}"#, r#"{"\u0061":1}"#, true),
            (r#"{".":1}"#, r#"{"":{"":1}}"#, true),
            (r#"{"a.":1}"#, r#"{"a":{"":1}}"#, true),
            (r#"{"a..b":1}"#, r#"{"a":{"":{"b":1}}}"#, true),
            (r#"{"a..b":1}"#, r#"{"a":{".b":1}}"#, true),
            (r#"{"a.b":1}"#, r#"{"a":{"b":1},"a":{"c":1}}"#, false),
            (r#"{"a.b":1}"#, r#"{"a":{"b":2,"b":1}}"#, true),
            (r#"{"a.b":1}"#, r#"{"a":{"b":1},"a":0}"#, false),
            (r#"{"a.b":1}"#, r#"{"a":0,"a":{"b":1}}"#, true),
        ] {
            check_match(filter, publication, expected);
        }
    }

    #[test]
    fn all_keys_must_match() {
        for (publication, expected) in [
            (r#"{"type":"login","user":{"id":"u1","age":3}}"#, true),
            (r#"{"user":{"id":"u2"},"type":"login"}"#, true),
            (r#"{"type":"login","user":{"id":"u3"}}"#, false),
            (r#"{"type":"logout","user":{"id":"u1"}}"#, false),
            (r#"{"type":"login"}"#, false),
            ("{}", false),
        ] {
            let filter = r#"{"type":"login","user.id":["u1","u2"]}"#;
            check_match(filter, publication, expected);
        }
    }

    #[test]
    fn what_an_earlier_publication_had_is_forgotten() {
        let mut index = FilterIndex::default();
        let filter_id = index.insert(filter(r#"{"a":1,"b.c":2}"#));
        for (publication, expected) in [
            (r#"{"a":1,"b":{"c":2}}"#, vec![filter_id]),
            (r#"{"a":1}"#, vec![]),
            (r#"{"b":{"c":2}}"#, vec![]),
            (r#"{"b":{"c":2},"a":1}"#, vec![filter_id]),
        ] {
            let (matched, _) = matches(&mut index, publication);
            assert_eq!(matched, expected, "{publication}");
        }
    }

    #[test]
    fn few_candidates_are_looked_at() {
        type Text = fn(u32) -> String;
        let filters: [(Text, u64); 4] = [
            (|index| format!(r#"{{"id":{index}}}"#), 1),
            // The first filter is posted under the key that all share.
            (|index| format!(r#"{{"all":0,"id":{index}}}"#), 2),
            (
                |index| format!(r#"{{"id":[{index},-{index}],"all":[0,1]}}"#),
                2,
            ),
            (|index| format!(r#"{{"p{index}":0}}"#), 1),
        ];
        for (text, evaluations_max) in filters {
            let mut index = FilterIndex::default();
            let filters: Vec<_> = (0..1_000)
                .map(|number| index.insert(filter(&text(number))))
                .collect();
            let publication = r#"{"all":0,"id":500,"p500":0,"other":{"id":7}}"#;
            let (matched, evaluations) = matches(&mut index, publication);
            assert_eq!(matched, [filters[500]]);
            assert!(evaluations <= evaluations_max, "{}", text(0));
        }
    }

    #[test]
    fn a_group_is_found_by_meaning_until_it_is_removed() {
        let mut index = FilterIndex::default();
        let filter_id = index.insert(filter(r#"{"b":[2,1],"a":"x"}"#));
        let same = filter(r#"{"a":["x","x"],"b":[1.0,2]}"#);
        assert_eq!(index.find(&same), Some(filter_id));
        assert_eq!(index.find(&filter(r#"{"a":"x"}"#)), None);
        let other = index.insert(filter(r#"{"a":"x"}"#));
        index.remove(filter_id);
        assert_eq!(index.find(&same), None);
        assert!(!index.is_empty());
        assert_eq!(index.insert(same), filter_id, "positions are reused");
        index.remove(filter_id);
        index.remove(other);
        assert!(index.is_empty());
    }

    #[test]
    fn filters_that_match_nothing_are_one_group() {
        let mut index = FilterIndex::default();
        let filter_id = index.insert(filter(r#"{"a":[]}"#));
        assert_eq!(index.find(&filter(r#"{"b":[],"a":1}"#)), Some(filter_id));
        assert_eq!(matches(&mut index, r#"{"":[],"a":1}"#), (vec![], 0));
        index.remove(filter_id);
        assert!(index.is_empty());
    }
}
