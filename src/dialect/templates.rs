//! Templates of messages that several dialects write.

use crate::json::write_text;

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

/// Whether the object in `data` has a `type` that is text, and so is a complete message.
pub(super) fn is_message(data: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        _kind: String,
    }
    // Called once per publication and variant, so the cost of parsing again is small.
    data.starts_with('{') && data.contains("type") && serde_json::from_str::<Typed>(data).is_ok()
}
