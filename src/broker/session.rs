//! What the broker stores for one session.

use super::channels::{ChannelIndex, SubscriptionRef};
use super::command::full_name;
use super::quotas::{Share, quota_user};
use super::rate::{RateLimitStatus, RateState, RateUse};
use crate::auth::Identity;
use crate::base::limits::LEAVING_WORK_PER_TURN;
use crate::base::now::Moment;
use crate::base::offline::UserKey;
use crate::base::{ChannelTag, ConnectionId, DialectId, FrameEncoding, NodeUser, Now, Variant};
use crate::config::{DialectPolicy, Subject, TokenExpiryAction};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// A session. Keep it small: a shard has tens of thousands of them.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) dialect: DialectId,
    pub(super) encoding: FrameEncoding,
    pub(super) auth_failures: u8,
    pub(super) closing: bool,
    /// In the queue of sessions that give back their subscriptions.
    pub(super) is_leaving: bool,
    /// Disconnected; only its subscriptions are left.
    pub(super) is_gone: bool,
    /// Whether the tenant that its request named is its tenant if its token names none.
    pub(super) is_named_tenant_trusted: bool,
    /// Whether the persistent subscriptions of its user are remembered at least as long as it lasts.
    pub(super) holds_user: bool,
    /// Whether it has asked for the persistent subscriptions of its user.
    pub(super) has_restored: bool,
    /// Whether it is noted that its user is online.
    pub(super) is_user_noted: bool,
    /// Whether its channels are those of its tenant.
    pub(super) isolates: bool,
    /// In which of the counts with limits it is included.
    pub(super) counted: Counted,
    /// How many of `subscriptions`, from the front, are server-side.
    pub(super) server_side_count: u16,
    /// Messages over its rate limit.
    pub(super) violations: u32,
    /// When one of them was last answered.
    pub(super) rate_answered: Option<Moment>,
    pub(super) peer: SocketAddr,
    pub(super) began: Now,
    pub(super) identity: Option<Box<Identity>>,
    /// The tenant that its request named.
    pub(super) named_tenant: Option<Box<str>>,
    pub(super) rate: RateState,
    /// Its shares of quotas; `None` if it has none.
    pub(super) shares: Option<Box<Shares>>,
    /// Bytes of JSON of the filters of its subscriptions.
    pub(super) filter_bytes: u32,
    pub(super) subscriptions: Vec<SubscriptionRef>,
    /// The channels on which it counts as present.
    pub(super) present: PresentList,
    /// How it counts among those who are online in its dialect; `None` = it does not.
    pub(super) online: Option<PresentAs>,
    /// When bytes last arrived, monotonic milliseconds.
    pub(super) last_activity_ms: u64,
    /// When the ping that is still unanswered was sent.
    pub(super) pinged: Option<Moment>,
}

const _: () = assert!(size_of::<Session>() <= 168);

/// How a session counts on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PresentAs {
    /// As one of its user.
    Listed,
    /// As one without a user: it has none, or there was no room for it.
    Unlisted,
}

impl PresentAs {
    pub(super) const fn of(is_listed: bool) -> Self {
        match is_listed {
            true => Self::Listed,
            false => Self::Unlisted,
        }
    }
}

/// A channel on which a session counts as present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) channel: ChannelIndex,
    pub(super) present_as: PresentAs,
}

/// A list in eight bytes, because most sessions have none.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "a vector takes 24 bytes")]
pub(super) struct PresentList(Option<Box<Vec<Present>>>);

impl PresentList {
    pub(super) fn add(&mut self, present: Present) {
        self.0.get_or_insert_default().push(present);
    }

    pub(super) fn pop(&mut self) -> Option<Present> {
        self.0.as_mut()?.pop()
    }

    /// Takes a channel out, if it is in the list.
    pub(super) fn remove(&mut self, channel: ChannelIndex) -> Option<Present> {
        let all = self.0.as_mut()?;
        let index = all.iter().position(|present| present.channel == channel)?;
        Some(all.swap_remove(index))
    }

    /// All of them, which leaves none.
    pub(super) fn take(&mut self) -> Vec<Present> {
        self.0.take().map(|all| *all).unwrap_or_default()
    }
}

/// The sessions that have subscriptions to give back.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) queue: VecDeque<ConnectionId>,
    /// What may still be done in this turn.
    pub(super) work_left: usize,
    /// Sessions that have left completely, for the shard.
    pub(super) left: Vec<ConnectionId>,
    /// Sessions in the queue that have disconnected.
    pub(super) gone_count: usize,
}

/// Where a user stopped who has one session less.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) id: ConnectionId,
    pub(super) user: UserKey,
    /// The same for other nodes, with the full names of the channels.
    pub(super) shared: Option<(NodeUser, Vec<Box<str>>)>,
    /// How long it is remembered, milliseconds.
    pub(super) ttl_ms: u64,
    /// The channels, and up to where the shard had read them for it.
    pub(super) channels: Vec<(ChannelTag, u64)>,
    /// Until when it is remembered, monotonic milliseconds.
    pub(super) expires_ms: u64,
}

impl Default for Leaving {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            work_left: LEAVING_WORK_PER_TURN,
            left: Vec::new(),
            gone_count: 0,
        }
    }
}

/// Which process-wide counts include a session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    /// Those of its dialect and of the process.
    pub(super) admitted: bool,
    /// Among the sessions with channels of their tenant.
    pub(super) isolated: bool,
}

/// The shares of a session in the quotas of its address, its user and its tenant.
#[derive(Debug, Default)]
pub(super) struct Shares {
    pub(super) address: Option<Share>,
    pub(super) user: Option<Share>,
    pub(super) tenant: Option<Share>,
}

/// What is due for a session at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before this monotonic time, milliseconds.
    Later(u64),
    /// A ping.
    Ping,
    /// Closing, because a ping was not answered in time.
    PongTimeout,
    /// Closing, because the session did not authenticate in time.
    AuthTimeout,
    /// Closing, because the token has expired.
    TokenExpired,
}

/// Longest time between two checks of a session, milliseconds; also used for "never".
const CHECK_INTERVAL_MAX_MS: u64 = 3_600_000;

impl Session {
    /// Its subscriptions that are not server-side, oldest first.
    pub(super) fn client_side(&self) -> &[SubscriptionRef] {
        &self.subscriptions[usize::from(self.server_side_count)..]
    }

    /// The index of its subscription to a channel, server-side or not.
    pub(super) fn subscription(&self, channel: Option<ChannelIndex>) -> Option<usize> {
        let channel = channel?;
        let mut subscriptions = self.subscriptions.iter();
        subscriptions.position(|subscription| subscription.channel == channel)
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.identity.as_ref().map(|identity| &*identity.user)
    }

    /// The tenant of its token, else the one that its request named, if that is trusted.
    pub(super) fn tenant(&self) -> Option<&str> {
        let proven = self
            .identity
            .as_ref()
            .and_then(|identity| identity.tenant.as_deref());
        proven.or(self.trusted_tenant())
    }

    /// Its tenant if its token names none.
    pub(super) fn trusted_tenant(&self) -> Option<&str> {
        let named = self.named_tenant.as_deref();
        named.filter(|_| self.is_named_tenant_trusted)
    }

    /// The tenant whose channels, users and counts are its own; `None` = those that it shares with
    /// all sessions without a tenant.
    pub(super) fn isolated_tenant(&self) -> Option<&str> {
        self.tenant().filter(|_| self.isolates)
    }

    /// The name of a channel in the tables and in the ring.
    pub(super) fn full_name<'a>(&self, channel: &'a str) -> Cow<'a, str> {
        full_name(self.isolated_tenant(), channel)
    }

    /// The name under which its user counts: users of two tenants are two, whatever their ids.
    pub(super) fn quota_user(&self) -> Option<Cow<'_, str>> {
        let user = self.user()?;
        Some(quota_user(self.isolated_tenant(), user))
    }

    /// Its user, as subscriptions are remembered for it, and as other nodes know it.
    pub(super) fn node_user(&self) -> Option<NodeUser> {
        Some(NodeUser {
            dialect: self.dialect,
            tenant: self.isolated_tenant().map(Into::into),
            user: self.user()?.into(),
        })
    }

    /// Whom rules are checked for.
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject {
            identity: self.identity.as_deref(),
            tenant: self.tenant(),
        }
    }

    /// Whether its token has expired and the policy closes such sessions.
    pub(super) fn is_expired(&self, policy: &DialectPolicy, now: Now) -> bool {
        let is_over = |identity: &Identity| identity.expires_unix_s <= now.unix_s();
        policy.token_expiry_action == TokenExpiryAction::Close
            && self.identity.as_deref().is_some_and(is_over)
    }

    /// Counts a message; false when it exceeds a rate limit of the session or of its user, its
    /// tenant or its address. The narrowest comes first, so that a session over its own limit uses
    /// up nothing of what others share.
    pub(super) fn allows_message(&mut self, policy: &DialectPolicy, now: Now) -> bool {
        let none = Shares::default();
        let shares = self.shares.as_deref().unwrap_or(&none);
        let is_within = |share: &Option<Share>, limit| {
            let share = share.as_ref();
            share.is_none_or(|share| share.allows(limit, now))
        };
        let has_own = !policy.counts_user_instead() || shares.user.is_none();
        (!has_own || self.rate.allows(policy.rate_limit, now.monotonic_ms))
            && is_within(&shares.user, policy.rate_limit_of_user())
            && is_within(&shares.tenant, policy.tenant_rate_limit)
            && is_within(&shares.address, policy.ip_rate_limit)
    }

    pub(super) fn rate_limit_status(&self, policy: &DialectPolicy, now: Now) -> RateLimitStatus {
        let none = Shares::default();
        let shares = self.shares.as_deref().unwrap_or(&none);
        let of_share = |share: &Option<Share>, limit| {
            let share = share.as_ref()?;
            RateUse::of(share.used(limit, now), limit)
        };
        let own = self.rate.used(policy.rate_limit, now.monotonic_ms);
        let has_own = !policy.counts_user_instead() || shares.user.is_none();
        RateLimitStatus {
            session: RateUse::of(own, policy.rate_limit).filter(|_| has_own),
            user: of_share(&shares.user, policy.rate_limit_of_user()),
            tenant: of_share(&shares.tenant, policy.tenant_rate_limit),
            address: of_share(&shares.address, policy.ip_rate_limit),
        }
    }

    pub(super) fn variant(&self) -> Variant {
        Variant::plain(self.dialect).encoded(self.encoding)
    }

    /// Whether its time to authenticate is over, but less than twice that: so much it has if the server is
    /// the slow one.
    pub(super) fn may_exceed_auth_timeout(&self, policy: &DialectPolicy, now: Now) -> bool {
        let timeout_ms = policy.auth_timeout.0;
        let session_ms = now.monotonic_ms.saturating_sub(self.began.monotonic_ms);
        self.identity.is_none()
            && policy.auth_required
            && (timeout_ms..timeout_ms.saturating_mul(2)).contains(&session_ms)
    }

    /// What is due at `now`, the most serious first.
    pub(super) fn due(&self, policy: &DialectPolicy, now: Now) -> Due {
        let mut next_ms = now.monotonic_ms + CHECK_INTERVAL_MAX_MS;
        if let Some(identity) = &self.identity {
            let left_s = identity.expires_unix_s.saturating_sub(now.unix_s());
            if policy.token_expiry_action == TokenExpiryAction::Close {
                if left_s == 0 {
                    return Due::TokenExpired;
                }
                let left_ms = left_s.saturating_mul(1_000);
                next_ms = next_ms.min(now.monotonic_ms.saturating_add(left_ms));
            }
        } else if policy.auth_required && policy.auth_timeout.0 > 0 {
            let at_ms = self.began.monotonic_ms + policy.auth_timeout.0;
            if at_ms <= now.monotonic_ms {
                return Due::AuthTimeout;
            }
            next_ms = next_ms.min(at_ms);
        }
        if let Some(pinged) = self.pinged {
            let at_ms = pinged.monotonic_ms() + policy.pong_timeout.0;
            if at_ms <= now.monotonic_ms {
                return Due::PongTimeout;
            }
            next_ms = next_ms.min(at_ms);
        } else if policy.ping_interval.0 > 0 {
            let at_ms = self.last_activity_ms + policy.ping_interval.0;
            if at_ms <= now.monotonic_ms {
                return Due::Ping;
            }
            next_ms = next_ms.min(at_ms);
        }
        Due::Later(next_ms)
    }
}
