//! Announcements of a user's presence.

use super::effect::Effect;
use super::event::{Presence, PresenceChange};
use super::session::Session;
use super::state::Emit;
use crate::base::Now;

/// Announces a change of presence of a session's user.
pub(super) fn announce(
    session: &Session,
    change: PresenceChange<'_>,
    now: Now,
    emit: &mut Emit<'_>,
) {
    let presence = Presence {
        user: session.user(),
        tenant: session.isolated_tenant(),
        change,
        unix_ms: now.unix_ms,
    };
    emit(Effect::Announce(session.dialect, presence));
}
