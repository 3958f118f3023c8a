//! How often an address may try: handshakes, and tokens that prove nothing.

use super::known_tokens::Attempt;
use super::state::Broker;
use crate::auth::Identity;
use crate::base::counters::{CloseReason, RejectReason, TokenError};
use crate::base::{Now, network_of};
use crate::config::RateLimit;
use std::net::IpAddr;

/// Which rate of handshakes is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeExcess {
    /// That of the address.
    Address,
    /// That of the shard.
    Shard,
}

impl HandshakeExcess {
    /// Why a session is closed for it.
    #[must_use]
    pub const fn close_reason(self) -> CloseReason {
        match self {
            Self::Address => CloseReason::HandshakesPerIpMax,
            Self::Shard => CloseReason::HandshakesPerShardMax,
        }
    }

    /// Why an upgrade is answered with an HTTP status for it.
    #[must_use]
    pub const fn reject_reason(self) -> RejectReason {
        match self {
            Self::Address => RejectReason::HandshakesPerIpMax,
            Self::Shard => RejectReason::HandshakesPerShardMax,
        }
    }
}

/// As many per second, and as many at once; 0 = any number.
fn per_second(count: u32) -> RateLimit {
    match count {
        0 => RateLimit::Off,
        count => RateLimit::Bucket {
            per_minute: count.saturating_mul(60),
            burst: count,
        },
    }
}

/// As many per minute, and as many at once; 0 = any number.
fn per_minute(count: u32) -> RateLimit {
    match count {
        0 => RateLimit::Off,
        count => RateLimit::Bucket {
            per_minute: count,
            burst: count,
        },
    }
}

/// Whether a token that is rejected for this reason may be a guess. What follows a valid signature
/// is none: a client with an expired token must not lock out others behind its address.
const fn is_guess(error: TokenError) -> bool {
    matches!(
        error,
        TokenError::Malformed
            | TokenError::Algorithm
            | TokenError::Key
            | TokenError::Critical
            | TokenError::Signature
            | TokenError::Unknown
            | TokenError::Callback
    )
}

impl Broker {
    /// Counts a handshake, before anything else is done for it.
    ///
    /// # Errors
    /// Which rate it exceeds; it then does not count.
    pub fn count_handshake(&mut self, client: IpAddr, now: Now) -> Result<(), HandshakeExcess> {
        let address = network_of(client);
        let of_address = per_second(self.policy.handshakes_per_ip_max);
        if !self.quotas.allows_handshake(address, of_address, now) {
            return Err(HandshakeExcess::Address);
        }
        let of_shard = per_second(self.policy.handshakes_per_shard_max);
        let is_within = self.handshakes.allows(of_shard, now.monotonic_ms);
        is_within.then_some(()).ok_or(HandshakeExcess::Shard)
    }

    /// Calls `verify`, unless too many tokens from the address have failed. Then one more is
    /// verified each time that the limit gains an attempt, and always one that was valid before.
    /// Whoever `asks_others` about a token that is not known here begins an attempt for it.
    pub(super) fn limit_guesses(
        &self,
        client: IpAddr,
        token: &str,
        asks_others: bool,
        now: Now,
        verify: impl FnOnce() -> Result<Identity, TokenError>,
    ) -> Result<Identity, TokenError> {
        let limit = per_minute(self.policy.auth_failures_per_ip_max);
        if limit == RateLimit::Off {
            return verify();
        }
        let (quotas, address) = (&self.quotas, network_of(client));
        let known = quotas.known_tokens();
        let key = known.key(token);
        if quotas.has_failed_too_often(address, limit, now) && !known.contains(key) {
            return Err(TokenError::Throttled);
        }
        let verified = verify();
        match &verified {
            Ok(_) => known.add(key),
            Err(error) if asks_others && self.verifier.asks_others(token, *error) => {}
            Err(error) => {
                known.remove(key);
                if is_guess(*error) {
                    quotas.count_failure(address, limit, now);
                }
            }
        }
        verified
    }

    /// Begins to ask others about a token. Until there is an answer it counts as a failure, unless it
    /// was valid before: nobody may have more questions open than tokens may fail.
    pub(super) fn begin_attempt(&self, client: IpAddr, token: &str, now: Now) -> Attempt {
        let limit = per_minute(self.policy.auth_failures_per_ip_max);
        let known = self.quotas.known_tokens();
        let (address, token) = (network_of(client), known.key(token));
        let is_counted = limit != RateLimit::Off && !known.contains(token);
        if is_counted {
            self.quotas.count_failure(address, limit, now);
        }
        Attempt {
            address,
            token,
            asked_unix_s: now.unix_s(),
            is_counted,
        }
    }

    /// Whose the token of an attempt is, when others have answered; also if its session has ended.
    ///
    /// # Errors
    /// Why it is rejected: as the others say, or because it is revoked.
    pub fn end_attempt(
        &self,
        attempt: Attempt,
        answer: Result<Identity, TokenError>,
        now: Now,
    ) -> Result<Identity, TokenError> {
        let known = self.quotas.known_tokens();
        match &answer {
            Ok(_) => known.add(attempt.token),
            Err(TokenError::Unanswered) => {}
            Err(_) => known.remove(attempt.token),
        }
        if attempt.is_counted && !answer.as_ref().is_err_and(|error| is_guess(*error)) {
            let limit = per_minute(self.policy.auth_failures_per_ip_max);
            self.quotas.take_back_failure(attempt.address, limit);
        }
        let mut identity = answer?;
        // What they know is as old as the question.
        identity.issued_unix_s.get_or_insert(attempt.asked_unix_s);
        let tenant = identity.tenant.as_deref();
        if self.verifier.is_revoked(&identity, tenant, now) {
            return Err(TokenError::Revoked);
        }
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Quotas;

    #[test]
    fn failures_are_counted_per_address_and_forgotten() {
        let (quotas, limit) = (Quotas::default(), per_minute(60));
        let address = IpAddr::from([192, 0, 2, 1]);
        let has_failed = |at_ms| quotas.has_failed_too_often(address, limit, Now::at(at_ms, 0));
        for _ in 0..60 {
            assert!(!has_failed(5_000));
            quotas.count_failure(address, limit, Now::at(5_000, 0));
        }
        assert!(has_failed(5_000) && has_failed(5_999));
        assert!(!has_failed(6_000), "one attempt per second");
        quotas.count_failure(address, limit, Now::at(6_000, 0));
        assert!(has_failed(6_000));
        quotas.take_back_failure(address, limit);
        assert!(!has_failed(6_000), "one was none");
        quotas.count_failure(address, limit, Now::at(6_000, 0));
        let other = IpAddr::from([192, 0, 2, 2]);
        assert!(!quotas.has_failed_too_often(other, limit, Now::at(6_000, 0)));
        assert_eq!(quotas.sweep(Now::at(65_999, 0)), 1);
        assert_eq!(quotas.sweep(Now::at(66_000, 0)), 0);
    }
}
