//! Publishing by the embedding program.

use super::handle::Server;
use super::shard_thread::is_shard;
use crate::base::Position;
use crate::base::channel_names::{permission_channel, role_channel, tenant_channel, user_channel};
use crate::broker::{BINARY_KIND, BroadcastTarget, Publication as Borrowed};
use crate::shard::PublishError;
use serde::Serialize;
use std::fmt;

/// A message for the subscribers of a channel.
///
/// ```
/// use fanwire::{BroadcastTarget, Publication};
///
/// let draft = Publication::new("news", "draft", &serde_json::json!({"text": "hello"}))?;
/// let for_editors = draft.to(BroadcastTarget::Role("editor"));
/// # drop(for_editors);
/// # Ok::<(), fanwire::PublishError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Publication<'a> {
    channel: &'a str,
    kind: &'a str,
    data: OwnData<'a>,
    target: BroadcastTarget<'a>,
}

#[derive(Clone, Debug)]
enum OwnData<'a> {
    Json(String),
    Binary(&'a [u8]),
}

/// A publication that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Its position, as clients see it: on a channel with a history (setting `history`), unless it is
    /// larger than a record and waits for room in the ring.
    pub position: Option<String>,
}

/// How far a batch came, and what ended it.
#[derive(Debug)]
pub struct BatchError {
    /// How many publications of the batch were published: the first ones.
    pub published: usize,
    /// Why the next one was not.
    pub error: PublishError,
}

impl fmt::Display for BatchError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "publication {}: {}", self.published, self.error)
    }
}

impl std::error::Error for BatchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<'a> Publication<'a> {
    /// A message of this type for all subscribers of the channel.
    ///
    /// # Errors
    /// [`PublishError::Data`] when `data` cannot be written as JSON.
    ///
    /// ```
    /// let publication = fanwire::Publication::new("news", "headline", &"hello")?;
    /// # drop(publication);
    /// # Ok::<(), fanwire::PublishError>(())
    /// ```
    pub fn new(
        channel: &'a str,
        kind: &'a str,
        data: &impl Serialize,
    ) -> Result<Self, PublishError> {
        Ok(Self {
            channel,
            kind,
            data: OwnData::Json(serde_json::to_string(data).map_err(PublishError::Data)?),
            target: BroadcastTarget::All,
        })
    }

    /// A binary message for all subscribers of the channel that take such messages: gateway clients
    /// that have asked for them.
    ///
    /// ```
    /// let publication = fanwire::Publication::binary("frames", &[0, 1, 2]);
    /// # drop(publication);
    /// ```
    #[must_use]
    pub const fn binary(channel: &'a str, bytes: &'a [u8]) -> Self {
        Self {
            channel,
            kind: BINARY_KIND,
            data: OwnData::Binary(bytes),
            target: BroadcastTarget::All,
        }
    }

    /// The same, for those subscribers that match the target.
    #[must_use]
    pub fn to(mut self, target: BroadcastTarget<'a>) -> Self {
        self.target = target;
        self
    }

    fn borrowed(&self) -> Borrowed<'_> {
        let publication = match &self.data {
            OwnData::Json(json) => Borrowed::new(self.channel, self.kind, json),
            OwnData::Binary(bytes) => Borrowed::binary(self.channel, bytes),
        };
        Borrowed {
            target: self.target,
            ..publication
        }
    }
}

impl Server {
    /// Publishes at once, without waiting.
    ///
    /// # Errors
    /// [`PublishError`], in which case nothing was published: [`PublishError::RingFull`] while the
    /// shards are behind with deliveries. [`Server::publish`] waits then.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let headline = fanwire::Publication::new("news", "headline", &"hello")?;
    /// server.try_publish(&headline)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_publish(&self, publication: &Publication<'_>) -> Result<Published, PublishError> {
        let position = self.write(&publication.borrowed())?;
        let position = position.map(|position| position.to_string());
        Ok(Published { position })
    }

    /// Publishes; while the ring has no space, the future waits. Dropped while it waits, it has not
    /// published. In handlers that run on a shard, whose deliveries would have to go on meanwhile, it
    /// does not wait.
    ///
    /// # Errors
    /// [`PublishError`], in which case nothing was published; not [`PublishError::RingFull`], but in such
    /// a handler.
    ///
    /// ```no_run
    /// # async fn publish(server: fanwire::Server) -> Result<(), fanwire::PublishError> {
    /// for number in 0..1_000_000 {
    ///     let tick = fanwire::Publication::new("ticks", "tick", &number)?;
    ///     server.publish(&tick).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish(&self, publication: &Publication<'_>) -> Result<Published, PublishError> {
        let publisher = &self.running.context().publisher;
        loop {
            match self.try_publish(publication) {
                // A shard that waits does not read, and so would keep the ring full.
                Err(PublishError::RingFull) if !is_shard() => publisher.wait_for_room().await,
                result => return result,
            }
        }
    }

    /// Publishes all of them in their order, as [`Server::publish`] does each.
    ///
    /// # Errors
    /// [`BatchError`] says how many were published, and why the next one was not; those after it were
    /// not tried.
    ///
    /// ```no_run
    /// # async fn publish(server: fanwire::Server) -> Result<(), Box<dyn std::error::Error>> {
    /// let ticks = (0..100).map(|number| fanwire::Publication::new("ticks", "tick", &number));
    /// server.publish_batch(&ticks.collect::<Result<Vec<_>, _>>()?).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_batch(&self, publications: &[Publication<'_>]) -> Result<(), BatchError> {
        for (published, publication) in publications.iter().enumerate() {
            let result = self.publish(publication).await;
            result.map_err(|error| BatchError { published, error })?;
        }
        Ok(())
    }

    /// Publishes to all subscribers of a channel.
    ///
    /// # Errors
    /// As [`Server::try_publish`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast("news", "headline", &serde_json::json!({"text": "hello"}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast(
        &self,
        channel: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast_to(channel, BroadcastTarget::All, kind, data)
    }

    /// Publishes a binary message to the subscribers of a channel that take such messages.
    ///
    /// # Errors
    /// As [`Server::try_publish`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_binary("frames", &[0, 1, 2])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_binary(&self, channel: &str, bytes: &[u8]) -> Result<(), PublishError> {
        self.put(&Borrowed::binary(channel, bytes))
    }

    /// Publishes to those subscribers of a channel that match the target.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// use fanwire::BroadcastTarget;
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_to("news", BroadcastTarget::Role("editor"), "draft", &"new draft")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_to(
        &self,
        channel: &str,
        target: BroadcastTarget<'_>,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        let publication = Publication::new(channel, kind, data)?.to(target);
        self.put(&publication.borrowed())
    }

    /// Publishes to all sessions of a user.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_to_user("ann", "mail", &serde_json::json!({"unread": 3}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_to_user(
        &self,
        user: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast(&user_channel(user), kind, data)
    }

    /// Publishes to all sessions of a tenant.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_to_tenant("acme", "maintenance", &"tonight")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_to_tenant(
        &self,
        tenant: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast(&tenant_channel(tenant), kind, data)
    }

    /// Publishes to all sessions whose token has a role.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_to_role("admin", "alert", &serde_json::json!({"level": 3}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_to_role(
        &self,
        role: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast(&role_channel(role), kind, data)
    }

    /// Publishes to all sessions whose token has a permission.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_to_permission("billing", "invoice", &serde_json::json!({"id": 7}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_to_permission(
        &self,
        permission: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast(&permission_channel(permission), kind, data)
    }

    /// Publishes at once, in the scope of this handle.
    pub(super) fn put(&self, publication: &Borrowed<'_>) -> Result<(), PublishError> {
        self.write(publication).map(|_| ())
    }

    fn write(&self, publication: &Borrowed<'_>) -> Result<Option<Position>, PublishError> {
        let context = self.running.context();
        let publication = publication.in_scope(self.tenant_scope());
        let now = context.clock.now();
        context.publisher.publish(&publication, now)
    }
}
