//! What the broker knows of one connection.

use super::channels::{Channel, ChannelIndex};
use super::rate::RateState;
use crate::auth::Identity;
use crate::base::{DialectId, Now, Variant};
use crate::config::DialectPolicy;
use std::net::SocketAddr;

/// One subscription of a session: the channel, and where in its audience the session stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Membership {
    pub(super) channel: ChannelIndex,
    pub(super) position: u32,
}

/// A session; its size counts ten thousand times.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) dialect: DialectId,
    pub(super) auth_failures: u8,
    pub(super) closing: bool,
    pub(super) peer: SocketAddr,
    pub(super) began: Now,
    pub(super) identity: Option<Box<Identity>>,
    pub(super) rate: RateState,
    pub(super) memberships: Vec<Membership>,
    /// When bytes came last, monotonic milliseconds.
    pub(super) heard_ms: u64,
    /// When an unanswered ping was sent, monotonic milliseconds.
    pub(super) pinged_ms: Option<u64>,
}

/// What is due for a session at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before this monotonic time, milliseconds.
    Later(u64),
    /// A ping.
    Ping,
    /// It did not answer a ping.
    PongTimeout,
    /// It did not authenticate.
    AuthTimeout,
    /// Its token is over.
    TokenExpired,
}

/// Longest time between two looks at a session, milliseconds; also what "never" means.
const LOOK_INTERVAL_MS: u64 = 3_600_000;

impl Session {
    /// Where in its list a channel stands that it subscribed to.
    pub(super) fn membership(&self, channel: Option<(ChannelIndex, &Channel)>) -> Option<usize> {
        let (index, _) = channel?;
        let mut memberships = self.memberships.iter();
        memberships.position(|membership| membership.channel == index)
    }

    /// Whether its token's time is over.
    pub(super) fn is_expired(&self, now: Now) -> bool {
        let identity = self.identity.as_ref();
        identity.is_some_and(|identity| identity.expires_unix_s <= now.unix_s())
    }

    pub(super) fn variant(&self) -> Variant {
        Variant::plain(self.dialect)
    }

    /// What is due at `now`, the gravest first.
    pub(super) fn due(&self, policy: &DialectPolicy, now: Now) -> Due {
        let mut next_ms = now.monotonic_ms + LOOK_INTERVAL_MS;
        if let Some(identity) = &self.identity {
            let left_s = identity.expires_unix_s.saturating_sub(now.unix_s());
            if left_s == 0 {
                return Due::TokenExpired;
            }
            next_ms = next_ms.min(
                now.monotonic_ms
                    .saturating_add(left_s.saturating_mul(1_000)),
            );
        } else if policy.auth_required && policy.auth_timeout_ms > 0 {
            let at_ms = self.began.monotonic_ms + policy.auth_timeout_ms;
            if at_ms <= now.monotonic_ms {
                return Due::AuthTimeout;
            }
            next_ms = next_ms.min(at_ms);
        }
        if let Some(pinged_ms) = self.pinged_ms {
            let at_ms = pinged_ms + policy.pong_timeout_ms;
            if at_ms <= now.monotonic_ms {
                return Due::PongTimeout;
            }
            next_ms = next_ms.min(at_ms);
        } else if policy.ping_interval_ms > 0 {
            let at_ms = self.heard_ms + policy.ping_interval_ms;
            if at_ms <= now.monotonic_ms {
                return Due::Ping;
            }
            next_ms = next_ms.min(at_ms);
        }
        Due::Later(next_ms)
    }
}
