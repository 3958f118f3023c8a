//! JSON of clients: checked once, then read where it lies.
//!
//! A [`Document`] is a text; an [`Object`] or a [`Value`] is a part of it. Reading a field passes
//! over the members of its object without converting them, so a message costs time in proportion to
//! its bytes whatever is in it, and no memory. [`check`] decides whether the whole text is JSON; of
//! a text that was not checked, fields can be read all the same, but may be any part of it.
//!
//! Only what is compared is converted: by [`JsonReader`], for filters.

mod convert;
mod scan;

pub use convert::{Converted, Elements, Entries, JsonReader, ValueRef};
pub use scan::check;

use crate::base::limits::FILTER_PATH_BYTES_MAX;
use std::borrow::Cow;
use std::cell::OnceCell;

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

/// A text, and the strings of it that had to be unescaped to be read.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    unescaped: Unescaped,
}

/// An object of a document.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// From its opening brace to its closing one.
    json: &'a str,
    unescaped: &'a Unescaped,
}

/// A value of a document.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    json: &'a str,
    unescaped: &'a Unescaped,
}

/// The name of a member, as it was written between the quotes.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a>(&'a str);

/// Iterates over the members of an object in their original order; a name may be repeated.
#[derive(Clone, Copy, Debug)]
pub struct Members<'a>(Walk<'a>);

/// Reads the members of an object, and of the objects in it that it is told to enter, in one pass
/// over the text.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    object: Object<'a>,
    /// The start of a value after its name was read, else the end of one.
    at: usize,
}

/// A list that grows while its entries are borrowed. It is as long as the number of strings with
/// escapes that a message's decoder reads, which are a few.
#[derive(Debug, Default)]
struct Unescaped(OnceCell<Box<(String, Unescaped)>>);

impl Unescaped {
    fn push(&self, text: String) -> &str {
        let mut end = self;
        while let Some(entry) = end.0.get() {
            end = &entry.1;
        }
        &end.0.get_or_init(|| Box::new((text, Self::default()))).0
    }
}

impl<'a> Document<'a> {
    /// A document with this text, which need not be JSON.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self {
            text: text.trim_matches([' ', '\t', '\r', '\n']),
            unescaped: Unescaped::default(),
        }
    }

    /// The document as an object.
    ///
    /// # Errors
    /// [`JsonError::Invalid`] when it is none.
    pub fn object(&'a self) -> Result<Object<'a>, JsonError> {
        let value = Value {
            json: self.text,
            unescaped: &self.unescaped,
        };
        value.object().ok_or(JsonError::Invalid)
    }
}

impl<'a> Object<'a> {
    /// All members, in the order of the text.
    #[must_use]
    pub fn members(&self) -> Members<'a> {
        Members(self.walk())
    }

    /// The same, where objects can be entered.
    #[must_use]
    pub fn walk(&self) -> Walk<'a> {
        Walk {
            object: *self,
            at: 1,
        }
    }

    /// The values of the fields of these names, in one pass over the object; of repeated fields the
    /// last one, as in most parsers.
    #[must_use]
    pub fn fields<const COUNT: usize>(&self, names: [&str; COUNT]) -> [Option<Value<'a>>; COUNT] {
        let mut found = [None; COUNT];
        for (name, value) in self.members() {
            if let Some(index) = names.iter().position(|wanted| name.is(wanted)) {
                found[index] = Some(value);
            }
        }
        found
    }

    /// The value of the field of this name; of repeated fields the last one.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Value<'a>> {
        let [found] = self.fields([name]);
        found
    }

    /// The JSON of the object, as the client wrote it.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.json
    }

    /// The string in the field of this name.
    ///
    /// # Errors
    /// [`JsonError::MissingField`] or, when it is not a string, [`JsonError::InvalidField`].
    pub fn text(&self, name: &'static str) -> Result<&'a str, JsonError> {
        required_text(self.field(name), name)
    }

    /// The object in the field of this name.
    ///
    /// # Errors
    /// [`JsonError::MissingField`] or, when it is not an object, [`JsonError::InvalidField`].
    pub fn object(&self, name: &'static str) -> Result<Object<'a>, JsonError> {
        required_object(self.field(name), name)
    }
}

/// The string that the field `name` must hold.
///
/// # Errors
/// [`JsonError::MissingField`] or, when it is not a string, [`JsonError::InvalidField`].
pub fn required_text<'a>(
    value: Option<Value<'a>>,
    name: &'static str,
) -> Result<&'a str, JsonError> {
    let value = value.ok_or(JsonError::MissingField(name))?;
    value.text().ok_or(JsonError::InvalidField(name))
}

/// The object that the field `name` must hold.
///
/// # Errors
/// [`JsonError::MissingField`] or, when it is not an object, [`JsonError::InvalidField`].
pub fn required_object<'a>(
    value: Option<Value<'a>>,
    name: &'static str,
) -> Result<Object<'a>, JsonError> {
    let value = value.ok_or(JsonError::MissingField(name))?;
    value.object().ok_or(JsonError::InvalidField(name))
}

impl<'a> Value<'a> {
    /// The string, unescaped, if the value is one.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        Some(match self.string()? {
            Cow::Borrowed(text) => text,
            Cow::Owned(text) => self.unescaped.push(text),
        })
    }

    /// The same, without keeping an unescaped string in the document.
    #[must_use]
    pub fn string(&self) -> Option<Cow<'a, str>> {
        unescape(self.json.strip_prefix('"')?.strip_suffix('"')?)
    }

    /// Whether the value is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.json == "null"
    }

    /// The members, if the value is an object.
    #[must_use]
    pub fn object(&self) -> Option<Object<'a>> {
        let is_object = self.json.starts_with('{');
        is_object.then_some(Object {
            json: self.json,
            unescaped: self.unescaped,
        })
    }

    /// The JSON of the value, as the client wrote it.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.json
    }
}

impl<'a> Name<'a> {
    /// Whether the name, unescaped, is `text`.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        self.0 == text
            // An escape has at most six bytes for each byte of text.
            || (self.0.len() > text.len()
                && self.0.len() <= 6 * text.len()
                && unescape(self.0).as_deref() == Some(text))
    }

    /// Appends the name, unescaped, to `output`. False when it is not valid, or so long that no
    /// filter's path has it.
    pub fn append_to(&self, output: &mut String) -> bool {
        // An escape has at most six bytes for each byte of text.
        self.0.len() <= 6 * FILTER_PATH_BYTES_MAX && append_unescaped(output, self.0).is_some()
    }

    /// The name if it has no escapes, and so is what was written.
    #[must_use]
    pub fn without_escapes(&self) -> Option<&'a str> {
        (!scan::has_escape(self.0.as_bytes())).then_some(self.0)
    }
}

impl<'a> Walk<'a> {
    /// The name of the next member of the object; `None` at its end, from where the walk goes on in
    /// the object around it. [`skip`](Self::skip) or [`enter`](Self::enter) the value first.
    #[inline]
    pub fn next_name(&mut self) -> Option<Name<'a>> {
        let bytes = self.object.json.as_bytes();
        let mut at = scan::skip_space(bytes, self.at);
        if bytes.get(at) == Some(&b',') {
            at = scan::skip_space(bytes, at + 1);
        }
        self.at = at + 1;
        if bytes.get(at) != Some(&b'"') {
            return None;
        }
        let end = scan::skip_string(bytes, at + 1);
        let name = self.object.json.get(at + 1..end - 1)?;
        let colon = scan::skip_space(bytes, end);
        self.at = scan::skip_space(bytes, colon + 1);
        Some(Name(name))
    }

    /// Passes over the value of the name read last.
    #[inline]
    pub fn skip(&mut self) -> Option<Value<'a>> {
        let start = self.at;
        self.at = scan::skip_value(self.object.json.as_bytes(), start);
        self.since(start)
    }

    /// Enters the value of the name read last; false if it is not an object.
    pub fn enter(&mut self) -> bool {
        let is_object = self.object.json.as_bytes().get(self.at) == Some(&b'{');
        self.at += usize::from(is_object);
        is_object
    }

    /// Bytes of the object before what is read next.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// The value between a position and this one.
    #[must_use]
    pub fn since(&self, start: usize) -> Option<Value<'a>> {
        Some(Value {
            json: self.object.json.get(start..self.at)?,
            unescaped: self.object.unescaped,
        })
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (Name<'a>, Value<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let name = self.0.next_name()?;
        Some((name, self.0.skip()?))
    }
}

/// The text of a string without its quotes; `None` when an escape is not valid.
fn unescape(string: &str) -> Option<Cow<'_, str>> {
    if !scan::has_escape(string.as_bytes()) {
        return Some(Cow::Borrowed(string));
    }
    let mut text = String::with_capacity(string.len());
    append_unescaped(&mut text, string)?;
    Some(Cow::Owned(text))
}

/// Appends the text of a string without its quotes; `None` when an escape is not valid.
fn append_unescaped(output: &mut String, string: &str) -> Option<()> {
    let bytes = string.as_bytes();
    let mut at = 0;
    loop {
        let escape = scan::find_escape(bytes, at);
        output.push_str(string.get(at..escape)?);
        if escape == bytes.len() {
            return Some(());
        }
        let (character, end) = scan::read_escape(bytes, escape)?;
        output.push(character);
        at = end;
    }
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
    use crate::base::limits::JSON_DEPTH_MAX;

    #[test]
    fn times_are_written_in_utc_with_milliseconds() {
        let mut output = Vec::new();
        write_iso_time(&mut output, 1_704_067_200_007);
        assert_eq!(output, b"\"2024-01-01T00:00:00.007Z\"");
    }

    fn check_raw(text: &str, path: &[&'static str], expected: Option<&str>) {
        assert_eq!(check(text), Ok(()), "{text}");
        let document = Document::new(text);
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
        let long = "1".repeat(10_000);
        check_raw(&format!(r#"{{"a":{long}}}"#), &["a"], Some(&long));
        check_raw(r#"{"a":-1e400}"#, &["a"], Some("-1e400"));
    }

    #[test]
    fn strings_are_unescaped_when_they_are_read() {
        let text = r#"{"a\u0062":"\ud83d\ude00 \"\\\/\b\f\n\r\t","c":"plain","d":"\ud83d"}"#;
        let document = Document::new(text);
        let object = document.object().unwrap();
        assert_eq!(object.text("ab"), Ok("😀 \"\\/\u{8}\u{c}\n\r\t"));
        assert_eq!(object.text("c"), Ok("plain"));
        assert_eq!(object.text("d"), Err(JsonError::InvalidField("d")));
        assert_eq!(object.text("e"), Err(JsonError::MissingField("e")));
    }

    #[test]
    fn several_fields_are_found_in_one_pass() {
        let document = Document::new(r#"{"a":1,"b":2,"a":3,"":4}"#);
        let found = document.object().unwrap().fields(["", "a", "c"]);
        let found = found.map(|value| value.map(|value| value.raw()));
        assert_eq!(found, [Some("4"), Some("3"), None]);
    }

    #[test]
    fn nothing_but_objects_is_a_message() {
        for text in [
            "", " ", "[]", "1", "\"x\"", "null", "{", "{\"a\":}", "{} x", "{'a':1}", "{,}",
            "{\"a\"}",
        ] {
            let document = Document::new(text);
            let object = document.object();
            let result = check(text).and_then(|()| object.map(|_| ()));
            assert_eq!(result, Err(JsonError::Invalid), "{text}");
        }
    }

    #[test]
    fn depth_is_limited_without_recursion() {
        let nested = |depth: usize| {
            let depth = depth - 1;
            format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth))
        };
        let depth_max = JSON_DEPTH_MAX as usize;
        assert_eq!(check(&nested(depth_max)), Ok(()));
        assert_eq!(check(&nested(depth_max + 1)), Err(JsonError::TooDeep));
        assert_eq!(check(&nested(1_000_000)), Err(JsonError::TooDeep));
        let open = format!("{{\"a\":{}", "[".repeat(1_000_000));
        let document = Document::new(&open);
        assert!(document.object().unwrap().field("a").is_some());
    }

    /// Pieces of which valid and invalid texts are made.
    const PIECES: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\"a\"",
        "\"a\":",
        "\\",
        "\\n",
        "\\u00",
        "\\u0041",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\ud83dx\"",
        "\\x",
        "0",
        "1",
        "-",
        "+",
        ".",
        "e",
        "E",
        "00",
        "1.5",
        "-0",
        "0.",
        "1e5",
        "1E+2",
        "1e-2",
        "1e",
        "true",
        "tru",
        "false",
        "null",
        "nul",
        " ",
        "\t",
        "\n",
        "\r",
        "\u{c}",
        "\u{1}",
        "é",
        "0123456789abcdef",
    ];

    #[test]
    fn what_is_json_is_what_the_parser_takes() {
        let mut valid = 0;
        for seed in 0..200_000_u64 {
            let mut state = seed;
            let mut next = |count: usize| {
                // Knuth's multiplier of MMIX.
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                usize::try_from(state >> 33).unwrap() % count
            };
            let count = 1 + next(7);
            let inner: String = (0..count).map(|_| PIECES[next(PIECES.len())]).collect();
            let text = match next(4) {
                0 => inner,
                1 => format!("[{inner}]"),
                2 => format!("{{\"a\":{inner}}}"),
                _ => format!("\"{inner}\""),
            };
            let mut reader = JsonReader::default();
            let expected = reader.convert(&text).is_some();
            // `check` does not look at the size of numbers.
            let other = serde_json::from_str::<serde_json::Value>(&text).err();
            if other.is_some_and(|error| error.to_string().contains("out of range")) {
                continue;
            }
            assert_eq!(check(&text).is_ok(), expected, "seed {seed}: {text:?}");
            valid += usize::from(expected);
            // Reading must end without a panic, whatever the text.
            if let Ok(object) = Document::new(&text).object() {
                for (name, value) in object.members() {
                    let _ = (name.is("a"), value.string(), value.object());
                }
            }
        }
        assert!(valid > 10_000, "{valid} valid texts");
    }
}
