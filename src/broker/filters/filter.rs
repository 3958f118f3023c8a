//! A client's filter, in canonical form.

use super::value::{FilterValue, canonical, write_comma};
use crate::base::limits::{
    FILTER_ALTERNATIVES_MAX, FILTER_BYTES_MAX, FILTER_KEYS_MAX, FILTER_MEMORY_BYTES,
    FILTER_MEMORY_PER_TEXT_BYTE, FILTER_PATH_BYTES_MAX, FILTER_PATH_PARTS_MAX,
};
use crate::json::{JsonReader, ValueRef, write_text};
use std::collections::BTreeMap;

/// The canonical text of every filter that no publication can match.
const NOTHING: &str = r#"{"":[]}"#;

/// A filter in canonical form: filters of the same meaning have the same canonical text.
#[derive(Clone, Debug)]
pub struct Filter {
    canonical: Box<str>,
    text_bytes: u32,
    /// In order of their paths, each once. Empty if the filter matches nothing.
    conditions: Vec<Condition>,
}

/// One key of a filter, with the values that match.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) path: Box<str>,
    /// At least one, all different.
    pub(super) alternatives: Vec<FilterValue<'static>>,
}

/// The alternatives of each path, by their canonical texts.
type Keys<'a> = BTreeMap<&'a str, BTreeMap<String, FilterValue<'static>>>;

/// Why a filter is rejected; the client's error. The limits are in `base::limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// Not an object, or a number in it is longer than `FILTER_NUMBER_BYTES_MAX` or too large for a
    /// double.
    Invalid,
    /// More bytes of JSON than a filter may have.
    TooLong,
    /// More keys than a filter may have, counting repeated ones.
    TooManyKeys,
    /// More alternatives than a key may have, counting repeated ones.
    TooManyAlternatives,
    /// A path has too many bytes.
    PathTooLong,
    /// A path has too many parts.
    PathTooDeep,
    /// It would take more memory than its length allows: short paths of many parts.
    TooCostly,
}

impl Filter {
    /// Parses the JSON of a filter; `None` if it has no keys and so matches everything.
    ///
    /// # Errors
    /// A [`FilterError`] when it is not an object, or larger than a filter may be.
    pub fn parse(json: &str, reader: &mut JsonReader) -> Result<Option<Self>, FilterError> {
        if json.len() > FILTER_BYTES_MAX {
            return Err(FilterError::TooLong);
        }
        let converted = reader.convert(json).ok_or(FilterError::Invalid)?;
        let ValueRef::Object(members) = converted.value() else {
            return Err(FilterError::Invalid);
        };
        let mut keys = BTreeMap::new();
        for (index, (path, value)) in members.enumerate() {
            if index == FILTER_KEYS_MAX {
                return Err(FilterError::TooManyKeys);
            }
            check_path(path)?;
            // Of repeated keys the last one counts.
            keys.insert(path, alternatives(value)?);
        }
        if keys.is_empty() {
            return Ok(None);
        }
        if memory_bytes(&keys) > filter_memory_max(json.len()) {
            return Err(FilterError::TooCostly);
        }
        let text_bytes = u32::try_from(json.len()).map_err(|_| FilterError::TooLong)?;
        if keys.values().any(BTreeMap::is_empty) {
            return Ok(Some(Self {
                canonical: NOTHING.into(),
                text_bytes,
                conditions: Vec::new(),
            }));
        }
        Ok(Some(Self {
            canonical: write_canonical(&keys).into(),
            text_bytes,
            conditions: keys.into_iter().map(Condition::new).collect(),
        }))
    }

    /// A JSON text that is equal for filters of the same meaning and different for all others.
    /// Parsed as a filter, it gives the same filter again.
    #[must_use]
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// Bytes of JSON that the client sent.
    #[must_use]
    pub fn text_bytes(&self) -> u32 {
        self.text_bytes
    }

    pub(super) fn into_conditions(self) -> Vec<Condition> {
        self.conditions
    }
}

impl Condition {
    fn new((path, alternatives): (&str, BTreeMap<String, FilterValue<'static>>)) -> Self {
        Self {
            path: path.into(),
            alternatives: alternatives.into_values().collect(),
        }
    }
}

/// The most memory that a filter of so many bytes of JSON may take, bytes.
pub(super) const fn filter_memory_max(text_bytes: usize) -> usize {
    FILTER_MEMORY_BYTES + FILTER_MEMORY_PER_TEXT_BYTE * text_bytes
}

/// The most memory that a filter takes in an index, bytes: its own, and its share of tables whose
/// size has just doubled.
fn memory_bytes(keys: &Keys<'_>) -> usize {
    let conditions = keys.iter().map(|(path, alternatives)| {
        let names = 1 + path.matches('.').count();
        12 + 30 * names + path.len() + 8 * alternatives.len()
    });
    let posted = keys.values().map(BTreeMap::len).max().unwrap_or(0);
    250 + conditions.sum::<usize>() + 41 * posted / 2
}

fn check_path(path: &str) -> Result<(), FilterError> {
    if path.len() > FILTER_PATH_BYTES_MAX {
        return Err(FilterError::PathTooLong);
    }
    if path.split('.').count() > FILTER_PATH_PARTS_MAX {
        return Err(FilterError::PathTooDeep);
    }
    Ok(())
}

/// The values that match at a path, by canonical text: sorted and each once.
fn alternatives(
    value: ValueRef<'_>,
) -> Result<BTreeMap<String, FilterValue<'static>>, FilterError> {
    let keyed = |value| (canonical(value), FilterValue::of(value));
    let ValueRef::Array(elements) = value else {
        return Ok(BTreeMap::from([keyed(value)]));
    };
    // Counted before they are converted, so that a rejection costs little.
    if elements.count() > FILTER_ALTERNATIVES_MAX {
        return Err(FilterError::TooManyAlternatives);
    }
    Ok(elements.map(keyed).collect())
}

fn write_canonical(keys: &Keys<'_>) -> String {
    let mut output = vec![b'{'];
    for (index, (path, alternatives)) in keys.iter().enumerate() {
        write_comma(&mut output, index);
        write_text(&mut output, path);
        output.extend_from_slice(b":[");
        for (index, text) in alternatives.keys().enumerate() {
            write_comma(&mut output, index);
            output.extend_from_slice(text.as_bytes());
        }
        output.push(b']');
    }
    output.push(b'}');
    String::from_utf8(output).expect("JSON made of UTF-8 strings is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Filter>, FilterError> {
        Filter::parse(text, &mut JsonReader::default())
    }

    fn check_canonical(text: &str, expected: &str) {
        let filter = parse(text).unwrap().unwrap();
        assert_eq!(filter.canonical(), expected, "{text}");
        let again = parse(expected).unwrap().unwrap();
        assert_eq!(again.canonical(), expected, "{text}");
    }

    #[test]
    fn filters_of_the_same_meaning_have_one_text() {
        for (text, expected) in [
            (r#"{"a":1}"#, r#"{"a":[1]}"#),
            (r#"{"a":[1.0,1]}"#, r#"{"a":[1]}"#),
            (r#"{"b":true,"a":"x"}"#, r#"{"a":["x"],"b":[true]}"#),
            (r#"{"a":["y","x","y"]}"#, r#"{"a":["x","y"]}"#),
            (r#"{"a":["1",1]}"#, r#"{"a":["1",1]}"#),
            (r#"{"a":[[2,1],[2,1.0]]}"#, r#"{"a":[[2,1]]}"#),
            (r#"{"a":{"y":1,"x":2}}"#, r#"{"a":[{"x":2,"y":1}]}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":[2]}"#),
            (r#"{"a":[],"a":2}"#, r#"{"a":[2]}"#),
            (r#"{"\u0061.b":null}"#, r#"{"a.b":[null]}"#),
            (r#"{"":0}"#, r#"{"":[0]}"#),
            (r#"{"a":[]}"#, NOTHING),
            (r#"{"a":1,"b":[]}"#, NOTHING),
        ] {
            check_canonical(text, expected);
        }
    }

    #[test]
    fn no_keys_are_no_filter() {
        assert!(parse("{}").unwrap().is_none());
    }

    #[test]
    fn limits_are_kept() {
        let object = |count: usize| {
            let members: Vec<_> = (0..count).map(|index| format!("\"{index}\":1")).collect();
            format!("{{{}}}", members.join(","))
        };
        let array = |count: usize| format!("{{\"a\":[{}]}}", vec!["1"; count].join(","));
        let long = |bytes: usize| format!("{{\"{}\":1}}", "a".repeat(bytes));
        let heavy = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
        let deep = |parts: usize| format!("{{\"{}\":1}}", vec!["a"; parts].join("."));
        for (text, expected) in [
            (object(FILTER_KEYS_MAX), None),
            (object(FILTER_KEYS_MAX + 1), Some(FilterError::TooManyKeys)),
            (array(FILTER_ALTERNATIVES_MAX), None),
            (
                array(FILTER_ALTERNATIVES_MAX + 1),
                Some(FilterError::TooManyAlternatives),
            ),
            (r#"{"a":1e400}"#.to_owned(), Some(FilterError::Invalid)),
            (heavy(FILTER_BYTES_MAX), None),
            (heavy(FILTER_BYTES_MAX + 1), Some(FilterError::TooLong)),
            (long(FILTER_PATH_BYTES_MAX), None),
            (
                long(FILTER_PATH_BYTES_MAX + 1),
                Some(FilterError::PathTooLong),
            ),
            (deep(FILTER_PATH_PARTS_MAX), None),
            (
                deep(FILTER_PATH_PARTS_MAX + 1),
                Some(FilterError::PathTooDeep),
            ),
        ] {
            assert_eq!(parse(&text).err(), expected, "{} bytes", text.len());
        }
    }
}
