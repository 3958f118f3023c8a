//! The grammar of JSON, byte by byte: checks a text, and finds the end of a value. Nothing is
//! converted and nothing is allocated, so the cost depends on the count of bytes only.

use super::JsonError;
use crate::base::limits::JSON_DEPTH_MAX;

/// A bit for each level says whether it is an object.
const _: () = assert!(JSON_DEPTH_MAX <= u64::BITS);

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Added to a depth that may become smaller than zero.
const DEPTH_BIAS: u8 = 0x10;

/// Checks that a text is one JSON value (RFC 8259), nested at most [`JSON_DEPTH_MAX`] levels deep.
/// Numbers may have any length and size.
///
/// # Errors
/// [`JsonError::Invalid`] or [`JsonError::TooDeep`].
pub fn check(text: &str) -> Result<(), JsonError> {
    let bytes = text.as_bytes();
    let mut at = skip_space(bytes, 0);
    let (mut depth, mut objects) = (0_u32, 0_u64);
    loop {
        let first = bytes.get(at).ok_or(JsonError::Invalid)?;
        at = match first {
            b'{' | b'[' => {
                if depth == JSON_DEPTH_MAX {
                    return Err(JsonError::TooDeep);
                }
                let is_object = *first == b'{';
                depth += 1;
                objects = objects << 1 | u64::from(is_object);
                let inner = skip_space(bytes, at + 1);
                match (bytes.get(inner), is_object) {
                    // Closed below, like a bracket after other values.
                    (Some(b'}'), true) | (Some(b']'), false) => inner,
                    (_, true) => {
                        at = check_name(bytes, inner)?;
                        continue;
                    }
                    (_, false) => {
                        at = inner;
                        continue;
                    }
                }
            }
            b'"' => check_string(bytes, at + 1)?,
            b't' => check_word(bytes, at, b"true")?,
            b'f' => check_word(bytes, at, b"false")?,
            b'n' => check_word(bytes, at, b"null")?,
            _ => check_number(bytes, at)?,
        };
        // A value has ended, and possibly the arrays and objects around it.
        loop {
            at = skip_space(bytes, at);
            if depth == 0 {
                let is_end = at == bytes.len();
                return if is_end {
                    Ok(())
                } else {
                    Err(JsonError::Invalid)
                };
            }
            let is_object = objects & 1 == 1;
            match (bytes.get(at), is_object) {
                (Some(b','), true) => {
                    at = check_name(bytes, skip_space(bytes, at + 1))?;
                    break;
                }
                (Some(b','), false) => {
                    at = skip_space(bytes, at + 1);
                    break;
                }
                (Some(b'}'), true) | (Some(b']'), false) => {
                    depth -= 1;
                    objects >>= 1;
                    at += 1;
                }
                _ => return Err(JsonError::Invalid),
            }
        }
    }
}

/// Checks the name and the colon at `at`; returns where the value begins.
fn check_name(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    if bytes.get(at) != Some(&b'"') {
        return Err(JsonError::Invalid);
    }
    let colon = skip_space(bytes, check_string(bytes, at + 1)?);
    if bytes.get(colon) != Some(&b':') {
        return Err(JsonError::Invalid);
    }
    Ok(skip_space(bytes, colon + 1))
}

/// Checks the string whose content begins at `at`; returns the position after its closing quote.
fn check_string(bytes: &[u8], mut at: usize) -> Result<usize, JsonError> {
    loop {
        match bytes.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at = read_escape(bytes, at).ok_or(JsonError::Invalid)?.1,
            Some(0..0x20) | None => return Err(JsonError::Invalid),
            Some(_) => at = find_special(bytes, at + 1),
        }
    }
}

/// Reads the escape at `at`; returns its character and the position after it. Half a surrogate pair
/// is no character.
pub(super) fn read_escape(bytes: &[u8], at: usize) -> Option<(char, usize)> {
    let simple = |character| Some((character, at + 2));
    match bytes.get(at + 1)? {
        b'"' => simple('"'),
        b'\\' => simple('\\'),
        b'/' => simple('/'),
        b'b' => simple('\u{8}'),
        b'f' => simple('\u{c}'),
        b'n' => simple('\n'),
        b'r' => simple('\r'),
        b't' => simple('\t'),
        b'u' => {
            let first = read_hex(bytes, at + 2)?;
            if !(0xd800..0xdc00).contains(&first) {
                return Some((char::from_u32(first)?, at + 6));
            }
            if bytes.get(at + 6..at + 8)? != b"\\u" {
                return None;
            }
            let second = read_hex(bytes, at + 8)?;
            if !(0xdc00..0xe000).contains(&second) {
                return None;
            }
            let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            Some((char::from_u32(code)?, at + 12))
        }
        _ => None,
    }
}

fn read_hex(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 4)?;
    digits.iter().try_fold(0, |value, digit| {
        Some(value << 4 | char::from(*digit).to_digit(16)?)
    })
}

fn check_word(bytes: &[u8], at: usize, word: &[u8]) -> Result<usize, JsonError> {
    let end = at + word.len();
    let is_it = bytes.get(at..end) == Some(word);
    is_it.then_some(end).ok_or(JsonError::Invalid)
}

fn check_number(bytes: &[u8], mut at: usize) -> Result<usize, JsonError> {
    if bytes.get(at) == Some(&b'-') {
        at += 1;
    }
    let whole = at;
    at = check_digits(bytes, at)?;
    if bytes.get(whole) == Some(&b'0') && at > whole + 1 {
        return Err(JsonError::Invalid);
    }
    if !matches!(bytes.get(at), Some(b'.' | b'e' | b'E')) {
        return Ok(at);
    }
    if bytes.get(at) == Some(&b'.') {
        at = check_digits(bytes, at + 1)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let has_sign = matches!(bytes.get(at + 1), Some(b'+' | b'-'));
        at = check_digits(bytes, at + 1 + usize::from(has_sign))?;
    }
    Ok(at)
}

/// Checks that there is at least one digit at `at`; returns the position after the last one.
fn check_digits(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let mut end = at;
    while matches!(bytes.get(end), Some(b'0'..=b'9')) {
        end += 1;
    }
    (end > at).then_some(end).ok_or(JsonError::Invalid)
}

#[inline]
pub(super) fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        at += 1;
    }
    at
}

/// The end of the value at `at`. Of a text that was not checked it may be any later position.
pub(super) fn skip_value(bytes: &[u8], mut at: usize) -> usize {
    match bytes.get(at) {
        Some(b'"') => skip_string(bytes, at + 1),
        Some(b'{' | b'[') => skip_brackets(bytes, at),
        _ => {
            while let Some(byte) = bytes.get(at)
                && *byte > b' '
                && !matches!(byte, b',' | b'}' | b']' | b':')
            {
                at += 1;
            }
            at
        }
    }
}

/// The end of the array or object at `at`. Takes eight bytes at a time, whatever is in them: those
/// between quotes are told from the others by whether the count of quotes before them is odd.
fn skip_brackets(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 1_u64;
    let mut is_string = false;
    at += 1;
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*word);
        let quotes = mark_equal(word, b'"');
        let escapes = mark_equal(word, b'\\');
        let [opening, closing] = mark_brackets(word);
        let relevant = if is_string {
            escapes
        } else {
            opening | closing
        };
        if quotes | relevant == 0 {
            at += 8;
            continue;
        }
        // Each byte of the product is the count of quotes up to that byte.
        let strings = ((quotes >> 7).wrapping_mul(ONES) ^ (ONES * u64::from(is_string))) << 7;
        // Escapes are left to the reader of strings; what follows the first is not looked at here.
        let escape = strings & escapes;
        let considered = !strings & (escape.wrapping_sub(1) & !escape);
        // Brackets of each kind up to each byte.
        let opens = ((opening & considered) >> 7).wrapping_mul(ONES);
        let closes = ((closing & considered) >> 7).wrapping_mul(ONES);
        // The depth after each byte, above a bias that keeps it positive. More levels than nine do
        // not end within eight bytes.
        let depths = ONES * (u64::from(DEPTH_BIAS) + depth.min(9)) + opens - closes;
        let ends = mark_equal(depths, DEPTH_BIAS);
        if ends != 0 {
            return at + index(ends) + 1;
        }
        depth = depth + (opens >> 56) - (closes >> 56);
        if escape == 0 {
            is_string = strings >> 63 != 0;
            at += 8;
        } else {
            is_string = false;
            at = skip_string(bytes, at + index(escape));
        }
    }
    if is_string {
        at = skip_string(bytes, at);
    }
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = skip_string(bytes, at),
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return at,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    bytes.len()
}

/// The position after the quote that ends the string whose content begins at `at`.
pub(super) fn skip_string(bytes: &[u8], mut at: usize) -> usize {
    loop {
        match bytes.get(at) {
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at = find_special(bytes, at + 1),
            None => return bytes.len(),
        }
    }
}

/// Whether some number in `bytes` has more than `bytes_max` bytes.
pub(super) fn has_longer_number(bytes: &[u8], bytes_max: usize) -> bool {
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at = match byte {
            b'"' => skip_string(bytes, at + 1),
            b'-' | b'0'..=b'9' => {
                let end = skip_value(bytes, at);
                if end - at > bytes_max {
                    return true;
                }
                end
            }
            _ => at + 1,
        };
    }
    false
}

/// The first position from `at` of a quote, a backslash or a control character, else the end.
fn find_special(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let marks = mark_special(u64::from_le_bytes(*word));
        if marks != 0 {
            return at + index(marks);
        }
        at += 8;
    }
    while let Some(byte) = bytes.get(at)
        && !matches!(byte, b'"' | b'\\' | 0..0x20)
    {
        at += 1;
    }
    at.min(bytes.len())
}

/// The first position from `at` of a backslash, else the end.
pub(super) fn find_escape(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let marks = mark_equal(u64::from_le_bytes(*word), b'\\');
        if marks != 0 {
            return at + index(marks);
        }
        at += 8;
    }
    while let Some(byte) = bytes.get(at)
        && *byte != b'\\'
    {
        at += 1;
    }
    bytes.len().min(at)
}

/// Whether a string has an escape.
pub(super) fn has_escape(bytes: &[u8]) -> bool {
    find_escape(bytes, 0) < bytes.len()
}

/// Marks quotes, backslashes and control characters in eight bytes.
fn mark_special(word: u64) -> u64 {
    // The sum has the highest bit of each byte from 0x20 on; no byte carries into the next.
    let controls = !((word & !HIGHS) + ONES * (0x80 - 0x20)) & !word & HIGHS;
    mark_equal(word, b'"') | mark_equal(word, b'\\') | controls
}

/// Marks opening and closing brackets in eight bytes.
fn mark_brackets(word: u64) -> [u64; 2] {
    // Square brackets differ from braces by this bit, and no other byte becomes a brace by it.
    let word = word | (ONES * 0x20);
    [mark_equal(word, b'{'), mark_equal(word, b'}')]
}

/// The index of the byte with the first mark; there must be one.
fn index(marks: u64) -> usize {
    (marks.trailing_zeros() / 8) as usize
}

/// Marks the highest bit of each byte of `word` that equals `byte`.
fn mark_equal(word: u64, byte: u8) -> u64 {
    let different = word ^ (ONES * u64::from(byte));
    // The sum has the highest bit of each byte that differs; no byte carries into the next.
    !(((different & !HIGHS) + !HIGHS) | different) & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of the value at the beginning of `bytes`, byte by byte.
    fn end_of(bytes: &[u8]) -> usize {
        let (mut depth, mut is_string, mut at) = (0, false, 0);
        loop {
            match bytes[at] {
                b'\\' if is_string => at += 1,
                b'"' => is_string = !is_string,
                b'[' | b'{' if !is_string => depth += 1,
                b']' | b'}' if !is_string => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 {
                return at;
            }
        }
    }

    #[test]
    fn arrays_and_objects_end_at_their_last_bracket() {
        // Strings that end at each place of a word, with brackets and escapes in them.
        let strings = [
            "",
            "a",
            "]",
            "}{[",
            r#"\""#,
            r"\\",
            r"\u005d]",
            "é]",
            "]]]]]]]]]]]",
            "abcdefgh",
        ];
        for spaces in 0..9 {
            for first in strings {
                for second in strings {
                    for depth in [1, 2, 9, 10, 30_usize] {
                        let (open, close) = ("[{\"x\":".repeat(depth), "}]".repeat(depth));
                        let space = " ".repeat(spaces);
                        let text = format!(
                            r#"{open}[{space}"{first}",{{"{second}":[]}},[[[]]],{{}}]{close}]}}"],}}"#
                        );
                        let expected = end_of(text.as_bytes());
                        assert_eq!(skip_value(text.as_bytes(), 0), expected, "{text}");
                        assert_eq!(check(&text[..expected]), Ok(()), "{text}");
                        // Of a text that ends too early, the end is within it.
                        let cut = &text.as_bytes()[..expected - 1];
                        assert!(skip_value(cut, 0) <= cut.len());
                    }
                }
            }
        }
    }
}
