//! Settings of several nodes that Redis connects.

use super::declaration::settings;
use super::redis_address::{ADDRESS_RULE, RedisAddress};
use super::secret::Secret;
use super::value::{ByteSize, Millis};
use std::path::PathBuf;

/// Longest prefix of names in Redis, bytes.
const PREFIX_BYTES_MAX: usize = 64;

settings! {
    /// Settings of several nodes that Redis connects.
    pub struct RedisSettings {
        /// Redis that connects several nodes: what is published on one is delivered on all. Without it, the
        /// server is alone.
        redis_url: Option<String> = None, flag = Some("URL"), is_secret = true,
            rule = Some((|url| url.as_deref().is_none_or(is_address), ADDRESS_RULE));
        /// Password for Redis, in place of that in `redis_url`.
        redis_password: Option<Secret> = None, is_secret = true;
        /// File with the certificates (PEM) of the authorities that Redis has its certificate from; without it,
        /// those of the system.
        redis_tls_roots: Option<PathBuf> = None;
        /// How all names in Redis begin. Nodes with the same prefix are connected.
        redis_prefix: String = "fanwire".to_owned(),
            rule = Some((|prefix| is_prefix(prefix), "1 to 64 letters, digits, `-`, `_`, `.` and `:`"));
        /// Time for an answer of Redis; without one, publications are delivered on their node only until it
        /// answers again.
        redis_timeout: Millis = Millis(3_000),
            rule = Some((|time| (100..=60_000).contains(&time.0), "100ms to 1m"));
        /// How long a node stays subscribed in Redis to a channel that has no subscribers any more.
        redis_leave_delay: Millis = Millis(10_000);
        /// How long a node that does not answer any more counts as one that is there: after that, its users
        /// are not present any more.
        redis_node_lease: Millis = Millis(10_000),
            rule = Some((|time| (2_000..=3_600_000).contains(&time.0), "2s to 1h"));
        /// How long Redis keeps the history of a channel without publications, if the rule of the history
        /// names no longer time.
        redis_history_ttl: Millis = Millis(86_400_000),
            rule = Some((|time| time.0 >= 1_000, "1s or more"));
        /// Bytes of publications that may be on their way to Redis. With more, publishers wait.
        redis_queue_bytes_max: ByteSize = ByteSize(16 << 20),
            rule = Some((|size| size.0 > 0, "1 or more"));
        /// Bytes of publications that are kept while Redis is away, to be sent when it is there again. With
        /// more, the oldest ones are dropped.
        redis_backlog_bytes_max: ByteSize = ByteSize(64 << 20);
    }
}

impl RedisSettings {
    /// Where Redis is, if there is one.
    #[must_use]
    pub fn address(&self) -> Option<RedisAddress> {
        let address = RedisAddress::parse(self.redis_url.as_deref()?)?;
        Some(match &self.redis_password {
            Some(password) => address.with_password(&password.0),
            None => address,
        })
    }
}

fn is_address(url: &str) -> bool {
    RedisAddress::parse(url).is_some()
}

fn is_prefix(prefix: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (1..=PREFIX_BYTES_MAX).contains(&prefix.len()) && prefix.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_may_be_apart_from_the_address() {
        let settings = |url: &str| RedisSettings {
            redis_url: Some(url.to_owned()),
            redis_password: Some(Secret("new".to_owned())),
            ..RedisSettings::default()
        };
        for url in [
            "redis://ann:old@h",
            "redis-sentinel://ann@h:1/main",
            "redis-cluster://ann:old@h:1,i:2",
        ] {
            let passwords = settings(url).address().unwrap().logins();
            let expected = [("ann".to_owned(), "new".to_owned())];
            assert!(passwords.iter().all(|it| *it == expected[0]), "{url}");
        }
        assert!(RedisSettings::default().address().is_none());
    }

    #[test]
    fn a_prefix_has_no_braces() {
        assert!(is_prefix("fanwire:blue-1"));
        for prefix in ["", "a{b", "a b", &"x".repeat(65)] {
            assert!(!is_prefix(prefix), "{prefix}");
        }
    }
}
