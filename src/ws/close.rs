//! Close codes and the payload of close frames.

use super::frame::CONTROL_PAYLOAD_BYTES_MAX;
use crate::base::counters::ProtocolError;

/// A status code of a close frame (RFC 6455 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(u16);

/// Stands for a close frame without a code (RFC 6455 7.1.5); never on the wire.
pub const NO_CODE: u16 = 1005;
/// Stands for an end without a close frame; never on the wire.
pub const ABNORMAL: u16 = 1006;

impl CloseCode {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The server is shutting down.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer violated the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// A type of data that this endpoint does not accept.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// Text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// Authentication, origin, slow consumer.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// A message over the limit.
    pub const TOO_BIG: Self = Self(1009);
    /// An error of the server.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// Too many connections; try later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// The number on the wire.
    #[must_use]
    pub const fn value(self) -> u16 {
        self.0
    }

    /// The code with this number, if it may be sent.
    #[must_use]
    pub fn of(value: u16) -> Option<Self> {
        Self::is_allowed_on_wire(value).then_some(Self(value))
    }

    /// Whether a peer may send this number in a close frame.
    ///
    /// RFC 6455 7.4.2 and the IANA registry: 1004 to 1006 and 1015 never appear on the wire,
    /// 1016 to 2999 are unassigned, 3000 to 4999 belong to libraries and applications.
    #[must_use]
    pub const fn is_allowed_on_wire(value: u16) -> bool {
        matches!(value, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// The content of a peer's close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerClose {
    /// The code to answer with: the peer's own, or `None` if it sent none.
    pub code: Option<CloseCode>,
}

/// Whether a close frame has room for this reason beside its code (RFC 6455 5.5).
#[must_use]
pub fn is_reason(reason: &str) -> bool {
    reason.len() <= CONTROL_PAYLOAD_BYTES_MAX - size_of::<u16>()
}

/// Parses the payload of a close frame.
///
/// # Errors
/// When the payload has one byte, a code that is not allowed on the wire, or a reason that is not
/// UTF-8 (RFC 6455 5.5.1).
pub fn parse(payload: &[u8]) -> Result<PeerClose, ProtocolError> {
    match payload {
        [] => Ok(PeerClose { code: None }),
        [high, low, reason @ ..] => {
            let value = u16::from_be_bytes([*high, *low]);
            if !CloseCode::is_allowed_on_wire(value) {
                return Err(ProtocolError::ClosePayload);
            }
            if simdutf8::basic::from_utf8(reason).is_err() {
                return Err(ProtocolError::Utf8);
            }
            Ok(PeerClose {
                code: Some(CloseCode(value)),
            })
        }
        [_] => Err(ProtocolError::ClosePayload),
    }
}

/// The close code that answers a protocol error.
#[must_use]
pub fn code_for(error: ProtocolError) -> CloseCode {
    match error {
        ProtocolError::Utf8 | ProtocolError::Deflate => CloseCode::INVALID_PAYLOAD,
        ProtocolError::TooLarge | ProtocolError::DeflateRatio => CloseCode::TOO_BIG,
        ProtocolError::Binary => CloseCode::UNSUPPORTED_DATA,
        _ => CloseCode::PROTOCOL_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_not_travel_are_faults() {
        for value in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
            let payload = u16::to_be_bytes(value);
            assert_eq!(
                parse(&payload),
                Err(ProtocolError::ClosePayload),
                "code {value}"
            );
        }
        for value in [1000, 1003, 1007, 1014, 3000, 4999] {
            assert!(parse(&u16::to_be_bytes(value)).is_ok(), "code {value}");
        }
    }

    #[test]
    fn one_byte_and_bad_reasons_are_faults() {
        assert_eq!(parse(&[3]), Err(ProtocolError::ClosePayload));
        assert_eq!(parse(&[3, 232, 0xff]), Err(ProtocolError::Utf8));
        assert_eq!(parse(&[]), Ok(PeerClose { code: None }));
    }
}
