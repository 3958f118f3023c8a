//! Information about the server and its sessions, for the embedding program.

use crate::base::DialectId;
use crate::broker::{RateLimitStatus, SessionView};
use crate::dialect::monitoring::connection_id;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// With a name of its own, as serde takes a reference for one to what is read.
type DialectName = &'static str;

/// Information about a session.
///
/// ```no_run
/// # async fn show(server: fanwire::Server) {
/// if let Some(info) = server.connection_info("0000000000000000").await {
///     println!("{:?} has used {} messages of its limit", info.user_id, info.rate_used);
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Its id, unique among all nodes.
    pub id: String,
    /// The connection id of the monitoring dialect: `ip:port:unix_ts`.
    pub connection_id: String,
    /// The dialect's name.
    #[serde(deserialize_with = "dialect_name")]
    #[schema(value_type = String)]
    pub dialect: DialectName,
    /// The address of the client, with its port.
    pub address: String,
    /// The user, if it has authenticated.
    pub user_id: Option<String>,
    /// The tenant.
    pub tenant_id: Option<String>,
    /// Roles.
    pub roles: Vec<String>,
    /// The channels that it has subscribed to, oldest first.
    pub channels: Vec<String>,
    /// When it began, seconds since 1970-01-01 UTC.
    pub connected_at: f64,
    /// How long it has lasted, seconds.
    pub uptime: f64,
    /// Messages that currently count against its rate limit, or that of its user.
    pub rate_used: u32,
    /// Messages that the limit allows per window or burst; `None` = any number.
    pub rate_max: Option<u32>,
}

/// Statistics of the whole server.
///
/// ```no_run
/// # async fn show(server: fanwire::Server) {
/// let stats = server.stats().await;
/// println!("{} sessions have authenticated", stats.authenticated_connections);
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Whether it accepts new sessions on all shards.
    pub running: bool,
    /// Sessions.
    pub active_connections: u64,
    /// Of them, those that have authenticated.
    pub authenticated_connections: u64,
    /// Sessions opened since the start.
    pub total_connections: u64,
    /// Subscriptions of clients, without server-side subscriptions.
    pub total_subscriptions: u64,
    /// Channels that have such subscriptions.
    pub unique_channels: u64,
    /// Of them, properties of the monitoring dialect.
    pub unique_properties: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Publications delivered.
    pub messages_sent: u64,
}

/// Counts of one tenant's sessions.
///
/// ```no_run
/// # async fn show(server: fanwire::Server) {
/// let stats = server.tenant_stats("acme").await;
/// println!("{} subscriptions to {} channels", stats.total_subscriptions, stats.unique_channels);
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TenantStats {
    /// Sessions that may subscribe.
    pub active_connections: u64,
    /// Of them, those that have authenticated.
    pub authenticated_connections: u64,
    /// Subscriptions of clients, without server-side subscriptions.
    pub total_subscriptions: u64,
    /// Channels that have such subscriptions.
    pub unique_channels: u64,
}

/// The name of a dialect of this server.
fn dialect_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    let name = String::deserialize(deserializer)?;
    let dialect = DialectId::named(&name);
    let dialect = dialect.ok_or_else(|| D::Error::custom("there is no such dialect"))?;
    Ok(dialect.name())
}

impl ConnectionInfo {
    /// The information from `view` and the state of the rate limits.
    pub(crate) fn new(view: &SessionView<'_>, status: RateLimitStatus) -> Self {
        let rate = status.user.or(status.session);
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let roles = view.identity.map_or(&[][..], |identity| &identity.roles);
        Self {
            id: view.id.to_string(),
            connection_id: connection_id(view),
            dialect: view.dialect.name(),
            address: view.peer.to_string(),
            user_id: view.identity.map(|identity| identity.user.to_string()),
            tenant_id: view.tenant.map(str::to_owned),
            roles: roles.iter().map(|role| role.to_string()).collect(),
            channels: owned(&view.channels),
            connected_at: Duration::from_millis(view.connected_unix_ms).as_secs_f64(),
            uptime: Duration::from_millis(view.uptime_ms).as_secs_f64(),
            rate_used: rate.map_or(0, |rate| rate.used),
            rate_max: rate.map(|rate| rate.max),
        }
    }
}
