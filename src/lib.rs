//! A WebSocket fan-out server for Linux: one pinned executor per core, one encode per publication.
//!
//! A program embeds the server through [`Server`]: it configures the server, registers handlers for
//! its own message types, starts the server, and publishes.
//!
//! ```no_run
//! let server = fanwire::Server::builder()
//!     .profile(fanwire::DialectId::Gateway)
//!     .jwt_secret("a secret of 32 bytes or more, from a vault")
//!     .on_message("echo", |session, message| {
//!         session.send("echo_response", &message.parse::<serde_json::Value>()?)
//!     })
//!     .start()?;
//! server.broadcast("news", "headline", &serde_json::json!({"text": "hello"}))?;
//! server.run_until_signal()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The items re-exported here are the public API. The modules are internal: they are visible to the
//! simulation, the benches and the fuzz targets of this repository, and change without notice. They
//! are in the order of their layers; imports point only downward, from later modules to earlier
//! ones, and modules of one layer do not import each other, except as `docs/ARCHITECTURE.md`
//! describes.
//!
//! ```text
//!  socket ─▶ net::wire ─▶ http ─▶ ws ─▶ dialect ─▶ broker ─▶ shard::publication_writer ─▶ ring ─┐
//!  socket ◀─ net::wire ◀─ shard::send_queue ◀─ shard::publication_reader ◀──────────────────────┘
//! ```

// Layer 0: shared by all layers above.
#[doc(hidden)]
pub mod base;

// Layer 1: bytes and values, without sockets and sessions.
#[doc(hidden)]
pub mod auth;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod json;
#[doc(hidden)]
pub mod store;
#[doc(hidden)]
pub mod ws;

// Layer 2: the rules, and what of their state is durable.
#[doc(hidden)]
pub mod broker;
#[doc(hidden)]
pub mod journal;

// Layer 3: the protocols of clients.
#[doc(hidden)]
pub mod dialect;

// Layer 4: the state of one core.
#[doc(hidden)]
pub mod shard;

// Layer 5: the kernel, the HTTP API, and observability.
#[doc(hidden)]
pub mod api;
#[doc(hidden)]
pub mod bridge;
#[doc(hidden)]
pub mod ingest;
#[doc(hidden)]
pub mod net;
#[doc(hidden)]
pub mod nodes;
#[doc(hidden)]
pub mod observe;

// Layer 6: start and shutdown.
#[doc(hidden)]
pub mod server;

pub use auth::{Grant as TokenGrant, Identity};
pub use base::DialectId;
pub use broker::{BroadcastTarget, RateLimitStatus, RateUse, SessionId, SessionSearch};
pub use config::{
    Action as AccessAction, Compression, Listener, Report as SettingsReport, SettingInfo,
    SettingValue, SettingsError, ShardCount,
};
pub use dialect::analytics::Stream;
pub use futures_lite::future::block_on;
pub use net::BindError;
pub use observe::log::LogGuard;
pub use server::{
    AccessQuestion, BatchError, Builder, ChannelHistory, ChannelMember, ChannelPresence,
    Configured, ConnectionInfo, ConnectionPage, Explanation, HistoryEntry, KernelError, NotStored,
    Publication, Published, Server, SignalWatch, StartError, Stats, StopOutcome, TenantStats,
};
pub use shard::{AsyncSession, Denied, Message, Next, OwnedMessage, PublishError, Session};

use std::time::Duration;

/// All settings: their keys, flags, variables and help, for command lines and documentation.
///
/// ```
/// let shards = fanwire::settings().iter().find(|setting| setting.key == "shards").unwrap();
/// assert_eq!(shards.variable, "FANWIRE_SHARDS");
/// ```
#[must_use]
pub fn settings() -> &'static [SettingInfo] {
    config::all_settings()
}

/// A configuration file with every setting, its meaning and its default, all commented out.
///
/// ```
/// assert!(fanwire::sample_settings().contains("\n# shards = \"auto\"\n"));
/// ```
#[must_use]
pub fn sample_settings() -> String {
    config::sample()
}

/// A JSON Web Token (HS256) that a server with the same secret accepts, valid from now on.
///
/// # Errors
/// When the secret is empty, with which anyone could sign tokens, when the user is empty or `ttl` is less than
/// a second, or the token cannot be encoded.
///
/// ```
/// use fanwire::{TokenGrant, issue_token};
/// use std::time::Duration;
///
/// let grant = TokenGrant::new("ann").with_permission("publish");
/// let secret = "a secret of 32 bytes or more, from a vault";
/// let token = issue_token(&grant, secret, Duration::from_secs(60))?;
/// assert_eq!(token.split('.').count(), 3);
/// # Ok::<(), String>(())
/// ```
pub fn issue_token(grant: &TokenGrant, secret: &str, ttl: Duration) -> Result<String, String> {
    if secret.is_empty() {
        return Err("JWT secret is empty".into());
    }
    if grant.user.is_empty() {
        return Err("the user is empty".into());
    }
    if ttl.as_secs() == 0 {
        return Err("the token would be valid for less than a second".into());
    }
    let now = base::now::Clock::start().now();
    let token = auth::issue(grant, secret.as_bytes(), ttl.as_secs(), now);
    token.map_err(|error| error.to_string())
}
