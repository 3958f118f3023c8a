//! Values converted by simd-json into a flat tape, and read without recursion.
//!
//! A tape takes some thirty times the memory of a dense text, and a number of many digits takes
//! microseconds. So only values that are compared are converted, and none that is large.

use super::scan;
use crate::base::limits::{FILTER_BYTES_MAX, FILTER_NUMBER_BYTES_MAX, JSON_DEPTH_MAX};
use simd_json::{Buffers, Node, StaticNode, Tape};

/// Converts values; keeps its memory for the next one.
pub struct JsonReader {
    copy: Vec<u8>,
    buffers: Buffers,
}

impl Default for JsonReader {
    fn default() -> Self {
        Self {
            copy: Vec::new(),
            buffers: Buffers::with_max_depth(256, JSON_DEPTH_MAX as usize + 1),
        }
    }
}

impl std::fmt::Debug for JsonReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JsonReader")
    }
}

/// A converted value.
#[derive(Debug)]
pub struct Converted<'a>(Tape<'a>);

/// A value by its type.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without fraction and exponent that fits an `i64` or a `u64`.
    Integer(i128),
    /// Any other number: the nearest double, which is always finite.
    Float(f64),
    /// A string, unescaped.
    Text(&'a str),
    /// The elements of an array.
    Array(Elements<'a>),
    /// The members of an object.
    Object(Entries<'a>),
}

/// Iterates over the elements of an array.
#[derive(Clone, Copy, Debug)]
pub struct Elements<'a>(&'a [Node<'a>]);

/// Iterates over the members of an object in their original order; a name may be repeated.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a>(&'a [Node<'a>]);

impl JsonReader {
    /// Converts the JSON of one value; `None` when it has more than [`FILTER_BYTES_MAX`] bytes, a
    /// number of more than [`FILTER_NUMBER_BYTES_MAX`] bytes or beyond the range of a double, or is
    /// not JSON.
    pub fn convert<'a>(&'a mut self, json: &str) -> Option<Converted<'a>> {
        let bytes = json.as_bytes();
        if bytes.len() > FILTER_BYTES_MAX || scan::has_longer_number(bytes, FILTER_NUMBER_BYTES_MAX)
        {
            return None;
        }
        // The parser overwrites strings with their unescaped form.
        self.copy.clear();
        self.copy.extend_from_slice(bytes);
        let tape = simd_json::to_tape_with_buffers(&mut self.copy, &mut self.buffers);
        tape.ok().map(Converted)
    }
}

impl Converted<'_> {
    /// What the value is.
    #[must_use]
    pub fn value(&self) -> ValueRef<'_> {
        ValueRef::of(&self.0.0).unwrap_or(ValueRef::Null)
    }
}

impl<'a> ValueRef<'a> {
    /// The value with these nodes; `None` for an empty slice, which no value has.
    fn of(nodes: &'a [Node<'a>]) -> Option<Self> {
        let (first, inner) = nodes.split_first()?;
        Some(match first {
            Node::String(text) => ValueRef::Text(text),
            Node::Object { .. } => ValueRef::Object(Entries(inner)),
            Node::Array { .. } => ValueRef::Array(Elements(inner)),
            Node::Static(StaticNode::Null) => ValueRef::Null,
            Node::Static(StaticNode::Bool(value)) => ValueRef::Bool(*value),
            Node::Static(StaticNode::I64(number)) => ValueRef::Integer(i128::from(*number)),
            Node::Static(StaticNode::U64(number)) => ValueRef::Integer(i128::from(*number)),
            Node::Static(StaticNode::F64(number)) => ValueRef::Float(*number),
        })
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = ValueRef<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (value, rest) = self.0.split_at_checked(value_nodes(self.0.first()?))?;
        self.0 = rest;
        ValueRef::of(value)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, ValueRef<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (Node::String(name), after) = self.0.split_first()? else {
            return None;
        };
        let mut values = Elements(after);
        let value = values.next()?;
        self.0 = values.0;
        Some((name, value))
    }
}

/// The number of nodes of a value on the tape.
fn value_nodes(node: &Node<'_>) -> usize {
    match node {
        Node::Object { count, .. } | Node::Array { count, .. } => 1 + count,
        Node::String(_) | Node::Static(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes values as `Debug` does, so that integers and floats differ.
    fn show(value: ValueRef<'_>) -> String {
        match value {
            ValueRef::Null => "null".to_owned(),
            ValueRef::Bool(value) => value.to_string(),
            ValueRef::Integer(number) => number.to_string(),
            ValueRef::Float(number) => format!("{number:?}"),
            ValueRef::Text(text) => format!("{text:?}"),
            ValueRef::Array(elements) => format!("{:?}", elements.map(show).collect::<Vec<_>>()),
            ValueRef::Object(members) => {
                let members = members.map(|(name, value)| (name, show(value)));
                format!("{:?}", members.collect::<Vec<_>>())
            }
        }
    }

    #[test]
    fn values_of_every_type_are_converted() {
        for (json, expected) in [
            ("null", "null"),
            ("true", "true"),
            ("false", "false"),
            ("0", "0"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("18446744073709551615", "18446744073709551615"),
            ("18446744073709551616", "1.8446744073709552e19"),
            ("1.0", "1.0"),
            ("25e-1", "2.5"),
            (r#""\u0061\n""#, r#""a\n""#),
            ("[]", "[]"),
            ("[1,[2,{}],3]", r#"["1", "[\"2\", \"[]\"]", "3"]"#),
            (
                r#"{"a":1,"b":[2],"a":true}"#,
                r#"[("a", "1"), ("b", "[\"2\"]"), ("a", "true")]"#,
            ),
        ] {
            let mut reader = JsonReader::default();
            let converted = reader.convert(json).unwrap();
            assert_eq!(show(converted.value()), expected, "{json}");
        }
    }

    #[test]
    fn what_is_large_is_not_converted() {
        let mut reader = JsonReader::default();
        let mut check = |json: &str, expected| {
            assert_eq!(reader.convert(json).is_some(), expected, "{json:.80}");
        };
        let digits = |count| format!("[1.{}]", "1".repeat(count));
        check(&digits(FILTER_NUMBER_BYTES_MAX - 2), true);
        check(&digits(FILTER_NUMBER_BYTES_MAX - 1), false);
        let text = "1".repeat(FILTER_NUMBER_BYTES_MAX + 1);
        check(&format!("\"{text}\""), true);
        check(&format!("{}1", " ".repeat(FILTER_BYTES_MAX - 1)), true);
        check(&format!("{}1", " ".repeat(FILTER_BYTES_MAX)), false);
        check("1e999", false);
        check("-1e999", false);
    }
}
