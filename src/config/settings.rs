//! All settings together.

use super::dialect_policy::DialectPolicy;
use super::listener::{Listener, Routes};
use super::log::LogSettings;
use super::policy::Policy;
use super::process::{AssistSettings, GatewaySettings, NotificationsSettings, ProcessSettings};
use super::report::Report;
use crate::base::DialectId;

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Those of the process.
    pub process: ProcessSettings,
    /// What is logged.
    pub log: LogSettings,
    /// Where to listen, and the dialects there; at least one.
    pub listeners: Vec<Listener>,
    /// The rules of each dialect, in the order of their indices.
    pub dialects: [DialectPolicy; DialectId::COUNT],
    /// What only the gateway dialect has.
    pub gateway: GatewaySettings,
    /// What only the assist dialect has.
    pub assist: AssistSettings,
    /// What only the notifications dialect has.
    pub notifications: NotificationsSettings,
    /// All of this with its sources.
    pub report: Report,
    /// What the operator should know, to be logged at start.
    pub notices: Vec<Notice>,
}

/// Something about the settings that is not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// How something was understood.
    Info(String),
    /// A likely mistake.
    Warning(String),
}

impl Settings {
    /// The dialects that some listener speaks.
    #[must_use]
    pub fn dialects_in_use(&self) -> Vec<DialectId> {
        let mut dialects: Vec<_> = DialectId::ALL.to_vec();
        dialects.retain(|dialect| {
            self.listeners.iter().any(|listener| match listener.routes {
                Routes::ByPath => true,
                Routes::Profile {
                    dialect: spoken, ..
                } => spoken == *dialect,
            })
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
            send_queue_bytes_max: process.send_queue_bytes_max.as_u32(),
            allowed_origins: process.allowed_origins.clone(),
            origin_rejection: process.origin_rejection,
            capacity_rejection: process.capacity_rejection,
            access_rules: process.access_rules.clone(),
            tenant_domain: self.gateway.tenant_domain.clone(),
            routes: self.listeners.iter().map(|it| it.routes.clone()).collect(),
        }
    }
}
