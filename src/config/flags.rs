//! Flags of the command line.

use super::layer::Entry;
use super::secret::Secret;
use super::setting::{Setting, ShardCount};
use figment::value::Value;
use std::net::{IpAddr, SocketAddr};

/// Flags of the command line; what is `None` was not given.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--dev`
    pub dev: bool,
    /// `--prod`
    pub prod: bool,
    /// `--profile`
    pub profile: Option<String>,
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--host`
    pub host: Option<IpAddr>,
    /// `--port`
    pub port: Option<u16>,
    /// `--path`
    pub path: Option<String>,
    /// `--shards`
    pub shards: Option<ShardCount>,
    /// `--workers`
    pub workers: Option<ShardCount>,
    /// `--jwt-secret`
    pub jwt_secret: Option<Secret>,
    /// `--connections-max`
    pub connections_max: Option<u64>,
    /// `--send_queue-bytes-max`
    pub send_queue_bytes_max: Option<u32>,
    /// `--drain-wait`
    pub drain_grace_period: Option<String>,
    /// `--drain-timeout`
    pub drain_close_timeout: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
    /// `--log-format`
    pub log_format: Option<String>,
    /// No flag: whether the embedding program checks tokens itself, so that no secret is needed.
    pub has_token_check: bool,
}

impl Flags {
    pub(super) fn entries(&self) -> Vec<Entry> {
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        let shards = |shards: Option<ShardCount>| {
            shards.map(|shards| match shards {
                ShardCount::Auto => "auto".into(),
                ShardCount::Fixed(count) => Value::from(count),
            })
        };
        let secret = self.jwt_secret.as_ref();
        let said = [
            ("dev", self.dev.then(|| Value::from(true))),
            ("prod", self.prod.then(|| Value::from(true))),
            ("profile", text(&self.profile)),
            (
                "listen",
                self.listen.map(|listen| listen.to_string().into()),
            ),
            ("host", self.host.map(|host| host.to_string().into())),
            ("port", self.port.map(Value::from)),
            ("path", text(&self.path)),
            ("shards", shards(self.shards)),
            ("workers", shards(self.workers)),
            ("jwt_secret", secret.map(|secret| secret.0.as_str().into())),
            ("connections_max", self.connections_max.map(Value::from)),
            (
                "send_queue_bytes_max",
                self.send_queue_bytes_max.map(Value::from),
            ),
            ("drain_grace_period", text(&self.drain_grace_period)),
            ("drain_close_timeout", text(&self.drain_close_timeout)),
            ("log_level", text(&self.log_level)),
            ("log_format", text(&self.log_format)),
        ];
        let said = said.into_iter().filter_map(|(key, value)| {
            let source = format!("--{}", key.replace('_', "-"));
            Some(Entry::new(key, value?, source))
        });
        said.collect()
    }
}

/// The host of a flag: an address, or `localhost`.
///
/// # Errors
/// What would be right.
pub fn parse_host(text: &str) -> Result<IpAddr, String> {
    IpAddr::parse(&Value::from(text)).ok_or_else(|| format!("expected {}", IpAddr::RULE))
}

/// The address of a flag.
///
/// # Errors
/// What would be right.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let address = super::layer::parse_address(&Value::from(text));
    let expected = || format!("expected {}", super::layer::ADDRESS_RULE);
    address.map(SocketAddr::from).ok_or_else(expected)
}
