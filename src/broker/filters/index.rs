//! The filters of one channel, found by the paths and values of a publication.

use super::filter::Filter;
use super::term_index::{InternedCondition, Positions, Posting, TermIndex, ValueIndex};
use super::u32_key;
use crate::json::{JsonReader, Object};
use slab::Slab;
use std::collections::HashMap;
use std::sync::Arc;

/// Index of a filter in this table; reused after removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(u32);

/// The distinct filters of a channel.
#[derive(Debug, Default)]
pub struct FilterIndex {
    by_text: HashMap<Arc<str>, FilterId>,
    filters: Slab<IndexedFilter>,
    term_index: TermIndex,
    /// Known values of the current publication; kept to reuse its memory.
    found: Vec<ValueIndex>,
}

/// A filter, shared by all subscribers that have it.
#[derive(Debug)]
struct IndexedFilter {
    canonical: Arc<str>,
    /// The filter is posted under the first condition only. Empty if the filter matches nothing.
    conditions: Vec<InternedCondition>,
    positions: Positions,
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
        self.by_text.get(filter.canonical()).copied()
    }

    /// Adds a filter.
    ///
    /// # Panics
    /// When one of the same meaning is present: call [`find`](Self::find) first.
    pub fn insert(&mut self, filter: Filter) -> FilterId {
        assert!(self.find(&filter).is_none(), "a filter is inserted once");
        let (canonical, conditions) = filter.into_parts();
        let canonical: Arc<str> = canonical.into();
        let conditions = conditions.into_iter();
        let mut conditions: Vec<_> = conditions
            .map(|condition| self.term_index.intern(condition))
            .collect();
        let costs = conditions
            .iter()
            .map(|interned| self.term_index.cost(interned));
        let cheapest = costs.enumerate().min_by_key(|(_, cost)| *cost);
        if let Some((cheapest, _)) = cheapest {
            conditions.swap(0, cheapest);
        }
        let filter_id = FilterId(u32_key(self.filters.insert(IndexedFilter {
            canonical: canonical.clone(),
            conditions,
            positions: Positions::default(),
        })));
        let entry = &mut self.filters[filter_id.0 as usize];
        if let Some(posted) = entry.conditions.first() {
            entry.positions = self.term_index.post(posted, filter_id);
        }
        self.by_text.insert(canonical, filter_id);
        filter_id
    }

    /// Removes a filter and all entries that only this filter needed; returns how many values it
    /// named.
    ///
    /// # Panics
    /// When there is none at the index.
    pub fn remove(&mut self, filter_id: FilterId) -> usize {
        let IndexedFilter {
            canonical,
            conditions,
            positions,
        } = self.filters.remove(filter_id.0 as usize);
        self.by_text.remove(&canonical);
        if let Some(posted) = conditions.first() {
            // A list has each filter once, so the posting that moved never belongs to the removed
            // filter.
            let filters = &mut self.filters;
            let moved = |posting: Posting, position| {
                filters[posting.filter_id.0 as usize]
                    .positions
                    .set(posting, position);
            };
            self.term_index.unpost(posted, filter_id, &positions, moved);
        }
        let mut values = 0;
        for condition in &conditions {
            values += self.term_index.release(condition);
        }
        if self.is_empty() {
            // Tables keep the memory of their largest size; an empty index releases it.
            *self = Self::default();
        }
        values
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
        self.found.clear();
        self.term_index
            .read(root.members(), reader, &mut self.found);
        let mut evaluations = 0;
        for value in &self.found {
            let candidates = self.term_index.posted(*value);
            evaluations += candidates.len() as u64;
            let candidates = candidates.iter().map(|posting| posting.filter_id);
            matched.extend(candidates.filter(|filter_id| {
                let mut others = self.filters[filter_id.0 as usize].conditions.iter().skip(1);
                others.all(|other| self.term_index.satisfies(other))
            }));
        }
        evaluations
    }

    /// Sizes of the tables: filters by text, filters, and those of the term index.
    #[cfg(test)]
    pub(super) fn counts(&self) -> ([usize; 2], [usize; 5]) {
        let own = [self.by_text.len(), self.filters.len()];
        (own, self.term_index.counts())
    }
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
