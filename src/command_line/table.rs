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

/// What a peer has chosen, without what a terminal would obey.
pub(super) fn clean(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}
