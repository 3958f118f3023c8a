//! Messages that carry their fields beside `type`, as two dialects write them.

use crate::json::write_text;

/// Appends `{"type":T,NAME:VALUE}`.
pub(super) fn message(output: &mut Vec<u8>, kind: &str, name: &str, value: &str) {
    output.extend_from_slice(b"{\"type\":\"");
    output.extend_from_slice(kind.as_bytes());
    output.extend_from_slice(b"\",\"");
    output.extend_from_slice(name.as_bytes());
    output.extend_from_slice(b"\":");
    write_text(output, value);
    output.push(b'}');
}

/// Whether the object in `data` has a `type` that is text: then it is a message of its own.
pub(super) fn is_message(data: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        _kind: String,
    }
    // Once per publication and variant, so a second parser's pass costs little.
    data.starts_with('{') && data.contains("type") && serde_json::from_str::<Typed>(data).is_ok()
}
