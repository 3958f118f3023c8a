//! What is asked of, or done on, all nodes: this one and those that answer. Without others, this one.

use super::channel_page::{ChannelPage, ChannelSearch};
use super::context::ApiContext;
use super::question::{Count, NodeQuestion, SessionAction, SessionAnswer};
use super::sessions::{ConnectionPage, Unreached};
use super::shards::WhileStalled;
use crate::base::{NodeDeletion, Question};
use crate::broker::{SessionId, SessionSearch};
use crate::shard::is_envelope_for_user;
use serde::de::DeserializeOwned;
use std::sync::Arc;

impl ApiContext {
    /// Does something with a session, of a tenant if that is named: by its id, or its connection id of the
    /// monitoring dialect. Shards of other nodes that are stalled are not waited for.
    ///
    /// # Errors
    /// [`Unreached`]
    pub async fn act_on_session(
        &self,
        id: &str,
        tenant: Option<&str>,
        stalled: WhileStalled,
        action: SessionAction,
    ) -> Result<SessionAnswer, Unreached> {
        let session: Option<SessionId> = id.parse().ok();
        let node = self.process_state.node();
        let is_here = session.is_some_and(|session| session.node == node);
        let is_there = session.is_some_and(|session| session.node != node);
        let mut here = Err(Unreached::Unknown);
        if !is_there {
            here = self.shards.act(id, tenant, stalled, action.clone()).await;
        }
        let is_unknown_anywhere = session.is_some_and(|session| session.node == 0);
        if here.is_ok() || is_here || is_unknown_anywhere || self.process_state.link.is_none() {
            return here;
        }
        let question = NodeQuestion::Session {
            id: id.to_owned(),
            tenant: tenant.map(str::to_owned),
            action,
        };
        let (answers, is_complete) = self.ask::<SessionAnswer>(&question, true).await;
        match answers.into_iter().next() {
            Some(SessionAnswer::Stalled) => Err(Unreached::Stalled),
            Some(answer) => Ok(answer),
            None if !is_complete => Err(Unreached::Unanswered),
            None => here,
        }
    }

    /// At most `limit` sessions that match, after one with this id.
    pub async fn connection_page(
        &self,
        stalled: WhileStalled,
        search: &SessionSearch,
        after: Option<SessionId>,
        limit: usize,
    ) -> ConnectionPage {
        let question = NodeQuestion::Connections {
            search: search.into(),
            after: after.map(|after| after.to_string()),
            limit,
        };
        let own = self.shards.page(stalled, search, after, limit);
        let asking = self.ask(&question, false);
        let (own, (mut pages, is_complete)) = futures_util::future::join(own, asking).await;
        pages.push(own);
        ConnectionPage::merge(pages, limit, is_complete)
    }

    /// Closes all sessions of a user, of a tenant if that is named: how many, and whether that are all.
    pub(super) async fn disconnect_user(&self, user: &str, tenant: Option<&str>) -> Count {
        let (user, tenant) = (user.to_owned(), tenant.map(str::to_owned));
        let question = NodeQuestion::DisconnectUser {
            user: user.clone(),
            tenant: tenant.clone(),
        };
        let own = self.shards.disconnect_user(user, tenant);
        self.sum(own, &question).await
    }

    /// How many subscribers a channel has, by its full name.
    pub(super) async fn subscribers(&self, full_name: &str) -> Count {
        let question = NodeQuestion::Subscribers {
            channel: full_name.to_owned(),
        };
        self.sum(self.shards.subscribers(full_name), &question)
            .await
    }

    /// The first `limit` channels.
    pub(super) async fn channel_page(&self, search: ChannelSearch, limit: usize) -> ChannelPage {
        let question = NodeQuestion::Channels {
            search: search.clone(),
            limit,
        };
        let own = self.shards.channel_page(WhileStalled::Skip, &search, limit);
        let asking = self.ask(&question, false);
        let (own, (mut pages, is_complete)) = futures_util::future::join(own, asking).await;
        pages.push(own);
        let mut page = ChannelPage::merge(pages, limit);
        page.is_complete &= is_complete;
        page
    }

    /// Deletes the history of a channel, by its full name, on all nodes and in Redis, whether the future is
    /// awaited or not; whether it is deleted everywhere.
    pub fn delete_history_everywhere(
        &self,
        full_name: &str,
    ) -> impl Future<Output = bool> + Send + use<> {
        self.delete_history(full_name);
        let limits = self.process_state.history.limits_of(full_name);
        let deletion = NodeDeletion::Channel {
            name: full_name.into(),
            age_ms: limits.map_or(0, |limits| limits.age_ms),
        };
        self.ask_after(deletion, &NodeQuestion::Delivered)
    }

    /// The same of what was published for a user only, of a tenant or without one, and of where the user
    /// stopped.
    pub fn delete_user_history_everywhere(
        &self,
        tenant: Option<&str>,
        user: &str,
    ) -> impl Future<Output = bool> + Send + use<> {
        self.delete_user_history(tenant, user);
        let (user, tenant) = (user.to_owned(), tenant.map(str::to_owned));
        let question = NodeQuestion::DeleteUserHistory {
            user: user.clone(),
            tenant: tenant.clone(),
        };
        let deletion = NodeDeletion::Where(Arc::new(move |channel, envelope| {
            is_envelope_for_user(channel, envelope, tenant.as_deref(), &user)
        }));
        self.ask_after(deletion, &question)
    }

    fn ask_after(
        &self,
        deletion: NodeDeletion,
        question: &NodeQuestion,
    ) -> impl Future<Output = bool> + Send + use<> {
        let asking = self.process_state.link.as_ref().map(|link| {
            link.ask(Question {
                text: text(question),
                deletion: Some(deletion),
                is_one_enough: false,
            })
        });
        async {
            match asking {
                Some(asking) => asking.await.is_complete,
                None => true,
            }
        }
    }

    /// The counts of all nodes together.
    async fn sum(&self, own: impl Future<Output = Count>, question: &NodeQuestion) -> Count {
        let asking = self.ask::<Count>(question, false);
        let (own, (counts, is_complete)) = futures_util::future::join(own, asking).await;
        let all = || counts.iter().chain([&own]);
        Count {
            count: all().map(|it| it.count).sum(),
            is_complete: is_complete && all().all(|it| it.is_complete),
        }
    }

    /// What the other nodes answer, and whether these are all answers.
    async fn ask<T: DeserializeOwned>(
        &self,
        question: &NodeQuestion,
        is_one_enough: bool,
    ) -> (Vec<T>, bool) {
        let Some(link) = &self.process_state.link else {
            return (Vec::new(), true);
        };
        let answers = link.ask(Question {
            text: text(question),
            deletion: None,
            is_one_enough,
        });
        let answers = answers.await;
        let count = answers.texts.len();
        let texts = answers.texts.iter();
        let read: Vec<T> = texts
            .filter_map(|text| serde_json::from_slice(text).ok())
            .collect();
        let malformed = count - read.len();
        link.counters.malformed.add(malformed as u64);
        (read, answers.is_complete && malformed == 0)
    }
}

fn text(question: &NodeQuestion) -> Vec<u8> {
    serde_json::to_vec(question).expect("its parts are texts and numbers")
}
