//! Which names clients may use.

use super::event::Rejection;
use crate::base::limits::{CHANNEL_BYTES_MAX, SUBSCRIPTION_ID_BYTES_MAX};

/// Names that the server itself gives meaning to: one user, one role, one tenant, one dialect,
/// everyone. Sessions hear them without asking.
const RESERVED_PREFIXES: [&str; 5] = ["user:", "role:", "permission:", "tenant:", "dialect:"];
/// The channel that all sessions hear.
pub(super) const EVERYONE: &str = "all";

/// Checks a channel that a client names.
pub(super) fn check_channel(name: &str) -> Result<(), Rejection> {
    if !is_name(name, CHANNEL_BYTES_MAX) {
        return Err(Rejection::InvalidField("channel"));
    }
    let has_prefix = |prefix: &&str| name.starts_with(*prefix);
    if name == EVERYONE || RESERVED_PREFIXES.iter().any(has_prefix) {
        return Err(Rejection::ReservedChannel);
    }
    Ok(())
}

/// Not empty, not too long, and nothing that would break a log line.
pub(super) fn is_name(name: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// Whether a client may choose this subscription id: it goes into frames as it is, without escapes.
pub(super) fn is_subscription_id(text: &str) -> bool {
    is_name(text, SUBSCRIPTION_ID_BYTES_MAX) && !text.contains(['"', '\\'])
}
