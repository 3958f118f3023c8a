//! Values as filters compare them: equal values have equal keys and equal canonical texts.

use crate::base::limits::FILTER_BYTES_MAX;
use crate::json::{Entries, JsonReader, Value, ValueRef, write_text};
use std::borrow::Cow;
use std::io::Write;

/// A scalar other than a string; two are equal if and only if their JSON values are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Plain {
    Null,
    Bool(bool),
    /// An integer below 2^64 in magnitude, in any spelling.
    Integer(i128),
    /// The bits of any other number.
    Float(u64),
}

/// A value that a filter names, or that a publication has at a path of a filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum FilterValue<'a> {
    Plain(Plain),
    Text(Cow<'a, str>),
    /// The canonical text of an object or an array.
    Compound(Box<str>),
}

impl FilterValue<'static> {
    pub(super) fn of(value: ValueRef<'_>) -> Self {
        match (value, Plain::of(value)) {
            (_, Some(plain)) => Self::Plain(plain),
            (ValueRef::Text(text), _) => Self::Text(text.to_owned().into()),
            _ => Self::Compound(canonical(value).into()),
        }
    }
}

impl<'a> FilterValue<'a> {
    pub(super) fn is_compound(&self) -> bool {
        matches!(self, Self::Compound(_))
    }

    /// The value of a publication; `None` when it is larger than a value of a filter may be, or an
    /// array or an object while no filter names one.
    pub(super) fn read(
        value: Value<'a>,
        has_compounds: bool,
        reader: &mut JsonReader,
    ) -> Option<Self> {
        // An escape has at most six bytes for each byte of text.
        if value.raw().len() > 6 * FILTER_BYTES_MAX
            || (value.raw().starts_with(['{', '[']) && !has_compounds)
        {
            return None;
        }
        if let Some(text) = value.string() {
            return Some(Self::Text(text));
        }
        // Most numbers are integers, which need no converter.
        if let Ok(number) = value.raw().parse::<i64>() {
            return Some(Self::Plain(Plain::Integer(i128::from(number))));
        }
        Some(FilterValue::of(reader.convert(value.raw())?.value()))
    }
}

impl Plain {
    /// `None` for strings, arrays and objects.
    pub(super) fn of(value: ValueRef<'_>) -> Option<Self> {
        match value {
            ValueRef::Null => Some(Self::Null),
            ValueRef::Bool(value) => Some(Self::Bool(value)),
            ValueRef::Integer(number) => Some(Self::Integer(number)),
            ValueRef::Float(number) => Some(Self::number(number)),
            ValueRef::Text(_) | ValueRef::Array(_) | ValueRef::Object(_) => None,
        }
    }

    /// Numbers from 2^64 on are always parsed as doubles, so only integers below that need a common
    /// form.
    fn number(number: f64) -> Self {
        const WHOLE_END: f64 = 18_446_744_073_709_551_616.0;
        if number.fract() == 0.0 && number.abs() < WHOLE_END {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the number is whole and within the range of i128"
            )]
            return Self::Integer(number as i128);
        }
        Self::Float(number.to_bits())
    }
}

/// JSON text that is equal for equal values and different for others.
pub(super) fn canonical(value: ValueRef<'_>) -> String {
    let mut output = Vec::new();
    write_value(&mut output, value);
    String::from_utf8(output).expect("JSON made of UTF-8 strings is UTF-8")
}

/// The recursion is bounded by the depth that the parser accepts, `JSON_DEPTH_MAX`.
fn write_value(output: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Text(text) => write_text(output, text),
        ValueRef::Array(elements) => {
            output.push(b'[');
            for (index, element) in elements.enumerate() {
                write_comma(output, index);
                write_value(output, element);
            }
            output.push(b']');
        }
        ValueRef::Object(members) => {
            output.push(b'{');
            for (index, (name, value)) in sorted(members).into_iter().enumerate() {
                write_comma(output, index);
                write_text(output, name);
                output.push(b':');
                write_value(output, value);
            }
            output.push(b'}');
        }
        ValueRef::Null | ValueRef::Bool(_) | ValueRef::Integer(_) | ValueRef::Float(_) => {
            let written = match Plain::of(value) {
                Some(Plain::Bool(value)) => write!(output, "{value}"),
                Some(Plain::Integer(number)) => write!(output, "{number}"),
                // The shortest digits that give the same double again.
                Some(Plain::Float(bits)) => write!(output, "{:e}", f64::from_bits(bits)),
                Some(Plain::Null) | None => write!(output, "null"),
            };
            written.expect("writing to memory does not fail");
        }
    }
}

/// Members sorted by name; of repeated names the last one.
fn sorted(members: Entries<'_>) -> Vec<(&str, ValueRef<'_>)> {
    let mut members: Vec<_> = members.collect();
    // Reversed, then stably sorted: the last member of a name becomes the first, which dedup keeps.
    members.reverse();
    members.sort_by_key(|(name, _)| *name);
    members.dedup_by_key(|(name, _)| *name);
    members
}

/// Writes a comma before all elements but the first.
pub(super) fn write_comma(output: &mut Vec<u8>, index: usize) {
    if index > 0 {
        output.push(b',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_canonical(json: &str, expected: &str) {
        let mut reader = JsonReader::default();
        let converted = reader.convert(json).unwrap();
        assert_eq!(canonical(converted.value()), expected, "{json}");
    }

    #[test]
    fn equal_values_have_one_text() {
        for (json, expected) in [
            ("null", "null"),
            ("true", "true"),
            ("1", "1"),
            ("1.0", "1"),
            ("10e-1", "1"),
            ("0.1e1", "1"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0.10", "1e-1"),
            ("1e-1", "1e-1"),
            ("9007199254740993", "9007199254740993"),
            ("9007199254740993.0", "9007199254740992"),
            ("18446744073709551615", "18446744073709551615"),
            ("18446744073709551616", "1.8446744073709552e19"),
            ("1.8446744073709552e19", "1.8446744073709552e19"),
            ("-9223372036854775808.0", "-9223372036854775808"),
            ("1e300", "1e300"),
            (r#""1""#, r#""1""#),
            (r#""\u0061\/\u0001""#, r#""a/\u0001""#),
            ("[ ]", "[]"),
            ("[2,1.0,[\"x\"]]", "[2,1,[\"x\"]]"),
            (
                r#"{"b":1,"a":{"d":1,"c":2}}"#,
                r#"{"a":{"c":2,"d":1},"b":1}"#,
            ),
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#),
            ("{}", "{}"),
        ] {
            check_canonical(json, expected);
        }
    }

    #[test]
    fn the_deepest_value_is_written() {
        let deep = format!("{}{}", "[".repeat(62), "]".repeat(62));
        check_canonical(&deep, &deep);
    }
}
