//! The state of a broker, and the queries on it.

use super::announcements::Announcements;
use super::channels::{Channel, ChannelIndex, Channels, TenantKey};
use super::effect::Effect;
use super::event::{SessionId, SessionView};
use super::quotas::Quotas;
use super::rate::{RateLimitStatus, RateState};
use super::recoveries::Recoveries;
use super::restorations::Restorations;
use super::session::{Leaving, Session, Stopped};
use crate::auth::Verifier;
use crate::base::channel_names::{PROPERTY, name_for_clients, tenant_channel};
use crate::base::limits::UNAUTHENTICATED_MESSAGE_BYTES_MAX;
use crate::base::{
    ChannelTag, ConnectionId, DialectId, Now, Position, ProcessState, ShardCounters, SlotMap,
    SubscriptionId,
};
use crate::config::Policy;
use crate::json::JsonReader;
use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

/// The rules and the tables of one shard.
#[derive(Debug)]
pub struct Broker {
    pub(super) shard: u16,
    pub(super) policy: Arc<Policy>,
    pub(super) verifier: Verifier,
    pub(super) process_state: Arc<ProcessState>,
    pub(super) quotas: Arc<Quotas>,
    pub(super) counters: Arc<ShardCounters>,
    pub(super) sessions: SlotMap<Session>,
    pub(super) channels: Channels,
    pub(super) leaving: Leaving,
    pub(super) recoveries: Recoveries,
    /// Users of whom it is yet to be noted where they stopped.
    pub(super) stopped: Vec<Stopped>,
    pub(super) announcements: Announcements,
    pub(super) restorations: Restorations,
    /// The offset in the history up to which the shard has read the ring.
    pub(super) reached: u64,
    /// The offset that no client can have received yet.
    pub(super) unreached: u64,
    /// Handshakes of this shard.
    pub(super) handshakes: RateState,
    /// Converts filters.
    pub(super) json: JsonReader,
    pub(super) subscription_count: u64,
    pub(super) subscription_changes: u64,
    pub(super) authenticated_count: u64,
    pub(super) subscription_ids_assigned: Cell<u64>,
}

/// What a broker is made of.
#[derive(Debug)]
pub struct BrokerParts {
    /// Which shard of the process this is.
    pub shard: u16,
    /// The policy of the process.
    pub policy: Arc<Policy>,
    /// Checks tokens.
    pub verifier: Verifier,
    /// Counts shared by all shards.
    pub process_state: Arc<ProcessState>,
    /// Quotas of users, tenants and addresses, over all shards.
    pub quotas: Arc<Quotas>,
    /// This shard's counters.
    pub counters: Arc<ShardCounters>,
}

/// Receives effects.
pub(super) type Emit<'e> = dyn FnMut(Effect<'_>) + 'e;

impl Broker {
    /// A broker without sessions.
    #[must_use]
    pub fn new(parts: BrokerParts) -> Self {
        let first = parts.process_state.history.offset_before(0);
        Self {
            shard: parts.shard,
            policy: parts.policy,
            verifier: parts.verifier,
            quotas: parts.quotas,
            counters: parts.counters,
            sessions: SlotMap::default(),
            channels: Channels::new(parts.shard, Arc::clone(&parts.process_state)),
            process_state: parts.process_state,
            leaving: Leaving::default(),
            recoveries: Recoveries::default(),
            stopped: Vec::new(),
            announcements: Announcements::default(),
            restorations: Restorations::default(),
            reached: first,
            unreached: first + 1,
            handshakes: RateState::default(),
            json: JsonReader::default(),
            subscription_count: 0,
            subscription_changes: 0,
            authenticated_count: 0,
            subscription_ids_assigned: Cell::new(0),
        }
    }

    /// States that the shard has read the ring up to this offset of the history.
    pub fn reach(&mut self, offset: u64) {
        if offset != self.reached {
            self.reached = offset;
            self.recoveries.catch_up();
        }
    }

    /// States that no client can have received this offset of the history.
    pub fn bound(&mut self, unreached: u64) {
        self.unreached = unreached;
    }

    /// The offset in the history up to which the shard has read the ring.
    #[must_use]
    pub fn reached(&self) -> u64 {
        self.reached
    }

    /// What clients are shown of an offset in the history.
    #[must_use]
    pub fn position(&self, offset: u64) -> Position {
        self.process_state.history.position(offset)
    }

    /// The same of a record of the ring.
    #[must_use]
    pub fn position_of(&self, ring_position: u64) -> Position {
        let history = &self.process_state.history;
        history.position(history.offset_of(ring_position))
    }

    /// The policy of the process.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether this shard has subscribers of a channel with this tag.
    #[must_use]
    pub fn is_wanted(&self, tag: ChannelTag) -> bool {
        self.channels.has_tag(tag)
    }

    /// Whether this shard has no subscribers at all.
    #[must_use]
    pub fn wants_nothing(&self) -> bool {
        self.channels.is_empty()
    }

    /// The channel of this name, if it has subscribers on this shard.
    #[must_use]
    pub fn find_channel(&self, tag: ChannelTag, name: &[u8]) -> Option<ChannelIndex> {
        self.channels.find_tagged(tag, name)
    }

    /// The channels that clients of this shard have subscribed to and whose names begin with
    /// `prefix`.
    pub fn channel_names(&self, prefix: &str) -> impl Iterator<Item = &str> {
        self.channels
            .names()
            .filter(move |name| name.starts_with(prefix))
    }

    /// The properties of monitoring in these slots of the table of channels, and how many
    /// subscriptions each has.
    pub fn properties_in(&self, slots: Range<u32>) -> impl Iterator<Item = (&str, u64)> {
        slots.filter_map(|slot| {
            let channel = self.channels.client_side_at(slot)?;
            let property = name_for_clients(channel.name()).strip_prefix(PROPERTY)?;
            Some((property, channel.subscriber_count() as u64))
        })
    }

    /// How many slots the table of channels has.
    #[must_use]
    pub fn channel_slots(&self) -> u32 {
        self.channels.slot_count()
    }

    /// How often a subscription of a client has begun or ended.
    #[must_use]
    pub fn subscription_changes(&self) -> u64 {
        self.subscription_changes
    }

    /// How long the session has lasted, milliseconds.
    #[must_use]
    pub fn age_ms(&self, id: ConnectionId, now: Now) -> Option<u64> {
        let session = self.sessions.get(id)?;
        Some(now.monotonic_ms.saturating_sub(session.began.monotonic_ms))
    }

    /// The subscribers of a channel on this shard.
    #[must_use]
    pub fn channel(&self, index: ChannelIndex) -> &Channel {
        self.channels.at(index)
    }

    /// The same, for matching filters.
    #[must_use]
    pub fn channel_mut(&mut self, index: ChannelIndex) -> &mut Channel {
        self.channels.at_mut(index)
    }

    /// The tenant of this id; `None` if it has no sessions here.
    #[must_use]
    pub fn find_tenant(&self, tenant: &str) -> Option<TenantKey> {
        self.channels
            .find(&tenant_channel(tenant))
            .map(TenantKey::of)
    }

    /// The sessions of a tenant, in all dialects, in no particular order.
    pub fn sessions_of<'a>(
        &'a self,
        tenant: &str,
        now: Now,
    ) -> impl Iterator<Item = SessionView<'a>> {
        let channel = self.channels.find(&tenant_channel(tenant));
        let channel = channel.map(|index| self.channels.at(index)).into_iter();
        let slots = channel.flat_map(|channel| channel.subscribers().map(|(slot, ..)| slot));
        slots.filter_map(move |slot| self.view(self.sessions.id_at_slot(slot)?, now))
    }

    /// Whether a session of `dialect` would be within the limits now.
    #[must_use]
    pub fn has_room(&self, dialect: DialectId) -> bool {
        let dialect_max = self.policy.dialects[dialect.index()].sessions_max;
        let total_max = self.policy.sessions_max;
        self.process_state.has_room(dialect, dialect_max, total_max)
    }

    /// Whether the session has authenticated, or need not.
    #[must_use]
    pub fn auth_satisfied(&self, id: ConnectionId) -> bool {
        self.sessions.get(id).is_some_and(|session| {
            let policy = &self.policy.dialects[session.dialect.index()];
            session.identity.is_some() || !policy.auth_required
        })
    }

    /// The tenant whose channels are those of the session; `None` = it shares them with all sessions
    /// without a tenant.
    #[must_use]
    pub fn isolated_tenant(&self, id: ConnectionId) -> Option<&str> {
        self.sessions.get(id)?.isolated_tenant()
    }

    /// The name in the tables of a channel of the session.
    #[must_use]
    pub fn full_name<'a>(&self, id: ConnectionId, channel: &'a str) -> Option<Cow<'a, str>> {
        Some(self.sessions.get(id)?.full_name(channel))
    }

    /// Whether the session has yet to answer a ping.
    #[must_use]
    pub fn awaits_pong(&self, id: ConnectionId) -> bool {
        let session = self.sessions.get(id);
        session.is_some_and(|session| session.pinged.is_some())
    }

    /// The view of session `id`.
    #[must_use]
    pub fn view(&self, id: ConnectionId, now: Now) -> Option<SessionView<'_>> {
        let session = self.sessions.get(id).filter(|it| !it.is_gone)?;
        Some(view(self.session_id(id), session, &self.channels, now))
    }

    /// The sessions, in no particular order.
    pub fn sessions(&self) -> impl Iterator<Item = ConnectionId> {
        self.sessions.ids()
    }

    /// The session's id.
    #[must_use]
    pub fn session_id(&self, connection: ConnectionId) -> SessionId {
        SessionId {
            node: self.process_state.node(),
            shard: self.shard,
            connection,
        }
    }

    /// What session `id` has used of the rate limits that its messages count against.
    #[must_use]
    pub fn rate_limit_status(&self, id: ConnectionId, now: Now) -> Option<RateLimitStatus> {
        let session = self.sessions.get(id)?;
        let policy = &self.policy.dialects[session.dialect.index()];
        Some(session.rate_limit_status(policy, now))
    }

    /// Longest message that session `id` may send, bytes; less until it has authenticated.
    #[must_use]
    pub fn message_bytes_max(&self, id: ConnectionId) -> usize {
        let Some(session) = self.sessions.get(id) else {
            return UNAUTHENTICATED_MESSAGE_BYTES_MAX;
        };
        let policy = &self.policy.dialects[session.dialect.index()];
        if policy.auth_required && session.identity.is_none() {
            let bytes_max = policy.message_bytes_max.as_usize();
            return bytes_max.min(UNAUTHENTICATED_MESSAGE_BYTES_MAX);
        }
        policy.message_bytes_max.as_usize()
    }

    /// A subscription id that no other subscription of the process has: `sub_`, the shard, a
    /// number.
    pub(super) fn assign_subscription_id(&self) -> SubscriptionId {
        let number = self.subscription_ids_assigned.get() + 1;
        self.subscription_ids_assigned.set(number);
        let subscription_id = SubscriptionId::new(&format!("sub_{:04x}{number:012x}", self.shard));
        debug_assert_eq!(
            subscription_id.text().len(),
            crate::base::SUBSCRIPTION_ID_BYTES
        );
        subscription_id
    }
}

pub(super) fn view<'a>(
    id: SessionId,
    session: &'a Session,
    channels: &'a Channels,
    now: Now,
) -> SessionView<'a> {
    SessionView {
        id,
        dialect: session.dialect,
        peer: session.peer,
        connected_unix_ms: session.began.unix_ms,
        uptime_ms: now.monotonic_ms.saturating_sub(session.began.monotonic_ms),
        identity: session.identity.as_deref(),
        tenant: session.tenant(),
        channels: channel_names(session, channels),
    }
}

/// The names of the channels that the client has subscribed to, oldest first.
pub(super) fn channel_names<'a>(session: &Session, channels: &'a Channels) -> Vec<&'a str> {
    let client_side = session.client_side().iter();
    client_side
        .map(|subscription| name_for_clients(channels.name(*subscription)))
        .collect()
}
