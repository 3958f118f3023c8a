//! The namespace of channels: every prefix that the server gives a meaning to.
//!
//! | channel | subscribers |
//! | --- | --- |
//! | `all` | every session |
//! | `user:{id}`, `tenant:{id}`, `role:{name}`, `permission:{name}`, `dialect:{name}` | the sessions of one |
//! | `prop:{id}` | those of a property of the monitoring dialect |
//! | `stream:{name}` | those of a stream of the analytics dialect |
//! | `room:{name}` | those of a room of the assist dialect |
//!
//! The first two rows are server-side subscriptions: clients can neither subscribe nor publish there.

use super::id::DialectId;

/// The channel of every session.
pub const EVERYONE: &str = "all";
const USER: &str = "user:";
const TENANT: &str = "tenant:";
const ROLE: &str = "role:";
const PERMISSION: &str = "permission:";
const DIALECT: &str = "dialect:";
/// Before a property's id.
pub const PROPERTY: &str = "prop:";
/// Before a stream's name.
pub const STREAM: &str = "stream:";
/// Before a room's name.
pub const ROOM: &str = "room:";

/// Whether clients can neither subscribe nor publish there.
#[must_use]
pub fn is_reserved(channel: &str) -> bool {
    let prefixes = [USER, TENANT, ROLE, PERMISSION, DIALECT];
    channel == EVERYONE || prefixes.iter().any(|prefix| channel.starts_with(prefix))
}

/// The channel of all sessions of a user.
#[must_use]
pub fn user_channel(user: &str) -> String {
    format!("{USER}{user}")
}

/// The channel of all sessions of a tenant.
#[must_use]
pub fn tenant_channel(tenant: &str) -> String {
    format!("{TENANT}{tenant}")
}

/// The channel of all sessions with a role.
#[must_use]
pub fn role_channel(role: &str) -> String {
    format!("{ROLE}{role}")
}

/// The channel of all sessions with a permission.
#[must_use]
pub fn permission_channel(permission: &str) -> String {
    format!("{PERMISSION}{permission}")
}

/// The channel of all sessions of a dialect.
#[must_use]
pub fn dialect_channel(dialect: DialectId) -> String {
    format!("{DIALECT}{}", dialect.name())
}
