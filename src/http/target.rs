//! The request target: path, and parameters of the query (RFC 3986 3.4, percent-encoding 2.1).

use std::borrow::Cow;

/// A request target taken apart.
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
        let target = match target.split_once("://") {
            Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
                let authority_bytes = rest.find('/').unwrap_or(rest.len());
                &rest[authority_bytes..]
            }
            _ => target,
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
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
        percent_decode(value)
    }
}

/// `text` with its percent-encoded bytes decoded (RFC 3986 2.1); `None` when it is not valid UTF-8.
#[must_use]
pub fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
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
        check("http://h:80/ws?token=a", "/ws", Some("a"));
        check("/ws?token=http://x/y", "/ws", Some("http://x/y"));
    }
}
