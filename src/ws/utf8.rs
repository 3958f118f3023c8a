//! Validates UTF-8 as it arrives, so that invalid text is rejected before the message is complete.

use crate::base::counters::ProtocolError;

/// The state of the validation of a growing text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8Check {
    valid_bytes: usize,
}

impl Utf8Check {
    /// Checks what was appended to `text` since the last call; a character may still be incomplete.
    ///
    /// # Errors
    /// [`ProtocolError::Utf8`] when no continuation can make the text valid.
    pub fn extend(&mut self, text: &[u8]) -> Result<(), ProtocolError> {
        match simdutf8::compat::from_utf8(&text[self.valid_bytes..]) {
            Ok(_) => self.valid_bytes = text.len(),
            Err(error) if error.error_len().is_none() => self.valid_bytes += error.valid_up_to(),
            Err(_) => return Err(ProtocolError::Utf8),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &[u8]) {
        let mut check = Utf8Check::default();
        let stepwise = (1..=text.len()).try_for_each(|end| check.extend(&text[..end]));
        // A text that lacks only the end of its last character may still become valid.
        let can_be_valid = match std::str::from_utf8(text) {
            Ok(_) => true,
            Err(error) => error.error_len().is_none(),
        };
        assert_eq!(stepwise.is_ok(), can_be_valid, "{text:02x?}");
    }

    #[test]
    fn byte_by_byte_refuses_just_what_cannot_become_valid() {
        for text in [
            "κόσμε €😀".as_bytes(),
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"\xc0\xaf",
            b"abc\xe2\x82",
            b"",
            b"\xff",
        ] {
            check(text);
        }
    }

    #[test]
    fn an_impossible_start_is_refused_at_once() {
        assert!(Utf8Check::default().extend(b"ok\xf5").is_err());
    }
}
