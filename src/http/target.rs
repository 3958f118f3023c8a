//! The request target: path, and parameters of the query (RFC 3986 3.4, percent-encoding 2.1).

use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// A request target, split into its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Everything before `?`.
    pub path: &'a str,
    query: &'a str,
}

impl<'a> Target<'a> {
    /// Splits an origin-form or absolute-form target (RFC 9112 3.2.1, 3.2.2).
    #[must_use]
    pub fn parse(target: &'a str) -> Self {
        let (authority, target) = split(target);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        // RFC 3986 6.2.3: with an authority, no path is the path `/`.
        let is_root = authority.is_some() && path.is_empty();
        let path = if is_root { "/" } else { path };
        Self { path, query }
    }

    /// The first value of parameter `name`, decoded; `None` also when it is not valid UTF-8.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<Cow<'a, str>> {
        let mut pairs = self.query.split('&');
        let value = pairs.find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (key == name).then_some(value)
        })?;
        form_decode(value)
    }
}

/// The host and port of a target in absolute form.
#[must_use]
pub fn authority(target: &str) -> Option<&str> {
    split(target).0
}

/// Authority, if the target is in absolute form, and the rest.
fn split(target: &str) -> (Option<&str>, &str) {
    if target.starts_with('/') {
        return (None, target);
    }
    match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
            let authority_bytes = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(authority_bytes);
            (Some(authority), rest)
        }
        _ => (None, target),
    }
}

/// Decodes the percent-encoded bytes of a path segment (RFC 3986 2.1); a `+` is kept. `None` when a
/// `%` is not followed by two hexadecimal digits, or the result is not valid UTF-8.
#[must_use]
pub fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    // The crate leaves a malformed `%` as it is.
    let is_valid = text.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().first_chunk::<2>();
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if !is_valid {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok()
}

/// The same for a value of a query, where a `+` means a space, as in HTML forms.
fn form_decode(value: &str) -> Option<Cow<'_, str>> {
    if !value.contains('+') {
        return percent_decode(value);
    }
    let decoded = percent_decode(&value.replace('+', " "))?.into_owned();
    Some(Cow::Owned(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, path: &str, token: Option<&str>) {
        let parsed = Target::parse(target);
        assert_eq!(parsed.path, path);
        assert_eq!(parsed.parameter("token").as_deref(), token, "{target}");
    }

    #[test]
    fn parameters_are_found_and_decoded() {
        check("/ws", "/ws", None);
        check("/ws?token=a.b-c_d", "/ws", Some("a.b-c_d"));
        check("/ws?x=1&token=a%2Eb+c&token=2", "/ws", Some("a.b c"));
        check("/ws?token=", "/ws", Some(""));
        check("/ws?token=%zz", "/ws", None);
        check("/ws?token=%ff", "/ws", None);
        check("/ws?token=%4", "/ws", None);
        check("/ws?token=%", "/ws", None);
        check("/ws?token=%%41", "/ws", None);
        check("/ws?token=%+1", "/ws", None);
        check("/ws?token=%2b+%2B", "/ws", Some("+ +"));
        check("/ws?token=%E2%82%AC", "/ws", Some("\u{20ac}"));
        check("http://h:80/ws?token=a", "/ws", Some("a"));
        check("http://h?token=/a", "/", Some("/a"));
        check("http://h", "/", None);
        check("/ws?token=http://x/y", "/ws", Some("http://x/y"));
    }
    #[test]
    fn a_plus_in_a_path_is_a_plus() {
        for (segment, expected) in [
            ("t1", Some("t1")),
            ("a+b", Some("a+b")),
            ("a%2Bb%20c", Some("a+b c")),
            ("a+%C3%A9", Some("a+\u{e9}")),
            ("%", None),
            ("a%2", None),
            ("%g0", None),
            ("%ff", None),
        ] {
            assert_eq!(percent_decode(segment).as_deref(), expected, "{segment}");
        }
    }
}
