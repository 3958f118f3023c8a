//! JSON of clients, parsed by simd-json into a flat tape and read without recursion.
//!
//! The parser overwrites strings with their unescaped form, so it works on a copy; the original
//! text is unchanged, and the data of a publication is a part of it.

use crate::base::limits::JSON_DEPTH_MAX;
use simd_json::{Buffers, ErrorType, Node, StaticNode, Tape};

/// Why a text is invalid, or has no field of the expected type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON, or not an object.
    Invalid,
    /// Nested deeper than the limit.
    TooDeep,
    /// A field is missing; its name.
    MissingField(&'static str),
    /// A field has another type; its name.
    InvalidField(&'static str),
}

/// Longest path into a message, levels.
const PATH_MAX: usize = 4;

/// The reusable memory of a parser.
pub struct JsonReader {
    copy: Vec<u8>,
    buffers: Buffers,
}

impl Default for JsonReader {
    fn default() -> Self {
        Self {
            copy: Vec::new(),
            buffers: Buffers::with_max_depth(4096, JSON_DEPTH_MAX as usize),
        }
    }
}

impl std::fmt::Debug for JsonReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JsonReader")
    }
}

/// A parsed message.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    tape: Tape<'a>,
}

/// An object of a document.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    text: &'a str,
    nodes: &'a [Node<'a>],
    path: Path,
}

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    text: &'a str,
    nodes: &'a [Node<'a>],
    path: Path,
}

/// A value by its type, for readers that accept any type. It exists at every depth, but has no
/// access to the original text.
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
    Object(Members<'a>),
}

/// Iterates over the elements of an array.
#[derive(Clone, Copy, Debug)]
pub struct Elements<'a>(&'a [Node<'a>]);

/// Iterates over the members of an object in their original order; a name may be repeated.
#[derive(Clone, Copy, Debug)]
pub struct Members<'a>(&'a [Node<'a>]);

/// The path to a value: the index of the member at each level.
#[derive(Clone, Copy, Debug, Default)]
struct Path {
    members: [u32; PATH_MAX],
    depth: usize,
}

impl JsonReader {
    /// Parses `text`.
    ///
    /// # Errors
    /// [`JsonError::Invalid`] or [`JsonError::TooDeep`].
    pub fn parse<'a>(&'a mut self, text: &'a str) -> Result<Document<'a>, JsonError> {
        self.copy.clear();
        self.copy.extend_from_slice(text.as_bytes());
        let tape = simd_json::to_tape_with_buffers(&mut self.copy, &mut self.buffers);
        let tape = tape.map_err(|error| match error.error() {
            ErrorType::DepthLimitExceeded => JsonError::TooDeep,
            _ => JsonError::Invalid,
        })?;
        Ok(Document { text, tape })
    }
}

impl<'a> Document<'a> {
    /// The document as an object.
    ///
    /// # Errors
    /// [`JsonError::Invalid`] when it is an array or a scalar.
    pub fn object(&'a self) -> Result<Object<'a>, JsonError> {
        let value = Value {
            text: self.text,
            nodes: &self.tape.0,
            path: Path::default(),
        };
        value.object().ok_or(JsonError::Invalid)
    }
}

impl<'a> Object<'a> {
    /// All members, in the order of the text.
    #[must_use]
    pub fn members(&self) -> Members<'a> {
        Members(self.nodes)
    }

    /// The value of the field of this name; of repeated fields the last one, as in most parsers.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Value<'a>> {
        let mut found = None;
        let mut at = 0;
        let mut member = 0;
        while let Some(Node::String(key)) = self.nodes.get(at) {
            let length = value_nodes(self.nodes.get(at + 1)?);
            if *key == name {
                found = Some((member, at + 1, length));
            }
            at += 1 + length;
            member += 1;
        }
        let (member, at, length) = found?;
        Some(Value {
            text: self.text,
            nodes: self.nodes.get(at..at + length)?,
            path: self.path.with(member)?,
        })
    }

    /// The JSON of the object, as the client wrote it.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.path.raw(self.text)
    }

    /// The string in the field of this name.
    ///
    /// # Errors
    /// [`JsonError::MissingField`] or, when it is not a string, [`JsonError::InvalidField`].
    pub fn text(&self, name: &'static str) -> Result<&'a str, JsonError> {
        let value = self.field(name).ok_or(JsonError::MissingField(name))?;
        value.text().ok_or(JsonError::InvalidField(name))
    }

    /// The object in the field of this name.
    ///
    /// # Errors
    /// [`JsonError::MissingField`] or, when it is not an object, [`JsonError::InvalidField`].
    pub fn object(&self, name: &'static str) -> Result<Object<'a>, JsonError> {
        let value = self.field(name).ok_or(JsonError::MissingField(name))?;
        value.object().ok_or(JsonError::InvalidField(name))
    }
}

impl<'a> Value<'a> {
    /// The unescaped string, if the value is one.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        match self.nodes.first() {
            Some(Node::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether the value is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self.nodes.first(), Some(Node::Static(StaticNode::Null)))
    }

    /// The members, if the value is an object.
    #[must_use]
    pub fn object(&self) -> Option<Object<'a>> {
        match self.nodes.first() {
            Some(Node::Object { .. }) => Some(Object {
                text: self.text,
                nodes: self.nodes.get(1..)?,
                path: self.path,
            }),
            _ => None,
        }
    }

    /// What the value is.
    #[must_use]
    pub fn value(&self) -> ValueRef<'a> {
        ValueRef::of(self.nodes).unwrap_or(ValueRef::Null)
    }

    /// The JSON of the value, as the client wrote it.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.path.raw(self.text)
    }
}

impl<'a> ValueRef<'a> {
    /// The value with these nodes; `None` for an empty slice, which no value has.
    fn of(nodes: &'a [Node<'a>]) -> Option<Self> {
        let (first, inner) = nodes.split_first()?;
        Some(match first {
            Node::String(text) => ValueRef::Text(text),
            Node::Object { .. } => ValueRef::Object(Members(inner)),
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

impl<'a> Iterator for Members<'a> {
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

impl Path {
    /// The JSON at this path of `text`.
    fn raw(self, text: &str) -> &str {
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        let span = self.members[..self.depth]
            .iter()
            .try_fold(text, |outer, member| member_value(outer, *member));
        span.unwrap_or("null")
    }

    fn with(mut self, member: u32) -> Option<Self> {
        *self.members.get_mut(self.depth)? = member;
        self.depth += 1;
        Some(self)
    }
}

/// The number of nodes of a value on the tape.
fn value_nodes(node: &Node<'_>) -> usize {
    match node {
        Node::Object { count, .. } | Node::Array { count, .. } => 1 + count,
        Node::String(_) | Node::Static(_) => 1,
    }
}

/// The text of the value of the `member`-th field of the object in `json`, which must be valid
/// JSON.
fn member_value(json: &str, member: u32) -> Option<&str> {
    let bytes = json.as_bytes();
    let mut at = skip_space(bytes, 0);
    for index in 0..=member {
        // Skips the brace or the comma, the key and the colon.
        at = skip_value(bytes, skip_space(bytes, at + 1));
        at = skip_space(bytes, skip_space(bytes, at) + 1);
        let end = skip_value(bytes, at);
        if index == member {
            return json.get(at..end);
        }
        at = skip_space(bytes, end);
    }
    None
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        at += 1;
    }
    at
}

/// The end of the value at `at`: a string, a bracketed value, or a word up to what can follow it.
fn skip_value(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0_u32;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = skip_string(bytes, at + 1),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            b'}' | b']' | b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => return at,
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

/// The position after the quote that ends the string whose content begins at `at`.
fn skip_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

/// Appends `text` as a JSON string.
pub fn write_text(output: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(output, text).expect("writing to memory does not fail");
}

/// Appends a time in ISO 8601 form, with milliseconds and `Z`, in quotes.
pub fn write_iso_time(output: &mut Vec<u8>, unix_ms: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_ms);
    let text = humantime::format_rfc3339_millis(time);
    output.extend_from_slice(format!("\"{text}\"").as_bytes());
}

/// Appends a time in seconds with three decimals, as Python clients expect it.
pub fn write_seconds(output: &mut Vec<u8>, milliseconds: u64) {
    let (seconds, rest) = (milliseconds / 1_000, milliseconds % 1_000);
    output.extend_from_slice(format!("{seconds}.{rest:03}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_milliseconds() {
        let mut output = Vec::new();
        write_iso_time(&mut output, 1_704_067_200_007);
        assert_eq!(output, b"\"2024-01-01T00:00:00.007Z\"");
    }

    fn check_raw(text: &str, path: &[&'static str], expected: Option<&str>) {
        let mut reader = JsonReader::default();
        let document = reader.parse(text).unwrap();
        let mut object = document.object().unwrap();
        let (last, outer) = path.split_last().unwrap();
        for name in outer {
            object = object.object(name).unwrap();
        }
        let raw = object.field(last).map(|value| value.raw());
        assert_eq!(raw, expected, "{text}");
    }

    #[test]
    fn data_is_cut_out_as_it_was_written() {
        check_raw(r#"{"a":1.10,"b":2}"#, &["a"], Some("1.10"));
        check_raw(
            r#" { "x" : [1, {"a":"}"}] , "a" : { "b" : 1e3 } } "#,
            &["a", "b"],
            Some("1e3"),
        );
        check_raw(r#"{"q\"{":"\\","a":"\"},{"}"#, &["a"], Some(r#""\"},{""#));
        check_raw(
            r#"{"\u0061":12345678901234567,"b":[]}"#,
            &["a"],
            Some("12345678901234567"),
        );
        check_raw(r#"{"a":[[],[ ]] ,"b":null}"#, &["a"], Some("[[],[ ]]"));
        check_raw(r#"{"a":1,"a":{"c":true}}"#, &["a"], Some(r#"{"c":true}"#));
        check_raw(r#"{"b":false}"#, &["a"], None);
        check_raw("{}", &["a"], None);
        check_raw(
            r#"{"a":123456789012345678901234}"#,
            &["a"],
            Some("123456789012345678901234"),
        );
    }

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
    fn shapes_tell_every_kind_of_value() {
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
            let text = format!(r#"{{"before":{{"x":[0]}},"v":{json},"after":1}}"#);
            let document = reader.parse(&text).unwrap();
            let object = document.object().unwrap();
            assert_eq!(show(object.field("v").unwrap().value()), expected, "{json}");
            let members = object.members().map(|(name, value)| (name, show(value)));
            let members: Vec<_> = members.collect();
            assert_eq!(members[1], ("v", expected.to_owned()), "{json}");
            assert_eq!(members[2], ("after", "1".to_owned()), "{json}");
            assert_eq!(members.len(), 3);
        }
    }

    #[test]
    fn numbers_without_end_are_invalid() {
        let mut reader = JsonReader::default();
        for number in ["1e999", "-1e999", "NaN", "Infinity"] {
            let text = format!(r#"{{"a":{number}}}"#);
            assert!(reader.parse(&text).is_err(), "{number}");
        }
    }

    #[test]
    fn nothing_but_objects_is_a_message() {
        let mut reader = JsonReader::default();
        for text in [
            "", " ", "[]", "1", "\"x\"", "null", "{", "{\"a\":}", "{} x", "{'a':1}",
        ] {
            let error = match reader.parse(text) {
                Ok(document) => document.object().map(|_| ()).unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(error, JsonError::Invalid, "{text}");
        }
    }

    #[test]
    fn depth_is_limited_without_recursion() {
        let mut reader = JsonReader::default();
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(reader.parse(&nested(JSON_DEPTH_MAX as usize - 2)).is_ok());
        let error =
            |text: &str, reader: &mut JsonReader| reader.parse(text).map(|_| ()).unwrap_err();
        assert_eq!(error(&nested(1_000_000), &mut reader), JsonError::TooDeep);
        assert!(
            reader.parse("{}").is_ok(),
            "the reader is usable after an error"
        );
    }
}
