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
//!
//! Where tenants are isolated, the channel `x` of the sessions of a tenant is `tenant:{id}:x` in the
//! tables and in the ring, and `x` for clients. The server-side subscriptions have the same names for
//! all tenants; their subscribers are grouped by tenant (`broker::channels`).

use super::id::DialectId;
use super::limits::TENANT_BYTES_MAX;

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

/// Whether the text can be the id of a tenant: 1 to [`TENANT_BYTES_MAX`] bytes without `:`, which
/// ends it in the names of channels, and without control characters.
#[must_use]
pub fn is_tenant_id(text: &str) -> bool {
    (1..=TENANT_BYTES_MAX).contains(&text.len())
        && !text.chars().any(|c| c == ':' || c.is_control())
}

/// The channel of a tenant that its clients know by the name `channel`.
#[must_use]
pub fn channel_of_tenant(tenant: &str, channel: &str) -> String {
    format!("{TENANT}{tenant}:{channel}")
}

/// The name by which clients know a channel.
#[must_use]
pub fn name_for_clients(channel: &str) -> &str {
    split_tenant(channel).1
}

/// The tenant whose channel it is, if it is one's, and the name by which clients know it.
#[must_use]
pub fn split_tenant(channel: &str) -> (Option<&str>, &str) {
    let of_tenant = channel.strip_prefix(TENANT);
    let split = of_tenant.and_then(|rest| rest.split_once(':'));
    split.map_or((None, channel), |(tenant, name)| (Some(tenant), name))
}

/// Under which name the table of presence has the users of a dialect who are online, in a tenant or
/// without one. No client can subscribe to a channel of this name.
#[must_use]
pub fn online_users(tenant: Option<&str>, dialect: DialectId) -> String {
    let channel = dialect_channel(dialect);
    match tenant {
        Some(tenant) => channel_of_tenant(tenant, &channel),
        None => channel,
    }
}

/// The dialect of the channel of all its sessions.
#[must_use]
pub fn dialect_of(channel: &str) -> Option<DialectId> {
    channel.strip_prefix(DIALECT).and_then(DialectId::named)
}

/// The tenant of the channel of all sessions of a tenant.
#[must_use]
pub fn tenant_of(channel: &str) -> Option<&str> {
    channel.strip_prefix(TENANT)
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

/// Under which name it is noted whether a user, of a tenant or without one, is online. No client can
/// subscribe to a channel of this name.
#[must_use]
pub fn online_user(tenant: Option<&str>, user: &str) -> String {
    let channel = user_channel(user);
    match tenant {
        Some(tenant) => channel_of_tenant(tenant, &channel),
        None => channel,
    }
}

/// The user of such a name, which is none of a channel of clients.
#[must_use]
pub fn user_of(name: &str) -> Option<&str> {
    name_for_clients(name).strip_prefix(USER)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_s_channel_is_never_another_tenant_s() {
        for id in [
            "t",
            "acme inc.",
            "4f2a-\u{e9}",
            &"x".repeat(TENANT_BYTES_MAX),
        ] {
            assert!(is_tenant_id(id), "{id}");
            let name = channel_of_tenant(id, "a:b");
            assert_eq!(name_for_clients(&name), "a:b");
            assert!(is_reserved(&name), "no client may name {name}");
            assert_eq!(name_for_clients(&tenant_channel(id)), tenant_channel(id));
        }
        for id in [
            "",
            "a:b",
            ":",
            "a\n",
            "\u{7f}",
            &"x".repeat(TENANT_BYTES_MAX + 1),
        ] {
            assert!(!is_tenant_id(id), "{id}");
        }
        assert_eq!(name_for_clients("room:x"), "room:x");
    }
}
