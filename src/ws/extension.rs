//! The negotiation of permessage-deflate (RFC 7692 7.1).

use crate::base::FrameEncoding;

/// The name of the extension.
const NAME: &str = "permessage-deflate";
/// The smallest window of the compressor, bits; the extension has 8 bits too, which no zlib can do.
const WINDOW_BITS_MIN: u8 = 9;
/// The largest window, which is in use unless the client asks for less, bits.
const WINDOW_BITS_MAX: u8 = 15;

/// What client and server have agreed on. No state outlives a message in either direction: one
/// compressed frame serves every session, and no session has a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// What the client has asked for: no references farther back than so many bits say.
    server_window_bits: Option<u8>,
}

impl Agreement {
    /// Accepts the first acceptable offer in the values of `Sec-WebSocket-Extensions`; `None` if
    /// there is none. Other extensions, and offers that are malformed or that this server cannot
    /// fulfil, are declined (RFC 7692 7.1).
    pub fn accept<'a>(mut lines: impl Iterator<Item = &'a str>) -> Option<Self> {
        // A value in quotes must be a token (RFC 6455 9.1), so no comma or semicolon is inside of one.
        lines.find_map(|line| line.split(',').find_map(Self::of_offer))
    }

    fn of_offer(offer: &str) -> Option<Self> {
        let mut parts = offer.split(';').map(trimmed);
        if parts.next() != Some(NAME) {
            return None;
        }
        let mut server_window_bits = None;
        let mut seen = Vec::new();
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (trimmed(name), Some(unquoted(trimmed(value))?)),
                None => (part, None),
            };
            // RFC 7692 7.1: an offer with two parameters of the same name is declined.
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
            match (name, value) {
                ("server_no_context_takeover" | "client_no_context_takeover", None) => {}
                // The receiver's window has the largest size, whatever the client uses.
                ("client_max_window_bits", None) => {}
                ("client_max_window_bits", Some(value)) => {
                    window_bits(value)?;
                }
                ("server_max_window_bits", Some(value)) => {
                    let bits = window_bits(value)?;
                    if bits < WINDOW_BITS_MIN {
                        return None;
                    }
                    server_window_bits = Some(bits);
                }
                _ => return None,
            }
        }
        Some(Self { server_window_bits })
    }

    /// The encoding of the frames for the client.
    #[must_use]
    pub fn encoding(self) -> FrameEncoding {
        match self.server_window_bits {
            None | Some(WINDOW_BITS_MAX) => FrameEncoding::Deflate,
            Some(_) => FrameEncoding::DeflateSmallWindow,
        }
    }

    /// The value of `Sec-WebSocket-Extensions` in the answer. RFC 7692 7.1.1.2 lets a server demand
    /// `client_no_context_takeover` of every client.
    #[must_use]
    pub fn answer(self) -> String {
        let mut answer = format!("{NAME}; server_no_context_takeover; client_no_context_takeover");
        if let Some(bits) = self.server_window_bits {
            answer.push_str(&format!("; server_max_window_bits={bits}"));
        }
        answer
    }
}

fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// A value without its quotes; `None` if only one of them is there.
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    }
}

/// RFC 7692 7.1.2: a number from 8 to 15 without leading zeros.
fn window_bits(value: &str) -> Option<u8> {
    let is_plain = !value.starts_with(['0', '+']);
    let bits = value.parse().ok().filter(|_| is_plain)?;
    (8..=WINDOW_BITS_MAX).contains(&bits).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn check(lines: &[&str], expected: Option<&str>) {
        let agreement = Agreement::accept(lines.iter().copied());
        let answer = agreement.map(Agreement::answer);
        assert_eq!(answer.as_deref(), expected, "{lines:?}");
    }

    #[test]
    fn offers_of_the_rfc_and_of_browsers_are_accepted() {
        let small = format!("{PLAIN}; server_max_window_bits=10");
        // RFC 7692 7.1.3.
        check(&["permessage-deflate"], Some(PLAIN));
        check(
            &["permessage-deflate; client_max_window_bits; server_max_window_bits=10"],
            Some(&small),
        );
        check(
            &[
                "permessage-deflate; client_max_window_bits; server_max_window_bits=10, permessage-deflate; client_max_window_bits",
            ],
            Some(&small),
        );
        // Chromium and Firefox; Safari; Python websockets.
        check(&["permessage-deflate; client_max_window_bits"], Some(PLAIN));
        check(&["x-webkit-deflate-frame, permessage-deflate"], Some(PLAIN));
        check(
            &["permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"],
            Some(&format!("{PLAIN}; server_max_window_bits=12")),
        );
        check(
            &["permessage-deflate;server_no_context_takeover ;\tclient_no_context_takeover"],
            Some(PLAIN),
        );
        check(
            &["permessage-deflate; server_max_window_bits=\"10\""],
            Some(&small),
        );
        // Several lines are one list (RFC 6455 9.1).
        check(&["foo; bar=1", "permessage-deflate"], Some(PLAIN));
    }

    #[test]
    fn what_is_malformed_unknown_or_impossible_is_declined_and_the_next_offer_counts() {
        let declined = [
            "",
            "permessage-deflat",
            "Permessage-Deflate",
            "permessage-deflate; unknown",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=7",
            // No zlib compresses with a window of 256 bytes.
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=010",
            "permessage-deflate; server_max_window_bits=+10",
            "permessage-deflate; server_max_window_bits=1e1",
            "permessage-deflate; server_max_window_bits=\"10",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=x",
            "permessage-deflate;",
            "permessage-deflate; =",
        ];
        for offer in declined {
            check(&[offer], None);
            check(&[&format!("{offer}, permessage-deflate")], Some(PLAIN));
            check(&[offer, "permessage-deflate"], Some(PLAIN));
        }
        check(&[], None);
    }

    #[test]
    fn a_smaller_window_is_another_encoding() {
        let encoding = |offer: &str| {
            let agreement = Agreement::accept(std::iter::once(offer));
            agreement.map(Agreement::encoding)
        };
        let whole = Some(FrameEncoding::Deflate);
        assert_eq!(encoding("permessage-deflate"), whole);
        let of_bits = |bits: u8| {
            encoding(&format!(
                "permessage-deflate; server_max_window_bits={bits}"
            ))
        };
        assert_eq!(of_bits(15), whole);
        for bits in 9..15 {
            assert_eq!(of_bits(bits), Some(FrameEncoding::DeflateSmallWindow));
        }
    }
}
