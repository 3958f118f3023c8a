//! Templates of messages that several dialects write.

use crate::json::{Document, write_text};

/// Appends `{"type":T,NAME:VALUE}`.
pub(super) fn flat(output: &mut Vec<u8>, kind: &str, name: &str, value: &str) {
    start(output, kind);
    output.push(b',');
    pair(output, name, value);
    output.push(b'}');
}

/// Appends `{"type":T,"data":{NAME:VALUE}}`.
pub(super) fn nested(output: &mut Vec<u8>, kind: &str, name: &str, value: &str) {
    start(output, kind);
    output.extend_from_slice(b",\"data\":{");
    pair(output, name, value);
    output.extend_from_slice(b"}}");
}

/// Appends `{"type":T`.
pub(super) fn start(output: &mut Vec<u8>, kind: &str) {
    output.extend_from_slice(b"{\"type\":");
    write_text(output, kind);
}

/// Appends `{"type":T,"data":D`; `data` is JSON.
pub(super) fn start_with_data(output: &mut Vec<u8>, kind: &str, data: &str) {
    start(output, kind);
    output.extend_from_slice(b",\"data\":");
    output.extend_from_slice(data.as_bytes());
}

fn pair(output: &mut Vec<u8>, name: &str, value: &str) {
    output.push(b'"');
    output.extend_from_slice(name.as_bytes());
    output.extend_from_slice(b"\":");
    write_text(output, value);
}

/// What the field `type` of some data says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnType {
    /// An object whose `type` is text, and which so is a complete message.
    Message,
    /// An object without a `type`, to which one can be added.
    Missing,
    /// Any other data: no object, or one whose `type` is not a text, or not the only one.
    Unusable,
}

impl OwnType {
    /// That of `data`, which is JSON.
    pub(super) fn of(data: &str) -> Self {
        let document = Document::new(data);
        let Ok(object) = document.object() else {
            return Self::Unusable;
        };
        let members = object.members();
        let mut types = members.filter(|(name, _)| name.is("type"));
        match (types.next(), types.next()) {
            (None, _) => Self::Missing,
            (Some((_, kind)), None) if kind.raw().starts_with('"') => Self::Message,
            _ => Self::Unusable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_text_is_a_type() {
        for (data, expected) in [
            (r#"{"n":1,"type":"A"}"#, OwnType::Message),
            (r#"{"ty\u0070e":"A"}"#, OwnType::Message),
            ("{}", OwnType::Missing),
            (r#"{"a":"type"}"#, OwnType::Missing),
            (r#"{"a":{"type":7}}"#, OwnType::Missing),
            (r#"{"type":7}"#, OwnType::Unusable),
            (r#"{"type":null}"#, OwnType::Unusable),
            (r#"{"ty\u0070e":7}"#, OwnType::Unusable),
            (r#"{"type":"A","type":"B"}"#, OwnType::Unusable),
            (r#""type""#, OwnType::Unusable),
        ] {
            assert_eq!(OwnType::of(data), expected, "{data}");
        }
    }
}
