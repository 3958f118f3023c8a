//! Recovery: a subscriber first receives what it missed, from the history, and then what its shard
//! reads from the ring.
//!
//! ```text
//!   subscribe, recover after P ─▶ recovering: in the tables, receives nothing from the ring
//!                                     │  the shard sends the entries after P, some per turn
//!                                     ▼
//!                                 live: all entries up to where the shard has read are sent
//! ```
//!
//! A subscriber that recovers has a subscriber group of its own. It becomes live between two reads
//! of the ring, when the last entry before the shard's position in the ring is sent: so there is
//! neither a gap nor a duplicate.

use super::channels::SubscriberGroupKey;
use super::command::{BroadcastTarget, TenantScope};
use super::recoveries::Recovery;
use super::state::{Broker, Emit};
use crate::base::channel_names::{permission_channel, role_channel, tenant_channel, user_channel};
use crate::base::counters::CloseReason;
use crate::base::{ChannelTag, ConnectionId, Now, SubscriptionId};
use crate::json::Document;

impl Broker {
    /// Whether subscribers recover.
    #[must_use]
    pub fn has_recoveries(&self) -> bool {
        !self.recoveries.is_empty()
    }

    /// Whether `next_recovery` would return one.
    #[must_use]
    pub fn has_next_recovery(&self) -> bool {
        self.recoveries.has_next()
    }

    /// Takes the next subscriber that recovers. One of the following must be called for it.
    pub fn next_recovery(&mut self) -> Option<Recovery> {
        self.recoveries.next()
    }

    /// It has more to receive.
    pub fn continue_recovery(&mut self, recovery: Recovery) {
        self.recoveries.put_back(recovery);
    }

    /// It has received what the shard has yet to read from the ring.
    pub fn delay_recovery(&mut self, recovery: Recovery) {
        self.recoveries.put_behind(recovery);
    }

    /// Its session is to read first, until `resume_recoveries`.
    pub fn suspend_recoveries(&mut self, recovery: Recovery) {
        self.recoveries.suspend(recovery);
    }

    /// A session has read.
    pub fn resume_recoveries(&mut self, id: ConnectionId) {
        self.recoveries.resume(id);
    }

    /// From now on the subscriber receives what the shard reads from the ring. The last entry that it
    /// was sent is at the offset `sent`; 0 = none.
    pub fn finish_recovery(&mut self, recovery: Recovery, sent: u64) {
        self.channels
            .at_mut(recovery.subscription.channel)
            .pass(sent);
        let live = self.channels.make_live(recovery.subscription);
        self.replace_subscription(recovery.id.slot(), recovery.subscription, live);
        self.recoveries.resume(recovery.id);
    }

    /// Ends the session of a subscriber that missed entries which are not kept any more.
    pub fn fail_recovery(&mut self, recovery: Recovery, now: Now, emit: &mut Emit<'_>) {
        // How far it has come is looked up when its user goes.
        self.recoveries.put_back(recovery);
        self.close_once(recovery.id, CloseReason::RecoveryFailed, now, emit);
    }

    /// The group of a subscriber, if it still recovers. Its place does not change meanwhile, as it is
    /// alone in its group.
    #[must_use]
    pub fn recovering_group(&self, recovery: &Recovery) -> Option<SubscriberGroupKey> {
        self.sessions.get(recovery.id).filter(|it| !it.closing)?;
        let key = self.channels.group_key(recovery.subscription)?;
        (key.recovery == Some(recovery.number)).then_some(key)
    }

    /// The channel of a subscriber that recovers: its tag and name.
    #[must_use]
    pub fn recovering_channel(&self, recovery: &Recovery) -> (ChannelTag, &str) {
        let channel = self.channels.at(recovery.subscription.channel);
        (channel.tag(), channel.name())
    }

    /// The subscription id of a subscriber that recovers.
    #[must_use]
    pub fn recovering_subscription_id(&self, recovery: &Recovery) -> Option<&SubscriptionId> {
        self.channels.subscription_id(recovery.subscription)
    }

    /// Whether a subscriber that recovers receives a publication with this data.
    pub fn passes_filter(&mut self, recovery: &Recovery, data: &str) -> bool {
        let Self { channels, json, .. } = self;
        let channel = channels.at_mut(recovery.subscription.channel);
        let key = channel.group(recovery.subscription.group).key;
        let Some(filter_id) = key.filter() else {
            return true;
        };
        let document = Document::new(data);
        let object = document.object();
        object.is_ok_and(|object| channel.passes(filter_id, &object, json))
    }

    /// Whether a session is among those that a publication on a channel of clients is for.
    #[must_use]
    pub fn is_for(
        &self,
        id: ConnectionId,
        target: BroadcastTarget<'_>,
        scope: TenantScope<'_>,
    ) -> bool {
        // Only the channels of server-side subscriptions have subscribers of several tenants.
        if scope != TenantScope::Without {
            return false;
        }
        let matching = match target {
            BroadcastTarget::All => return true,
            BroadcastTarget::Except(_) => return target.excluded() != Some(self.session_id(id)),
            BroadcastTarget::User(user) => user_channel(user),
            BroadcastTarget::Role(role) => role_channel(role),
            BroadcastTarget::Permission(permission) => permission_channel(permission),
            BroadcastTarget::Tenant(tenant) => tenant_channel(tenant),
        };
        let matching = self.channels.find(&matching);
        let session = self.sessions.get(id);
        session.is_some_and(|session| session.subscription(matching).is_some())
    }
}
