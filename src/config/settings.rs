//! All settings.

use super::dialect_policy::DialectPolicy;
use super::http::HttpSettings;
use super::ingest::IngestSettings;
use super::listener::Listener;
use super::log::LogSettings;
use super::policy::Policy;
use super::process::{AssistSettings, GatewaySettings, NotificationsSettings, ProcessSettings};
use super::redis::RedisSettings;
use super::report::Report;
use super::tls::TlsSettings;
use super::tokens::TokenSettings;
use super::traces::TraceSettings;
use super::webhooks::WebhookSettings;
use crate::base::DialectId;

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Those of the process.
    pub process: ProcessSettings,
    /// Settings of tokens.
    pub tokens: TokenSettings,
    /// Settings of webhooks and callbacks.
    pub webhooks: WebhookSettings,
    /// Settings of HTTP.
    pub http: HttpSettings,
    /// Settings of programs on this host that publish through shared memory.
    pub ingest: IngestSettings,
    /// Settings of several nodes.
    pub redis: RedisSettings,
    /// Settings of TLS.
    pub tls: TlsSettings,
    /// Whether the server is not to start without its admin listener.
    pub is_admin_required: bool,
    /// Settings of the log.
    pub log: LogSettings,
    /// Whether the server is not to start without its log file; if not, standard error will do.
    pub is_log_file_required: bool,
    /// Settings of traces.
    pub traces: TraceSettings,
    /// The listeners and their dialects; at least one.
    pub listeners: Vec<Listener>,
    /// The rules of each dialect, in the order of their indices.
    pub dialects: [DialectPolicy; DialectId::COUNT],
    /// Settings of the gateway dialect only.
    pub gateway: GatewaySettings,
    /// Settings of the assist dialect only.
    pub assist: AssistSettings,
    /// Settings of the notifications dialect only.
    pub notifications: NotificationsSettings,
    /// All settings with their sources.
    pub report: Report,
    /// Notices for the operator, logged at start.
    pub notices: Vec<Notice>,
}

/// A message about the settings that is not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// How a setting is interpreted.
    Info(String),
    /// A likely mistake.
    Warning(String),
}

impl Settings {
    /// The dialects that at least one listener serves.
    #[must_use]
    pub fn dialects_in_use(&self) -> Vec<DialectId> {
        let mut dialects: Vec<_> = DialectId::ALL.to_vec();
        dialects.retain(|dialect| {
            let mut listeners = self.listeners.iter();
            listeners.any(|listener| listener.routes.serve(*dialect))
        });
        dialects
    }

    /// The rules for sessions that follow from the settings.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let process = &self.process;
        Policy {
            dialects: self.dialects,
            sessions_max: process.connections_max,
            unauthenticated_max: process.unauthenticated_max,
            unauthenticated_per_ip_max: process.unauthenticated_per_ip_max,
            handshakes_per_ip_max: process.handshakes_per_ip_max,
            handshakes_per_shard_max: process.handshakes_per_shard_max,
            auth_failures_per_ip_max: process.auth_failures_per_ip_max,
            trusted_proxies: process.trusted_proxies.clone(),
            proxy_protocol: process.proxy_protocol,
            forwarded_header: process.forwarded_header,
            send_queue_bytes_max: process.send_queue_bytes_max.as_u32(),
            slow_consumer_timeout_ms: process.slow_consumer_timeout.0,
            allowed_origins: process.allowed_origins.clone(),
            origin_rejection: process.origin_rejection,
            capacity_rejection: process.capacity_rejection,
            access_rules: process.access_rules.clone().into(),
            publish_rules: process.publish_rules.clone().into(),
            presence_rules: process.presence_rules.clone().into(),
            history_rules: process.history_rules.clone().into(),
            default_access: process.default_access,
            subscribe_callback: self
                .webhooks
                .subscribe_callback_url
                .as_ref()
                .map(|_| self.webhooks.subscribe_callback_channels.clone()),
            tenant_domain: self.gateway.tenant_domain.clone(),
            routes: self.listeners.iter().map(|it| it.routes.clone()).collect(),
            compressions: self.listeners.iter().map(|it| it.compression).collect(),
            compression: process.compression(),
            client_log: self.log.client_log(),
        }
    }
}
