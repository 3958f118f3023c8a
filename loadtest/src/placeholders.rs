//! What a server writes into each delivery by itself: the subscriber's own id, and the time.

/// Length of a subscription id in bytes: with ids of one length all expected frames are equally
/// long.
pub(crate) const ID_BYTES: usize = 20;
/// Length of a time such as 2024-01-01T00:00:00.000Z in bytes.
const TIME_BYTES: usize = 24;
/// What stands in a template where a server writes an id.
pub(crate) const PLACEHOLDER_ID: SubscriptionId = [b'_'; ID_BYTES];
/// What stands in a template where a server writes a time; `_` for digits.
const PLACEHOLDER_TIME: &[u8; TIME_BYTES] = b"____-__-__T__:__:__.___Z";

/// The id that a server gave to a subscription.
pub(crate) type SubscriptionId = [u8; ID_BYTES];

/// Where the placeholders of a message are: how far before its end each one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placeholders {
    id_from_end: usize,
    time_from_end: usize,
}

impl Placeholders {
    /// The placeholders of the template that ends with `after`; `None` if it has none.
    pub(crate) fn of(after: &str) -> Option<Self> {
        let find = |placeholder: &[u8]| {
            let mut windows = after.as_bytes().windows(placeholder.len());
            let at = windows.position(|window| window == placeholder)?;
            Some(after.len() - at)
        };
        Some(Self {
            id_from_end: find(&PLACEHOLDER_ID)?,
            time_from_end: find(PLACEHOLDER_TIME)?,
        })
    }

    /// Whether `message` is `expected` with `id` in its place.
    #[inline]
    pub(crate) fn fits(self, message: &[u8], expected: &[u8], id: &SubscriptionId) -> bool {
        let start = expected.len() - self.id_from_end;
        let end = start + ID_BYTES;
        message.len() == expected.len()
            && message[..start] == expected[..start]
            && message[start..end] == *id
            && message[end..] == expected[end..]
    }

    /// Writes `id` into its place.
    pub(crate) fn fill_id(self, expected: &mut [u8], id: &SubscriptionId) {
        let start = expected.len() - self.id_from_end;
        expected[start..start + ID_BYTES].copy_from_slice(id);
    }

    /// Takes over the time that stands in `message`, if it is one and `expected` has none yet: all
    /// that comes later must have the same.
    pub(crate) fn fill_time(self, expected: &mut [u8], message: &[u8]) {
        let start = expected.len() - self.time_from_end;
        let place = &mut expected[start..start + TIME_BYTES];
        if place == PLACEHOLDER_TIME
            && let Some(at) = message.len().checked_sub(self.time_from_end)
            && let Some(time) = message.get(at..at + TIME_BYTES)
            && is_time(time)
        {
            place.copy_from_slice(time);
        }
    }
}

fn is_time(text: &[u8]) -> bool {
    let mut pairs = text.iter().zip(PLACEHOLDER_TIME);
    pairs.all(|(byte, placeholder)| match placeholder {
        b'_' => byte.is_ascii_digit(),
        _ => byte == placeholder,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "a____________________b____-__-__T__:__:__.___Zc";
    const ID: SubscriptionId = *b"sub_0000000000000001";

    fn with_placeholders_filled(time: &str) -> (Vec<u8>, Vec<u8>) {
        let placeholders = Placeholders::of(TEMPLATE).unwrap();
        let mut message = TEMPLATE.as_bytes().to_vec();
        placeholders.fill_id(&mut message, &ID);
        let at = message.len() - placeholders.time_from_end;
        message[at..at + TIME_BYTES].copy_from_slice(time.as_bytes());
        let mut expected = TEMPLATE.as_bytes().to_vec();
        placeholders.fill_time(&mut expected, &message);
        (message, expected)
    }

    #[test]
    fn a_message_fits_with_its_own_id_and_the_time_that_was_seen_first() {
        let placeholders = Placeholders::of(TEMPLATE).unwrap();
        let (message, mut expected) = with_placeholders_filled("2024-01-01T00:00:00.000Z");
        assert!(placeholders.fits(&message, &expected, &ID));
        assert!(!placeholders.fits(&message, &expected, b"sub_0000000000000002"));
        assert!(!placeholders.fits(&message[1..], &expected, &ID));
        let (later, _) = with_placeholders_filled("2024-01-01T00:00:00.001Z");
        placeholders.fill_time(&mut expected, &later);
        assert!(!placeholders.fits(&later, &expected, &ID));
    }

    #[test]
    fn what_is_no_time_fits_nothing() {
        let placeholders = Placeholders::of(TEMPLATE).unwrap();
        for time in ["2024-01-01 00:00:00.000Z", "2024-01-0xT00:00:00.000Z"] {
            let (message, expected) = with_placeholders_filled(time);
            assert!(!placeholders.fits(&message, &expected, &ID), "{time}");
        }
    }

    #[test]
    fn a_template_without_blanks_has_none() {
        assert_eq!(Placeholders::of(r#""}"#), None);
    }
}
