//! Rooms and their channels; some names are reserved.

use crate::base::{DialectId, PresenceMode, PresenceRule};
use crate::config::{AccessRule, ChannelPattern, Requirement};

/// All admins, whom the server subscribes.
pub(crate) const ADMIN: &str = "room:admin";
/// Subscribers of the host's metrics.
pub(crate) const SYSTEM_MONITORING: &str = "room:system_monitoring";
/// Subscribers of job updates.
pub(crate) const BACKGROUND_JOBS: &str = "room:background_jobs";
/// All documents of all users; for admins.
pub(crate) const ALL_DOCUMENT_UPDATES: &str = "room:all_document_updates";
/// The documents of one user, whose id follows; for that user.
pub(crate) const DOCUMENT_UPDATES_PREFIX: &str = "room:document_updates_";
/// The role that gives access to the rooms for admins.
pub(crate) const ADMIN_ROLE: &str = "admin";

/// The rules for who may subscribe to which rooms.
pub(super) fn access_rules() -> Vec<AccessRule> {
    vec![
        AccessRule {
            channels: ChannelPattern::exact(ADMIN),
            requirement: Requirement::Role(ADMIN_ROLE.into()),
            auto_subscribe: Some(DialectId::Assist),
        },
        AccessRule {
            channels: ChannelPattern::exact(ALL_DOCUMENT_UPDATES),
            requirement: Requirement::Role(ADMIN_ROLE.into()),
            auto_subscribe: None,
        },
        AccessRule {
            channels: ChannelPattern::prefix(DOCUMENT_UPDATES_PREFIX),
            requirement: Requirement::OwnUser,
            auto_subscribe: None,
        },
    ]
}

/// The rooms with a fixed meaning: who joins and leaves them is nobody's business.
pub(super) fn without_presence() -> Vec<PresenceRule> {
    let rooms = [
        (ADMIN, false),
        (SYSTEM_MONITORING, false),
        (BACKGROUND_JOBS, false),
        (ALL_DOCUMENT_UPDATES, false),
        (DOCUMENT_UPDATES_PREFIX, true),
    ];
    let rules = rooms.map(|(literal, is_prefix)| PresenceRule {
        literal: literal.into(),
        is_prefix,
        mode: PresenceMode::Off,
    });
    rules.into()
}
