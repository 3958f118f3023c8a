//! What nodes ask each other about their sessions, channels and histories, and what they answer.

use super::channel_page::ChannelSearch;
use super::info::ConnectionInfo;
use crate::auth::Identity;
use crate::base::DialectId;
use crate::broker::{RateLimitStatus, SessionSearch};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A question to all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum NodeQuestion {
    /// Sessions that match, after one with this id.
    Connections {
        search: SearchText,
        after: Option<String>,
        limit: usize,
    },
    /// Something is done with one session, of a tenant if that is named.
    Session {
        id: String,
        tenant: Option<String>,
        action: SessionAction,
    },
    /// The sessions of a user are closed.
    DisconnectUser {
        user: String,
        tenant: Option<String>,
    },
    /// Channels with subscribers.
    Channels { search: ChannelSearch, limit: usize },
    /// How many subscribers a channel has, by its full name.
    Subscribers { channel: String },
    /// What was published for a user only is deleted.
    DeleteUserHistory {
        user: String,
        tenant: Option<String>,
    },
    /// Whether what came before the question is delivered.
    Delivered,
}

/// What is done with a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SessionAction {
    /// Information about it.
    Show,
    /// What it has used of its rate limits.
    ShowRates,
    /// It is closed (1000).
    Disconnect,
    /// It gets another identity.
    Identify(Box<Identity>),
    /// A message is sent to it.
    Send {
        /// Its type.
        kind: String,
        /// Its data, JSON.
        data: String,
    },
    /// A message is sent to it as it is.
    SendRaw {
        /// The message, base64.
        base64: String,
        /// Whether it is a binary one.
        is_binary: bool,
    },
    /// It is subscribed to a channel.
    Subscribe {
        /// The channel.
        channel: String,
        /// Whether that is one of a tenant.
        is_of_tenant: bool,
    },
    /// A subscription of it ends.
    Unsubscribe {
        /// The channel.
        channel: String,
    },
}

/// What was done with a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionAnswer {
    /// It was done.
    Done,
    /// Information about the session.
    Info(Box<ConnectionInfo>),
    /// What it has used of its rate limits.
    Rates(RateLimitStatus),
    /// The channels of the session are not those of a tenant.
    NotIsolated,
    /// Its shard is stalled.
    Stalled,
}

/// How many sessions or subscribers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    pub(super) count: usize,
    /// False while a shard is stalled.
    pub(super) is_complete: bool,
}

/// A search for sessions as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchText {
    user: Option<String>,
    tenant: Option<String>,
    dialect: Option<String>,
    channel: Option<String>,
    address: Option<IpAddr>,
}

impl From<&SessionSearch> for SearchText {
    fn from(search: &SessionSearch) -> Self {
        Self {
            user: search.user.clone(),
            tenant: search.tenant.clone(),
            dialect: search.dialect.map(|dialect| dialect.name().to_owned()),
            channel: search.channel.clone(),
            address: search.address,
        }
    }
}

impl SearchText {
    /// The search; `None` if this server has no such dialect.
    pub(super) fn read(self) -> Option<SessionSearch> {
        let dialect = match self.dialect {
            Some(name) => Some(DialectId::named(&name)?),
            None => None,
        };
        Some(SessionSearch {
            user: self.user,
            tenant: self.tenant,
            dialect,
            channel: self.channel,
            address: self.address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_reads_as_it_was_written() {
        let search = SessionSearch {
            user: Some("ann \"1\"".into()),
            dialect: Some(DialectId::Gateway),
            address: Some([127, 0, 0, 1].into()),
            ..SessionSearch::default()
        };
        let action = SessionAction::Identify(Box::new(Identity::new("ann").with_role("x")));
        let questions = [
            NodeQuestion::Connections {
                search: (&search).into(),
                after: Some("89abcdef0001000002000003".into()),
                limit: 7,
            },
            NodeQuestion::Session {
                id: "127.0.0.1:5:1.0".into(),
                tenant: Some("acme".into()),
                action,
            },
            NodeQuestion::Delivered,
        ];
        for question in questions {
            let text = serde_json::to_vec(&question).unwrap();
            assert_eq!(
                serde_json::from_slice::<NodeQuestion>(&text).unwrap(),
                question
            );
        }
        assert_eq!(SearchText::from(&search).read(), Some(search));
        let unknown = SearchText {
            dialect: Some("none".into()),
            ..SearchText::default()
        };
        assert_eq!(unknown.read(), None);
    }

    #[test]
    fn other_texts_are_no_questions() {
        for text in [
            "",
            "null",
            "{}",
            "\"disconnect\"",
            "{\"subscribers\":{}}",
            "{\"subscribers\":{\"channel\":\"news\",\"more\":1}}",
            "{\"connections\":{\"search\":{},\"after\":null,\"limit\":-1}}",
            "{\"session\":{\"id\":\"1\",\"tenant\":null,\"action\":\"explode\"}}",
        ] {
            assert!(
                serde_json::from_str::<NodeQuestion>(text).is_err(),
                "{text}"
            );
        }
    }
}
