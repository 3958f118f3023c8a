//! Who is on which channel, for the embedding program.

use super::handle::Server;
use crate::base::PresenceMode;
use crate::base::limits::{PRESENCE_REPLY_BYTES_MAX, PRESENCE_REPLY_USERS_MAX};

/// Who is on a channel, as [`Server::presence`] reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelPresence {
    /// Users with sessions that are subscribed to the channel, in the order of their ids.
    pub members: Vec<ChannelMember>,
    /// How many different users are there in all.
    pub users: u64,
    /// How many sessions are there in all, those without a user included.
    pub sessions: u64,
    /// Whether no members follow.
    pub is_complete: bool,
}

/// A user with sessions on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelMember {
    /// The user's id.
    pub user: String,
    /// How many sessions of the user are subscribed to the channel.
    pub sessions: u32,
}

impl Server {
    /// Who is on a channel, on all shards: the users after `after` in the order of their ids, or the
    /// first ones; at most `limit` of them, 1,000, and about 64 KiB of ids. `None` if that is not kept
    /// of the channel (setting `presence`).
    ///
    /// With several nodes, these are the sessions of all; for a channel without subscribers on this node,
    /// the call waits until the others have told of it, a second at most.
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().dev();
    /// let server = server.set("presence", vec!["news members"]).start()?;
    /// let mut after = None;
    /// while let Some(presence) = server.presence("news", after.as_deref(), 1_000) {
    ///     presence.members.iter().for_each(|member| println!("{}", member.user));
    ///     after = presence.members.last().map(|member| member.user.clone());
    ///     if presence.is_complete {
    ///         break;
    ///     }
    /// }
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn presence(
        &self,
        channel: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Option<ChannelPresence> {
        let process_state = &self.running.context().process_state;
        let name = self.name_in_scope(channel);
        let presence = &process_state.presence;
        if presence.mode_of(&name) == PresenceMode::Off {
            return None;
        }
        let tag = process_state.interests.tag(&name);
        if let Some(link) = &process_state.link
            && !link.is_attached(tag)
        {
            futures_lite::future::block_on(link.attach(tag, &name, None));
        }
        let limit = limit.min(PRESENCE_REPLY_USERS_MAX as usize);
        let page = presence.page((tag, &name), after, (limit, PRESENCE_REPLY_BYTES_MAX));
        let members = page.members.iter().map(|(user, sessions)| ChannelMember {
            user: user.to_string(),
            sessions: *sessions,
        });
        Some(ChannelPresence {
            members: members.collect(),
            users: page.counts.users,
            sessions: page.counts.sessions,
            is_complete: page.is_complete,
        })
    }
}
