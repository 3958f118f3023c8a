//! Checks of the names that clients use.

use super::event::Rejection;
use crate::base::channel_names::is_reserved;
use crate::base::limits::{CHANNEL_BYTES_MAX, SUBSCRIPTION_ID_BYTES_MAX};

/// Checks a channel that a client names.
pub(super) fn check_channel(name: &str) -> Result<(), Rejection> {
    if !is_name(name, CHANNEL_BYTES_MAX) {
        return Err(Rejection::InvalidField("channel"));
    }
    if is_reserved(name) {
        return Err(Rejection::ReservedChannel);
    }
    Ok(())
}

/// Whether the name is not empty, not too long, and free of control characters.
pub(super) fn is_name(name: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// Whether a client may choose this subscription id: it is written to frames without escapes.
pub(super) fn is_subscription_id(text: &str) -> bool {
    is_name(text, SUBSCRIPTION_ID_BYTES_MAX) && !text.contains(['"', '\\'])
}
