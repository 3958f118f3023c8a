//! Sessions, as the embedding program finds and changes them; revocations.

use super::handle::{Server, assert_not_shard};
use crate::api::{ConnectionInfo, ConnectionPage, WhileStalled, info};
use crate::auth::Identity;
use crate::base::counters::CloseReason;
use crate::base::{ConnectionId, Now};
use crate::broker::{Command, RateLimitStatus, SessionId, SessionSearch, SessionView};
use crate::shard::{PublishError, Shard};
use crate::ws::{Opcode, frame};
use serde::Serialize;

/// Most sessions of one page.
const PAGE_MAX: usize = 1_000;

impl Server {
    /// A session by its id, or by the connection id of the monitoring dialect.
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
        let describe = |shard: &mut Shard, id, now| info(shard.broker(), id, now);
        self.on_session(id, describe).await.flatten()
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
        let shards = &self.running.context().shards;
        let limit = limit.clamp(1, PAGE_MAX);
        shards.page(WhileStalled::Wait, &search, after, limit).await
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
        let status = |shard: &mut Shard, id, now| shard.broker().rate_limit_status(id, now);
        self.on_session(id, status).await.flatten()
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
        let send = move |shard: &mut Shard, id, now| shard.send_message(id, &kind, &data, now);
        let sent = self.on_session(&id.to_string(), send).await;
        Ok(sent.is_some())
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
        self.send_frame(id, frame::message(Opcode::Text, text.as_bytes()))
            .await
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
        self.send_frame(id, frame::message(Opcode::Binary, bytes))
            .await
    }

    async fn send_frame(&self, id: SessionId, frame: Vec<u8>) -> bool {
        let send = move |shard: &mut Shard, id, now| shard.send_frame(id, &frame, now);
        self.on_session(&id.to_string(), send).await.is_some()
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
        let close = |shard: &mut Shard, id, now| shard.disconnect(id, now);
        self.on_session(id, close).await.unwrap_or(false)
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
        let (identity, is_valid) = (identity.clone(), identity.is_valid());
        let identify =
            move |shard: &mut Shard, id, now| shard.command(id, Command::Identify(&identity), now);
        is_valid && self.on_session(id, identify).await.unwrap_or(false)
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
        let subscribe = move |shard: &mut Shard, id, now| {
            let channel = &*channel;
            shard.command(id, Command::SubscribeServerSide { channel }, now)
        };
        self.on_session(id, subscribe).await.unwrap_or(false)
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
        let unsubscribe = move |shard: &mut Shard, id, now| {
            let channel = &*channel;
            shard.command(id, Command::UnsubscribeServerSide { channel }, now)
        };
        self.on_session(id, unsubscribe).await.unwrap_or(false)
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

    /// Calls it for a session on its shard; `None` if there is no such session.
    async fn on_session<T: Send + 'static>(
        &self,
        id: &str,
        call: impl FnOnce(&mut Shard, ConnectionId, Now) -> T + Send + 'static,
    ) -> Option<T> {
        assert_not_shard();
        let shards = &self.running.context().shards;
        shards.with_session(id, self.tenant(), call).await
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
