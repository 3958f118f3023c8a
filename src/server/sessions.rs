//! Changes to sessions from any thread, and revocations.

use super::handle::Server;
use crate::auth::Identity;
use crate::base::Now;
use crate::base::counters::CloseReason;
use crate::broker::{Command, SessionView};
use crate::shard::Shard;

impl Server {
    /// Sets the identity of a session, as a token would, without an answer to its client; false when
    /// there is no session with this id. The session is closed if the identity has another tenant
    /// than its request names, or no place in a limit.
    ///
    /// # Panics
    /// In a handler.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let was_there = server.identify("127.0.0.1:50000:1700000000.000", &fanwire::Identity::new("ann"));
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn identify(&self, id: &str, identity: &Identity) -> bool {
        let identity = identity.clone();
        identity.is_valid()
            && self.command(id, move |shard, connection, now| {
                shard.command(connection, Command::Identify(&identity), now)
            })
    }

    /// Subscribes a session to a channel, without an answer to its client and without the access
    /// rules; false when there is no session with this id.
    ///
    /// # Panics
    /// In a handler.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let was_there = server.subscribe("127.0.0.1:50000:1700000000.000", "news");
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn subscribe(&self, id: &str, channel: &str) -> bool {
        let channel = channel.to_owned();
        self.command(id, move |shard, connection, now| {
            let channel = &*channel;
            shard.command(connection, Command::SubscribeServerSide { channel }, now)
        })
    }

    /// Ends a subscription of a session, without an answer to its client; false when there is no
    /// session with this id.
    ///
    /// # Panics
    /// In a handler.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let was_there = server.unsubscribe("127.0.0.1:50000:1700000000.000", "news");
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn unsubscribe(&self, id: &str, channel: &str) -> bool {
        let channel = channel.to_owned();
        self.command(id, move |shard, connection, now| {
            let channel = &*channel;
            shard.command(connection, Command::UnsubscribeServerSide { channel }, now)
        })
    }

    /// Revokes the token with this id (`jti`): it is no longer accepted, and its sessions are closed
    /// (1008 `revoked`). It is remembered until the server ends; of more than 100,000 the oldest are
    /// forgotten. Returns how many sessions were closed.
    ///
    /// # Panics
    /// In a handler.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let closed = server.revoke_token("5f0c2a5e");
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn revoke_token(&self, id: &str) -> usize {
        let now_unix_s = self.running.context().clock.now().unix_s();
        let revocations = self.running.verifier.revocations();
        revocations.revoke_token(id, u64::MAX, now_unix_s);
        let id = id.to_owned();
        self.close_revoked(move |view| {
            let identity = view.identity;
            identity.is_some_and(|identity| identity.token_id.as_deref() == Some(&*id))
        })
    }

    /// Revokes all tokens of a user that are issued by now, and those that do not say when they were
    /// issued (`iat`); its sessions are closed (1008 `revoked`). A user of one tenant by
    /// [`in_tenant`](Self::in_tenant), else of all. Returns how many sessions were closed.
    ///
    /// # Panics
    /// In a handler.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let closed = server.in_tenant("acme").revoke_user("ann");
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn revoke_user(&self, user: &str) -> usize {
        let now_unix_s = self.running.context().clock.now().unix_s();
        let tenant = self.tenant().map(str::to_owned);
        let times = (now_unix_s, u64::MAX);
        let revocations = self.running.verifier.revocations();
        revocations.revoke_user(user, tenant.as_deref(), times, now_unix_s);
        let user = user.to_owned();
        self.close_revoked(move |view| {
            let is_user = view
                .identity
                .is_some_and(|identity| *identity.user == *user);
            is_user
                && tenant
                    .as_deref()
                    .is_none_or(|tenant| view.tenant == Some(tenant))
        })
    }

    fn command(
        &self,
        id: &str,
        call: impl FnOnce(&mut Shard, crate::base::ConnectionId, Now) -> bool + Send + 'static,
    ) -> bool {
        let called = self.find(id).and_then(|id| {
            let call = move |shard: &mut Shard, now: Now| call(shard, id.connection, now);
            self.running.call_shard(id.shard, call)
        });
        called.unwrap_or(false)
    }

    fn close_revoked(
        &self,
        is_revoked: impl Fn(&SessionView<'_>) -> bool + Clone + Send + 'static,
    ) -> usize {
        let shards = 0..self.shard_cores().len();
        let closed = shards.map(|shard| {
            let is_revoked = is_revoked.clone();
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
            let shard = u16::try_from(shard).unwrap_or(u16::MAX);
            self.running.call_shard(shard, close).unwrap_or(0)
        });
        closed.sum()
    }
}
