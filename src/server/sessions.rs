//! Sessions, as the embedding program finds and changes them; revocations.

use super::handle::{Server, assert_not_shard};
use crate::api::{ConnectionInfo, ConnectionPage, SessionAction, SessionAnswer, WhileStalled};
use crate::auth::Identity;
use crate::base::Now;
use crate::base::counters::CloseReason;
use crate::broker::{Command, RateLimitStatus, SessionId, SessionSearch, SessionView};
use crate::shard::{PublishError, Shard};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// Most sessions of one page.
const PAGE_MAX: usize = 1_000;

impl Server {
    /// A session by its id, or by the connection id of the monitoring dialect. Here and below, a session of
    /// whichever node that answers in time.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # async fn show(server: fanwire::Server) {
    /// if let Some(info) = server.connection_info("127.0.0.1:50000:1700000000.000").await {
    ///     println!("{:?} is in {:?}", info.user_id, info.channels);
    /// }
    /// # }
    /// ```
    pub async fn connection_info(&self, id: &str) -> Option<ConnectionInfo> {
        match self.act(id, SessionAction::Show).await {
            Some(SessionAnswer::Info(info)) => Some(*info),
            _ => None,
        }
    }

    /// Sessions that match, in pages of at most `limit` and 1,000: the first one, or what follows after
    /// the `next` of another. With a handle for a tenant, sessions of this tenant.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # async fn list(server: fanwire::Server) {
    /// use fanwire::SessionSearch;
    ///
    /// let of_ann = SessionSearch { user: Some("ann".into()), ..SessionSearch::default() };
    /// let mut next = None;
    /// loop {
    ///     let page = server.connections(&of_ann, next.as_deref(), 100).await;
    ///     page.connections.iter().for_each(|info| println!("{} {}", info.id, info.address));
    ///     next = page.next;
    ///     if next.is_none() {
    ///         break;
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn connections(
        &self,
        search: &SessionSearch,
        after: Option<&str>,
        limit: usize,
    ) -> ConnectionPage {
        assert_not_shard();
        let channel = search.channel.as_deref();
        let search = SessionSearch {
            tenant: self.tenant().map(str::to_owned).or(search.tenant.clone()),
            channel: channel.map(|channel| self.name_in_scope(channel).into_owned()),
            ..search.clone()
        };
        let after: Option<SessionId> = after.and_then(|id| id.parse().ok());
        let limit = limit.clamp(1, PAGE_MAX);
        let context = self.running.context();
        let page = context.connection_page(WhileStalled::Wait, &search, after, limit);
        page.await
    }

    /// What a session has used of its rate limits; the session is named as for
    /// [`Server::connection_info`].
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # async fn show(server: fanwire::Server) {
    /// if let Some(status) = server.rate_limit_status("0000000000000000").await {
    ///     println!("{:?}", status.user.or(status.session));
    /// }
    /// # }
    /// ```
    pub async fn rate_limit_status(&self, id: &str) -> Option<RateLimitStatus> {
        match self.act(id, SessionAction::ShowRates).await {
            Some(SessionAnswer::Rates(rates)) => Some(rates),
            _ => None,
        }
    }

    /// Sends a message to one session; false when there is none with this id.
    ///
    /// # Errors
    /// [`PublishError::Data`] when `data` cannot be written as JSON.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # async fn send(server: fanwire::Server, id: fanwire::SessionId) -> Result<(), fanwire::PublishError> {
    /// let was_sent = server.send(id, "report", &serde_json::json!({"ready": true})).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(
        &self,
        id: SessionId,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<bool, PublishError> {
        let data = serde_json::to_string(data).map_err(PublishError::Data)?;
        let kind = kind.to_owned();
        let send = SessionAction::Send { kind, data };
        Ok(self.act(&id.to_string(), send).await.is_some())
    }

    /// Sends a text message to one session, as it is; false when there is none with this id.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # async fn send(server: fanwire::Server, id: fanwire::SessionId) {
    /// let was_sent = server.send_text(id, "hello").await;
    /// # }
    /// ```
    pub async fn send_text(&self, id: SessionId, text: &str) -> bool {
        self.send_raw(id, text.as_bytes(), false).await
    }

    /// The same with a binary message.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # async fn send(server: fanwire::Server, id: fanwire::SessionId) {
    /// let was_sent = server.send_binary(id, &[1, 2, 3]).await;
    /// # }
    /// ```
    pub async fn send_binary(&self, id: SessionId, bytes: &[u8]) -> bool {
        self.send_raw(id, bytes, true).await
    }

    async fn send_raw(&self, id: SessionId, bytes: &[u8], is_binary: bool) -> bool {
        let base64 = STANDARD.encode(bytes);
        let send = SessionAction::SendRaw { base64, is_binary };
        self.act(&id.to_string(), send).await.is_some()
    }

    /// Closes a session (1000); false when there is none with this id.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # async fn disconnect(server: fanwire::Server) {
    /// let was_there = server.disconnect("127.0.0.1:50000:1700000000.000").await;
    /// # }
    /// ```
    pub async fn disconnect(&self, id: &str) -> bool {
        self.act(id, SessionAction::Disconnect).await.is_some()
    }

    /// Sets the identity of a session, as a token would, without an answer to its client; false when
    /// there is no session with this id. The session is closed if the identity has another tenant
    /// than its request names, or no place in a limit.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # async fn change(server: fanwire::Server) {
    /// let was_there = server.identify("127.0.0.1:50000:1700000000.000", &fanwire::Identity::new("ann")).await;
    /// # }
    /// ```
    pub async fn identify(&self, id: &str, identity: &Identity) -> bool {
        let identify = SessionAction::Identify(Box::new(identity.clone()));
        self.act(id, identify).await.is_some()
    }

    /// Subscribes a session to a channel, without an answer to its client and without the access
    /// rules; false when there is no session with this id.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # async fn change(server: fanwire::Server) {
    /// let was_there = server.subscribe("127.0.0.1:50000:1700000000.000", "news").await;
    /// # }
    /// ```
    pub async fn subscribe(&self, id: &str, channel: &str) -> bool {
        let channel = channel.to_owned();
        let subscribe = SessionAction::Subscribe {
            channel,
            is_of_tenant: false,
        };
        self.act(id, subscribe).await.is_some()
    }

    /// Ends a subscription of a session, without an answer to its client; false when there is no
    /// session with this id.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # async fn change(server: fanwire::Server) {
    /// let was_there = server.unsubscribe("127.0.0.1:50000:1700000000.000", "news").await;
    /// # }
    /// ```
    pub async fn unsubscribe(&self, id: &str, channel: &str) -> bool {
        let channel = channel.to_owned();
        self.act(id, SessionAction::Unsubscribe { channel })
            .await
            .is_some()
    }

    /// Revokes the token with this id (`jti`): it is no longer accepted, and its sessions are closed
    /// (1008 `revoked`). It is remembered until the server ends; of more than 100,000 the oldest are
    /// forgotten. Returns how many sessions were closed.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # async fn change(server: fanwire::Server) {
    /// let closed = server.revoke_token("5f0c2a5e").await;
    /// # }
    /// ```
    pub async fn revoke_token(&self, id: &str) -> usize {
        assert_not_shard();
        let now_unix_s = self.running.context().clock.now().unix_s();
        let revocations = self.running.verifier.revocations();
        revocations.revoke_token(id, u64::MAX, now_unix_s);
        let id = id.to_owned();
        let is_revoked = move |view: &SessionView<'_>| {
            let identity = view.identity;
            identity.is_some_and(|identity| identity.token_id.as_deref() == Some(&*id))
        };
        self.close_revoked(is_revoked).await
    }

    /// Revokes all tokens of a user that are issued by now, and those that do not say when they were
    /// issued (`iat`); its sessions are closed (1008 `revoked`). A user of one tenant by
    /// [`in_tenant`](Self::in_tenant), else of all. Returns how many sessions were closed.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # async fn change(server: fanwire::Server) {
    /// let closed = server.in_tenant("acme").revoke_user("ann").await;
    /// # }
    /// ```
    pub async fn revoke_user(&self, user: &str) -> usize {
        assert_not_shard();
        let now_unix_s = self.running.context().clock.now().unix_s();
        let tenant = self.tenant().map(str::to_owned);
        let times = (now_unix_s, u64::MAX);
        let revocations = self.running.verifier.revocations();
        revocations.revoke_user(user, tenant.as_deref(), times, now_unix_s);
        let user = user.to_owned();
        let is_revoked = move |view: &SessionView<'_>| {
            let is_user = view
                .identity
                .is_some_and(|identity| *identity.user == *user);
            is_user
                && tenant
                    .as_deref()
                    .is_none_or(|tenant| view.tenant == Some(tenant))
        };
        self.close_revoked(is_revoked).await
    }

    /// Does something with a session; `None` if there is no such session.
    async fn act(&self, id: &str, action: SessionAction) -> Option<SessionAnswer> {
        assert_not_shard();
        let (context, wait) = (self.running.context(), WhileStalled::Wait);
        let answer = context.act_on_session(id, self.tenant(), wait, action);
        answer.await.ok()
    }

    async fn close_revoked(
        &self,
        is_revoked: impl Fn(&SessionView<'_>) -> bool + Clone + Send + 'static,
    ) -> usize {
        let close = move |shard: &mut Shard, now: Now| {
            let broker = shard.broker();
            let sessions = broker.sessions().filter(|id| {
                let view = broker.view(*id, now);
                view.is_some_and(|view| is_revoked(&view))
            });
            let sessions: Vec<_> = sessions.collect();
            for id in &sessions {
                let reason = CloseReason::Revoked;
                shard.command(*id, Command::EndSession { reason }, now);
            }
            sessions.len()
        };
        let shards = &self.running.context().shards;
        let (closed, _) = shards.call_all(WhileStalled::Wait, close).await;
        closed.iter().sum()
    }
}
