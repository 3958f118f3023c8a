//! The text of a position in the history.

/// Where a client stands: it has received everything up to this offset.
///
/// As text `EEEEEEEE-OOOOOOOOOOOOO`, in hexadecimal: the epoch, which changes when the history does
/// not go on where it ended, and the offset. Of one epoch, texts sort as the offsets do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Of which history it is.
    pub epoch: u32,
    /// How far it is in it.
    pub offset: u64,
}

/// Length of the text, bytes.
pub const POSITION_BYTES: usize = 22;

impl Position {
    /// The text.
    #[must_use]
    pub fn text(self) -> [u8; POSITION_BYTES] {
        let Self { epoch, offset } = self;
        let text = format!("{epoch:08x}-{offset:013x}");
        text.as_bytes()
            .try_into()
            .expect("an offset is less than 2^52, as a ring at 10 GB/s reaches it in 450 years")
    }

    /// Reads the text; `None` if it is no position.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |text: &str| {
            text.bytes()
                .all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
        };
        let (epoch, offset) = text.split_once('-')?;
        let is_valid = epoch.len() == 8 && text.len() == POSITION_BYTES;
        if !is_valid || !is_hex(epoch) || !is_hex(offset) {
            return None;
        }
        Some(Self {
            epoch: u32::from_str_radix(epoch, 16).ok()?,
            offset: u64::from_str_radix(offset, 16).ok()?,
        })
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.text();
        formatter.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_as_it_is_written() {
        for (epoch, offset, text) in [
            (0, 0, "00000000-0000000000000"),
            (u32::MAX, 1, "ffffffff-0000000000001"),
            (0x00ab_cdef, (1 << 52) - 1, "00abcdef-fffffffffffff"),
        ] {
            let position = Position { epoch, offset };
            assert_eq!(position.to_string(), text);
            assert_eq!(Position::parse(text), Some(position));
        }
    }

    #[test]
    fn other_texts_are_no_positions() {
        for text in [
            "",
            "-",
            "00000000-000000000000",
            "00000000-00000000000000",
            "0000000000000000000000",
            "00000000-000000000000G",
            "00000000-00000000000A0",
            "+0000000-0000000000000",
            "00000000-+000000000000",
            "0000000-00000000000000",
            "00000000-00000000000é",
        ] {
            assert_eq!(Position::parse(text), None, "{text}");
        }
    }
}
