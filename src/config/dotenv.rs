//! Reads `.env` files.
//!
//! Like python-dotenv, which the legacy servers use, the parser accepts spaces in values without
//! quotes (`LOG_ROTATION=100 MB`); the crates for this format reject them. It does not substitute
//! variables, and does not change the environment of the process.

use std::collections::BTreeMap;

/// Variables and their values.
pub(super) type Environment = BTreeMap<String, String>;

/// The lines of a file: names and values, in order.
///
/// # Errors
/// The number of the first invalid line, from 1.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, usize> {
    let mut pairs = Vec::new();
    // Editors on Windows write a byte order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        pairs.push(parse_line(line).ok_or(index + 1)?);
    }
    Ok(pairs)
}

fn parse_line(line: &str) -> Option<(String, String)> {
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let value = is_name.then(|| parse_value(value.trim()))??;
    Some((name.to_owned(), value))
}

fn parse_value(value: &str) -> Option<String> {
    if let Some(quoted) = value.strip_prefix('\'') {
        let (text, rest) = quoted.split_once('\'')?;
        return is_comment(rest).then(|| text.to_owned());
    }
    if let Some(quoted) = value.strip_prefix('"') {
        return unescape(quoted);
    }
    // A # inside a word is part of it.
    let comment = value.find(" #").or_else(|| value.find("\t#"));
    let text = &value[..comment.unwrap_or(value.len())];
    Some(if text.starts_with('#') {
        String::new()
    } else {
        text.trim_end().to_owned()
    })
}

fn unescape(quoted: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return is_comment(characters.as_str()).then_some(text),
            '\\' => text.push(match characters.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            }),
            other => text.push(other),
        }
    }
}

fn is_comment(rest: &str) -> bool {
    let rest = rest.trim_start();
    rest.is_empty() || rest.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<(&str, &str)>) {
        let parsed = parse(line).ok().and_then(|pairs| pairs.into_iter().next());
        let parsed = parsed
            .as_ref()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        assert_eq!(parsed, expected, "{line}");
    }

    #[test]
    fn lines_are_read_as_python_dotenv_reads_them() {
        check("PORT=8000", Some(("PORT", "8000")));
        check("LOG_ROTATION=100 MB", Some(("LOG_ROTATION", "100 MB")));
        check("export A = b # why", Some(("A", "b")));
        check("A=b#c", Some(("A", "b#c")));
        check("A=", Some(("A", "")));
        check("A= # nothing", Some(("A", "")));
        check("A='$x \"y\" # z' # why", Some(("A", "$x \"y\" # z")));
        check(r#"A="a\n\"b\" # c""#, Some(("A", "a\n\"b\" # c")));
        check("\u{feff}A=1\r\n", Some(("A", "1")));
        check("# A=1", None);
    }

    #[test]
    fn what_is_no_line_is_named_by_its_number() {
        for line in ["A", "=1", "A B=1", "A='x", "A=\"x", "A='x' y", "A=\"x\\"] {
            assert_eq!(parse(&format!("# first\n\n{line}\n")), Err(3), "{line}");
        }
    }
}
