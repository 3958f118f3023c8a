//! Subscribing and unsubscribing.

use super::channels::{NewSubscriber, SubscriptionRef, TenantKey};
use super::command::{Subscription, SubscriptionIdRequest};
use super::effect::Effect;
use super::event::{Event, Rejection, SubscriptionView};
use super::filters::Filter;
use super::names::{check_channel, is_subscription_id};
use super::recoveries::RecoveryStart;
use super::session::Session;
use super::state::{Broker, Emit};
use crate::base::channel_names::{name_for_clients, tenant_of};
use crate::base::counters::SubscriptionReject;
use crate::base::limits::FILTER_BYTES_PER_SESSION_MAX;
use crate::base::{ConnectionId, HistoryError, Now, Position, SubscriptionId};
use crate::config::Action;

/// In which form a session receives the publications of a channel, and which.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) subscription_id: Option<SubscriptionId>,
    pub(super) filter: Option<Filter>,
    pub(super) has_previous: bool,
    pub(super) takes_binary: bool,
}

impl Broker {
    pub(super) fn subscribe(
        &mut self,
        id: ConnectionId,
        requested: Subscription<'_>,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        if let Err(rejection) = self.try_subscribe(id, requested, now, emit) {
            self.reject(rejection, emit);
        }
    }

    /// Subscribes the session and answers, unless that is rejected.
    pub(super) fn try_subscribe(
        &mut self,
        id: ConnectionId,
        requested: Subscription<'_>,
        now: Now,
        emit: &mut Emit<'_>,
    ) -> Result<(), Rejection> {
        self.check_access(id, Action::Subscribe, requested.channel)?;
        let Some(session) = self.sessions.get(id) else {
            return Ok(());
        };
        let name = session.full_name(requested.channel);
        let is_known = requested.subscription_id == SubscriptionIdRequest::None
            && session.subscription(self.channels.find(&name)).is_some();
        let subscription_id = self.choose_subscription_id(session, requested.subscription_id)?;
        if !is_known && session.client_side().len() >= self.subscriptions_max(session) {
            return Err(Rejection::TooManySubscriptions);
        }
        let is_ready = is_known || requested.is_awaited || requested.is_restored;
        if !is_ready && self.is_awaited(&name, requested.recover) {
            emit(Effect::AwaitChannel(requested));
            return Ok(());
        }
        let history = &self.process_state.history;
        let has_history = history.limits_of(&name).is_some();
        let shown = requested.recover.filter(|_| has_history && !is_known);
        let (mut after, mut is_recovered) = shown.map_or((None, false), |position| {
            self.resume(id, requested.channel, &name, position, now)
        });
        let has_previous = requested.has_previous && has_history && !is_known;
        let takes_binary = requested.takes_binary && !is_known;
        let mut is_announced = false;
        if !is_known {
            if !requested.is_decided && self.policy.asks_about(requested.channel) {
                if requested.is_restored {
                    // Many are restored at once; the client asks for this one by itself.
                    return Err(Rejection::PermissionDenied);
                }
                emit(Effect::AskAboutSubscription(requested));
                return Ok(());
            }
            let filter = match &requested.filter {
                Some(filter) => Filter::parse(filter.raw(), &mut self.json),
                None => Ok(None),
            };
            let Ok(filter) = filter else {
                return Err(Rejection::InvalidField("filter"));
            };
            let filter_bytes = filter.as_ref().map_or(0, Filter::text_bytes);
            let session = self.sessions.get(id);
            if session.is_some_and(|session| {
                session.filter_bytes + filter_bytes > FILTER_BYTES_PER_SESSION_MAX
            }) || (filter.is_some() && self.process_state.memory.is_over())
            {
                return Err(Rejection::TooManyFilters);
            }
            let shown = after;
            let with = Wanted {
                subscription_id: subscription_id.clone(),
                filter,
                has_previous,
                takes_binary: requested.takes_binary,
            };
            (after, is_announced) = self.join(id, &name, with, after, now, emit);
            is_recovered |= shown.is_none() && after.is_some();
            self.count_tables();
        }
        let is_persistent = requested.is_persistent.then(|| {
            // What a callback decides may be otherwise the next time.
            !self.policy.asks_about(requested.channel)
                && self.remember_subscription(id, requested.channel)
        });
        let Some(session) = self.sessions.get(id) else {
            return Ok(());
        };
        let position = has_history.then(|| {
            let tag = self.process_state.interests.tag(&name);
            let history = &self.process_state.history;
            history.position_on(tag, after.unwrap_or(self.reached))
        });
        emit(Effect::Reply(Event::Subscribed(SubscriptionView {
            channel: requested.channel,
            subscription_id: subscription_id.as_ref().map(SubscriptionId::text),
            filter: requested.filter.as_ref().map(|filter| filter.raw()),
            is_announced,
            user: session.user(),
            position,
            is_recovered: (requested.recover.is_some() || after.is_some()).then_some(is_recovered),
            is_persistent,
            has_previous,
            takes_binary: requested.takes_binary.then_some(takes_binary),
            is_restored: requested.is_restored,
            now,
        })));
        Ok(())
    }

    /// Whether the publications of other nodes on a channel are to be awaited: all, or those that a
    /// client has received.
    pub(super) fn is_awaited(&self, name: &str, shown: Option<Position>) -> bool {
        let Some(link) = &self.process_state.link else {
            return false;
        };
        let tag = self.process_state.interests.tag(name);
        let history = &self.process_state.history;
        let is_behind = |shown: Position| {
            let newest = history.position_on(tag, u64::MAX);
            newest.epoch == shown.epoch && newest.offset < shown.offset
        };
        !link.is_attached(tag) || shown.is_some_and(is_behind)
    }

    /// The offset after which a client that shows a position receives entries of the history, if it
    /// does, and whether those are all that it missed.
    fn resume(
        &self,
        id: ConnectionId,
        channel: &str,
        name: &str,
        position: Position,
        now: Now,
    ) -> (Option<u64>, bool) {
        let history = &self.process_state.history;
        let tag = self.process_state.interests.tag(name);
        // Who may not read the history may still subscribe.
        let may_read = self.check_access(id, Action::History, channel).is_ok();
        // What was delivered on this node while Redis is away has no place in the history yet.
        let link = self.process_state.link.as_ref();
        let is_whole = may_read && link.is_none_or(|link| link.counters.is_up());
        // What the client has received from another shard may be new to this one, and is not sent
        // again.
        match history.resume(tag, position, self.unreached, now.monotonic_ms) {
            Ok(after) if may_read || after > self.reached => (Some(after), is_whole),
            Err(HistoryError::TooOld)
                if position.offset > self.reached && position.epoch == self.position(0).epoch =>
            {
                let oldest = history.oldest_offset(tag, now.monotonic_ms);
                (Some(oldest), false)
            }
            _ => (None, false),
        }
    }

    /// The channel of the session's user.
    pub(super) fn per_user_channel(
        &self,
        id: ConnectionId,
        prefix: &str,
    ) -> Result<String, Rejection> {
        let session = self.sessions.get(id);
        let user = session.and_then(Session::user);
        let user = user.ok_or(Rejection::AuthenticationRequired)?;
        Ok(format!("{prefix}{user}"))
    }

    fn choose_subscription_id(
        &self,
        session: &Session,
        request: SubscriptionIdRequest<'_>,
    ) -> Result<Option<SubscriptionId>, Rejection> {
        match request {
            SubscriptionIdRequest::None => Ok(None),
            SubscriptionIdRequest::ServerAssigned => Ok(Some(self.assign_subscription_id())),
            SubscriptionIdRequest::ClientChosen(text) if !is_subscription_id(text) => {
                Err(Rejection::InvalidField("subscription_id"))
            }
            SubscriptionIdRequest::ClientChosen(text)
                if self.find_subscription_id(session, text).is_some() =>
            {
                Err(Rejection::DuplicateSubscriptionId)
            }
            SubscriptionIdRequest::ClientChosen(text) => Ok(Some(SubscriptionId::new(text))),
        }
    }

    /// The position of the subscription with this subscription id in the session's list.
    fn find_subscription_id(&self, session: &Session, text: &str) -> Option<usize> {
        let has_id = |subscription: &SubscriptionRef| {
            let subscription_id = self.channels.subscription_id(*subscription);
            subscription_id.is_some_and(|subscription_id| subscription_id.text() == text)
        };
        session.subscriptions.iter().position(has_id)
    }

    /// Subscribes the session, without checking access. It first receives what was published after an
    /// offset, if there is one: `after`, or where its user stopped; returns it, and whether the
    /// subscribers are told at once that the user has joined.
    pub(super) fn join(
        &mut self,
        id: ConnectionId,
        name: &str,
        wanted: Wanted,
        after: Option<u64>,
        now: Now,
        emit: &mut Emit<'_>,
    ) -> (Option<u64>, bool) {
        let offline = self.resume_offline(id, name, now);
        let from = after.or(offline).map(|from| RecoveryStart {
            after: from,
            is_offline_queue: after.is_none(),
        });
        let Some(session) = self.sessions.get_mut(id) else {
            return (None, false);
        };
        let recovery = from.map(|from| (self.recoveries.next_number(), from));
        let channel = self.channels.open(name, false);
        let has_presence = self.channels.at(channel).presence_place().is_some();
        let appears = has_presence && session.subscription(Some(channel)).is_none();
        let variant = match wanted.has_previous {
            true => session.variant().with_previous(),
            false => session.variant(),
        };
        let subscription = self.channels.join(
            channel,
            NewSubscriber {
                slot: id.slot(),
                variant,
                subscription_id: wanted.subscription_id,
                filter: wanted.filter,
                takes_binary: wanted.takes_binary,
                tenant: TenantKey::NONE,
                recovery: recovery.map(|(number, _)| number),
            },
        );
        if let Some((number, from)) = recovery {
            self.recoveries.begin(id, subscription, number, from);
        }
        session.filter_bytes += self.channels.filter_bytes(subscription);
        session.subscriptions.push(subscription);
        self.subscription_count += 1;
        self.subscription_changes += 1;
        let is_announced = appears && self.appear(id, channel, now, emit);
        (from.map(|from| from.after), is_announced)
    }

    /// Subscribes the session, without an answer to its client.
    pub(super) fn subscribe_server_side(
        &mut self,
        id: ConnectionId,
        name: &str,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let full_name = session.full_name(name);
        let is_known = session
            .subscription(self.channels.find(&full_name))
            .is_some();
        if is_known || session.closing {
            return;
        }
        let rejected = &self.counters.server_subscriptions_rejected;
        if check_channel(name).is_err() {
            return rejected.of(SubscriptionReject::Name).add(1);
        }
        if session.client_side().len() >= self.subscriptions_max(session) {
            return rejected.of(SubscriptionReject::Full).add(1);
        }
        self.join(id, &full_name, Wanted::default(), None, now, emit);
        self.count_tables();
    }

    /// How many subscriptions a session may have, without the server-side ones.
    fn subscriptions_max(&self, session: &Session) -> usize {
        let policy = &self.policy.dialects[session.dialect.index()];
        policy.subscriptions_per_session_max as usize
    }

    /// Ends a subscription, without an answer to its client. A session stays subscribed to the
    /// channel of its tenant, by which groups name the tenant.
    pub(super) fn unsubscribe_server_side(
        &mut self,
        id: ConnectionId,
        name: &str,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        if let Some(session) = self.sessions.get(id)
            && tenant_of(name).is_none()
            && let Some(at) = session.subscription(self.channels.find(&session.full_name(name)))
        {
            self.leave_at(id, at, now, emit);
        }
    }

    pub(super) fn unsubscribe(
        &mut self,
        id: ConnectionId,
        name: &str,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        if let Err(rejection) = check_channel(name) {
            return self.reject(rejection, emit);
        }
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let at = session.subscription(self.channels.find(&session.full_name(name)));
        let view = SubscriptionView {
            channel: name,
            subscription_id: None,
            filter: None,
            is_announced: false,
            user: session.user(),
            position: None,
            is_recovered: None,
            is_persistent: None,
            has_previous: false,
            takes_binary: None,
            is_restored: false,
            now,
        };
        emit(Effect::Reply(Event::Unsubscribed(view)));
        self.forget_subscription(id, name);
        if let Some(at) = at {
            self.leave_at(id, at, now, emit);
        }
    }

    pub(super) fn unsubscribe_by_id(
        &mut self,
        id: ConnectionId,
        subscription_id: &str,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let Some(at) = self.find_subscription_id(session, subscription_id) else {
            return self.reject(Rejection::UnknownSubscriptionId, emit);
        };
        let view = SubscriptionView {
            channel: name_for_clients(self.channels.name(session.subscriptions[at])),
            subscription_id: Some(subscription_id),
            filter: None,
            is_announced: false,
            user: session.user(),
            position: None,
            is_recovered: None,
            is_persistent: None,
            has_previous: false,
            takes_binary: None,
            is_restored: false,
            now,
        };
        emit(Effect::Reply(Event::Unsubscribed(view)));
        self.leave_at(id, at, now, emit);
    }

    /// Ends the subscription at this position of the session's list.
    pub(super) fn leave_at(&mut self, id: ConnectionId, at: usize, now: Now, emit: &mut Emit<'_>) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let subscription = session.subscriptions.remove(at);
        if at >= usize::from(session.server_side_count) {
            let tag = self.channels.at(subscription.channel).tag();
            let name = self.channels.name(subscription);
            self.unsubscribe_offline(id, (tag, name));
        }
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        session.filter_bytes -= self.channels.filter_bytes(subscription);
        if at < usize::from(session.server_side_count) {
            session.server_side_count -= 1;
        } else {
            self.subscription_count -= 1;
            self.subscription_changes += 1;
        }
        let channel = subscription.channel;
        // It may have others there, with other subscription ids.
        let has_left = session.subscription(Some(channel)).is_none();
        if has_left && let Some(present) = session.present.remove(channel) {
            self.disappear(id, present, now, emit);
        }
        self.leave(subscription);
        self.count_tables();
    }

    /// Removes a subscription that is in no session's list any more; returns how much work it was.
    pub(super) fn leave(&mut self, subscription: SubscriptionRef) -> usize {
        let group = self.channels.at(subscription.channel);
        let group = group.group(subscription.group);
        // Who recovers is alone in its group.
        if let Some(number) = group.key.recovery
            && let [slot] = *group.slots
            && let Some(id) = self.sessions.id_at_slot(slot)
        {
            self.recoveries.remove(id, number);
        }
        let (moved, work) = self.channels.leave(subscription);
        let Some(moved) = moved else {
            return work;
        };
        self.replace_subscription(moved.slot, moved.from, moved.to);
        work
    }

    /// A subscriber is elsewhere in the tables.
    pub(super) fn replace_subscription(
        &mut self,
        slot: u32,
        from: SubscriptionRef,
        to: SubscriptionRef,
    ) {
        let session = self
            .sessions
            .at_slot_mut(slot)
            .expect("a subscriber group holds only slots of sessions");
        let mut subscriptions = session.subscriptions.iter_mut();
        let stale = subscriptions
            .find(|subscription| **subscription == from)
            .expect("a session in a subscriber group is subscribed to its channel");
        *stale = to;
    }

    pub(super) fn count_tables(&self) {
        self.counters.channels.set(self.channels.count() as u64);
        self.counters.subscriptions.set(self.subscription_count);
    }
}
