//! Telling others about the user of a session.

use super::effect::Effect;
use super::event::{Presence, PresenceChange};
use super::session::Session;
use super::state::Emit;
use crate::base::Now;

/// Tells others about the user of a session.
pub(super) fn announce(
    session: &Session,
    change: PresenceChange<'_>,
    now: Now,
    emit: &mut Emit<'_>,
) {
    let presence = Presence {
        user: session.user(),
        change,
        unix_ms: now.unix_ms,
    };
    emit(Effect::Announce(session.dialect, presence));
}
