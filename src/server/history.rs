//! The history of channels, for the embedding program.

use super::handle::Server;
use crate::base::Position;
use crate::base::channel_names::channel_of_tenant;
use crate::base::channel_names::is_reserved;
use crate::base::limits::HISTORY_REPLY_MESSAGES_MAX;
use crate::shard::{HistoryPage, PageRequest};
use std::borrow::Cow;
use tokio::sync::oneshot;

/// Publications of a channel, as [`Server::history`] reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelHistory {
    /// The publications, oldest first.
    pub entries: Vec<HistoryEntry>,
    /// Up to where they reach: what to read the next ones after.
    pub position: String,
    /// Whether nothing is missing: no publication after them and, if a position was named, none
    /// between it and them.
    pub is_complete: bool,
}

/// A publication that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// Its position, as clients see it.
    pub position: String,
    /// Its type.
    pub kind: String,
    /// Its data, as JSON: of a binary message a text in base64.
    pub data: String,
    /// Whether it is a binary message.
    pub is_binary: bool,
    /// When it was published, milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
}

/// Something that was published is not in the durable store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotStored;

impl std::fmt::Display for NotStored {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("not everything that was published is in the durable store")
    }
}

impl std::error::Error for NotStored {}

impl Server {
    /// Reads the history of a channel: what follows the position `after`, or the newest; at most
    /// `limit` publications, 1,000, and about 256 KiB. `None` if the channel has no history
    /// (setting `history`) or `after` is no position.
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().dev();
    /// let server = server.set("history", vec!["news messages=100"]).start()?;
    /// server.broadcast("news", "headline", &"hello").ok();
    /// let newest = server.history("news", None, 10);
    /// assert_eq!(newest.map(|history| history.entries.len()), Some(1));
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn history(
        &self,
        channel: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Option<ChannelHistory> {
        let after = match after {
            Some(text) => Some(Position::parse(text)?),
            None => None,
        };
        let context = self.running.context();
        let request = PageRequest {
            name: &self.name_in_scope(channel),
            after,
            limit: limit.min(HISTORY_REPLY_MESSAGES_MAX as usize),
            ring_position: context.publisher.ring_position(),
        };
        let page = HistoryPage::read(&context.process_state, request, context.clock.now())?;
        let entries = page.messages().map(|(message, ..)| HistoryEntry {
            position: message.position.to_string(),
            kind: message.kind.to_owned(),
            data: message.data.to_json().into_owned(),
            is_binary: message.data.is_binary(),
            unix_ms: message.unix_ms,
        });
        Some(ChannelHistory {
            entries: entries.collect(),
            position: page.position.to_string(),
            is_complete: page.is_complete,
        })
    }

    /// Removes the history of a channel. Clients that ask for what they missed before are told that
    /// they cannot recover. Where there are several nodes, it is removed on the others and in Redis soon
    /// after; while Redis is away, on this node only.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.delete_history("prop:7");
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn delete_history(&self, channel: &str) {
        let full_name = self.name_in_scope(channel);
        let context = self.running.context();
        drop(context.delete_history_everywhere(&full_name));
    }

    /// Removes from the history of all channels of this handle's tenant, or of those without one, what was
    /// published for this user only, and where the user stopped (`offline_queue`). Looks at every
    /// publication that is kept: call it seldom, and not on a thread that others wait for. On other nodes
    /// and in Redis it is deleted soon after; while Redis is away, on this node only.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.delete_user_history("ann");
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn delete_user_history(&self, user: &str) {
        let context = self.running.context();
        drop(context.delete_user_history_everywhere(self.tenant(), user));
    }

    /// Ready when all that calls of this server's handles have published is in the durable store as
    /// `store_sync` promises; at once without a store.
    ///
    /// # Errors
    /// [`NotStored`] if something that was published since the last call, by anybody, could not be
    /// stored. It was published all the same.
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().dev().set("store", "/var/lib/fanwire");
    /// let server = server.set("history", vec!["news messages=100"]).start()?;
    /// server.broadcast("news", "headline", &"hello")?;
    /// fanwire::block_on(server.stored())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn stored(&self) -> Result<(), NotStored> {
        let (answer, answered) = oneshot::channel();
        let completion = move |stored: Result<u64, _>| {
            // Fails when nobody waits any more.
            let _ = answer.send(stored.is_ok());
        };
        let context = self.running.context();
        if let Some(link) = &context.process_state.link {
            link.flushed().await;
        }
        let marked = context.publisher.mark_stored(Box::new(completion));
        let is_stored = marked.is_ok() && answered.await.unwrap_or(false);
        let journal = context.journal.as_ref();
        let has_losses = journal.is_some_and(|journal| journal.take_losses());
        (is_stored && !has_losses).then_some(()).ok_or(NotStored)
    }

    /// The full name of a channel of this handle's tenant, or without one.
    pub(super) fn name_in_scope<'a>(&self, channel: &'a str) -> Cow<'a, str> {
        match self.tenant() {
            Some(tenant) if !is_reserved(channel) => channel_of_tenant(tenant, channel).into(),
            _ => channel.into(),
        }
    }
}
