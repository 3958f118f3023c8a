//! Fixtures of the dialects' tests: one session at one moment.

use super::{Decoded, Dialect};
use crate::auth::Identity;
use crate::base::{ConnectionId, DialectId, Now};
use crate::broker::{Event, SessionId, SessionView, SubscriptionView};
use crate::json::Document;

/// 2024-01-01T00:00:00.000Z.
pub(super) const NOW: Now = Now::at(120_500, 1_704_067_200_000);

pub(super) fn session() -> SessionView<'static> {
    SessionView {
        id: SessionId {
            node: 0,
            shard: 1,
            connection: ConnectionId::new(2, 3),
        },
        dialect: DialectId::Gateway,
        peer: ([127, 0, 0, 1], 12_345).into(),
        connected_unix_ms: 1_234_567_890_123,
        uptime_ms: 120_500,
        identity: None,
        tenant: None,
        channels: Vec::new(),
    }
}

pub(super) fn identity(user: &str) -> Identity {
    Identity {
        user: user.into(),
        ..Identity::default()
    }
}

pub(super) fn subscription(channel: &str) -> SubscriptionView<'_> {
    SubscriptionView {
        channel,
        subscription_id: None,
        filter: None,
        is_announced: false,
        user: Some("ann"),
        position: None,
        is_recovered: None,
        is_persistent: None,
        has_previous: false,
        takes_binary: None,
        is_restored: false,
        now: NOW,
    }
}

/// How the dialect decodes `text`, in `Debug` form.
pub(super) fn decoded(dialect: &dyn Dialect, text: &str) -> String {
    let mut scratch = String::new();
    let document = Document::new(text);
    let decoded = dialect.decode(&document.object().unwrap(), &mut scratch);
    match decoded {
        Ok(Decoded::Command(command)) => format!("Ok({command:?})"),
        other => format!("{other:?}"),
    }
}

/// How the dialect encodes `event`.
pub(super) fn encoded(dialect: &dyn Dialect, event: &Event<'_>) -> String {
    let mut output = Vec::new();
    dialect.event(event, &mut output);
    String::from_utf8(output).unwrap()
}
