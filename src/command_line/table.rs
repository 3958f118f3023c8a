//! Tables for terminals.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};

/// Whether the terminal may be told more than text (<https://no-color.org>).
pub(super) fn is_colored() -> bool {
    let is_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !is_off
}

/// Clears the terminal, if it is one; else an empty line.
pub(super) fn new_screen() -> &'static str {
    match io::stdout().is_terminal() {
        true => "\x1b[H\x1b[2J",
        false => "\n",
    }
}

/// Rows below a heading, in columns as wide as their contents.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<_> = heading.iter().map(|it| it.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        line.truncate(line.trim_end().len());
        line
    };
    let first = line(&mut heading.iter().copied());
    match is_colored() {
        true => text += &format!("\x1b[1m{first}\x1b[0m\n"),
        false => text += &format!("{first}\n"),
    }
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
        text.push('\n');
    }
    text
}

/// What a peer has chosen, without what a terminal would obey, and what could make one name look like
/// another: characters that are invisible or change the direction of the text.
pub(super) fn clean(text: &str) -> String {
    text.replace(|it: char| it.is_control() || is_invisible(it), "\u{fffd}")
}

/// The format characters of Unicode (general category Cf), line and paragraph separators, and fillers.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_with_what_it_hides() {
        for hidden in [
            "\u{1b}[2J",
            "\u{202e}",
            "\u{200b}",
            "\u{2066}",
            "\u{feff}",
            "\n",
        ] {
            let shown = clean(&format!("ann{hidden}"));
            assert!(shown.starts_with("ann\u{fffd}"), "{shown:?}");
        }
        assert_eq!(clean("Zoë 東京 👍"), "Zoë 東京 👍");
    }
}
