//! The grammar of JSON, byte by byte: checks a text, and finds the end of a value. Nothing is
//! converted and nothing is allocated, so the cost depends on the count of bytes only.

use super::JsonError;
use crate::base::limits::JSON_DEPTH_MAX;

/// A bit for each level says whether it is an object.
const _: () = assert!(JSON_DEPTH_MAX <= u64::BITS);

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

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

/// The end of the array or object at `at`. Takes 64 bytes at a time, whatever is in them: those between
/// quotes are told from the others by whether the count of quotes before them is odd (Langdale and
/// Lemire, Parsing Gigabytes of JSON per Second, 2019).
fn skip_brackets(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 1;
    // Whether the block begins in a string, all ones or zeros, and with an escaped byte, 1 or 0.
    let (mut inside, mut carried) = (0, 0);
    at += 1;
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<64>()) {
        let [mut quotes, escapes, opening, closing] = mark_block(block);
        if escapes | carried != 0 {
            quotes &= !escaped(escapes, &mut carried);
        }
        let strings = within(quotes) ^ inside;
        if let Some(end) = end_of(&mut depth, opening & !strings, closing & !strings) {
            return at + end;
        }
        inside = 0_u64.wrapping_sub(strings >> 63);
        at += 64;
    }
    if inside != 0 {
        at = skip_string(bytes, at + usize::from(carried != 0));
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

/// The position after the bracket with which `depth` becomes zero; else `depth` is what it is after
/// these brackets.
fn end_of(depth: &mut u32, opening: u64, mut closing: u64) -> Option<usize> {
    let closing_count = closing.count_ones();
    if *depth <= closing_count {
        for closed in 1..=closing_count {
            let lowest = closing & closing.wrapping_neg();
            if *depth + (opening & (lowest - 1)).count_ones() == closed {
                return Some(lowest.trailing_zeros() as usize + 1);
            }
            closing ^= lowest;
        }
    }
    *depth = *depth + opening.count_ones() - closing_count;
    None
}

/// The bits of escaped bytes: each after a backslash that is not escaped itself. Adding and subtracting
/// the odd bits tells runs of an odd length from others without a loop (as in simdjson's scanner).
fn escaped(backslashes: u64, carried: &mut u64) -> u64 {
    const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    let begins = backslashes & !*carried;
    let codes = (begins << 1 | ODD).wrapping_sub(begins) ^ ODD;
    let escaped = codes ^ (backslashes | *carried);
    *carried = (codes & backslashes) >> 63;
    escaped
}

/// The bits from each odd bit up to the next even one, as of the quotes around strings.
fn within(quotes: u64) -> u64 {
    let mut bits = quotes;
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

/// A bit for each quote, backslash, opening and closing bracket in 64 bytes, the first the lowest.
fn mark_block(block: &[u8; 64]) -> [u64; 4] {
    // Square brackets differ from braces by this bit, and no other byte becomes a brace by it.
    let braces = block.map(|byte| byte | 0x20);
    [
        mark_in(block, b'"'),
        mark_in(block, b'\\'),
        mark_in(&braces, b'{'),
        mark_in(&braces, b'}'),
    ]
}

/// A bit for each byte of a block that equals `wanted`. Written so that compilers use vectors.
#[inline]
fn mark_in(block: &[u8; 64], wanted: u8) -> u64 {
    let mut bits = [0_u8; 64];
    for (at, (bit, byte)) in bits.iter_mut().zip(block).enumerate() {
        *bit = if *byte == wanted { 1 << (at % 8) } else { 0 };
    }
    let mut marks = 0;
    for (word, at) in bits.as_chunks::<8>().0.iter().zip(0..) {
        // The highest byte of the product is the sum of all bytes.
        let sum = u64::from_le_bytes(*word).wrapping_mul(ONES) >> 56;
        marks |= sum << (8 * at);
    }
    marks
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
    fn end_by_bytes(bytes: &[u8]) -> usize {
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
            r#"\\\"]"#,
            "é]",
            "]]]]]]]]]]]",
            "abcdefgh",
        ];
        for spaces in (0..9).chain([40, 50, 56, 60, 64]) {
            for first in strings {
                for second in strings {
                    for depth in [1, 2, 9, 10, 30_usize] {
                        let (open, close) = ("[{\"x\":".repeat(depth), "}]".repeat(depth));
                        let space = " ".repeat(spaces);
                        let text = format!(
                            r#"{open}[{space}"{first}",{{"{second}":[]}},[[[]]],{{}}]{close}]}}"],}}"#
                        );
                        let expected = end_by_bytes(text.as_bytes());
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

    #[test]
    fn a_run_of_backslashes_escapes_the_quote_after_it_or_not() {
        for spaces in 0..70 {
            for backslashes in 0..140 {
                let run = "\\".repeat(backslashes);
                // After an odd run the quote is escaped, and another one ends the string.
                let quote = if backslashes % 2 == 1 { "\"\"" } else { "\"" };
                let space = " ".repeat(spaces);
                let text = format!("[{space}\"{run}{quote}]]]]{space}");
                let expected = end_by_bytes(text.as_bytes());
                assert_eq!(skip_value(text.as_bytes(), 0), expected, "{text}");
            }
        }
    }
}
