//! The namespace of channels: every prefix that has a meaning for the server.
//!
//! | channel | subscribers |
//! | --- | --- |
//! | `all` | every session |
//! | `user:{id}`, `tenant:{id}` | the sessions of one user or tenant |
//! | `role:{name}`, `permission:{name}` | the sessions with one role or permission |
//! | `dialect:{name}` | the sessions of one dialect |
//! | `prop:{id}` | subscribers of a property of the monitoring dialect |
//! | `stream:{name}` | subscribers of a stream of the analytics dialect |
//! | `room:{name}` | subscribers of a room of the assist dialect |
//!
//! The first four rows are server-side subscriptions: clients can neither subscribe nor publish
//! there. The others belong to a dialect.

use super::id::DialectId;

/// The channel of every session.
pub const EVERYONE: &str = "all";
const USER: &str = "user:";
const TENANT: &str = "tenant:";
const ROLE: &str = "role:";
const PERMISSION: &str = "permission:";
const DIALECT: &str = "dialect:";
/// Prefix of a property's id.
pub const PROPERTY: &str = "prop:";
/// Prefix of a stream's name.
pub const STREAM: &str = "stream:";
/// Prefix of a room's name.
pub const ROOM: &str = "room:";

/// Whether clients can neither subscribe nor publish there.
#[must_use]
pub fn is_reserved(channel: &str) -> bool {
    let prefixes = [USER, TENANT, ROLE, PERMISSION, DIALECT];
    channel == EVERYONE || prefixes.iter().any(|prefix| channel.starts_with(prefix))
}

/// The dialect that a channel belongs to.
#[must_use]
pub fn owner(channel: &str) -> Option<DialectId> {
    let owners = [
        (PROPERTY, DialectId::Monitoring),
        (STREAM, DialectId::Analytics),
        (ROOM, DialectId::Assist),
    ];
    let mut owners = owners.into_iter();
    let (_, dialect) = owners.find(|(prefix, _)| channel.starts_with(prefix))?;
    Some(dialect)
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
