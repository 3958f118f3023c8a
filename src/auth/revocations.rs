//! Tokens that are no longer valid, though their signature and their times are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Entries of each kind. A revocation beyond it takes the place of the one that ends first.
pub const REVOCATIONS_MAX: usize = 100_000;

/// What is revoked; shared by all shards.
#[derive(Debug, Default)]
pub struct Revocations {
    /// How many there have been, so that servers without one never take the lock. Relaxed: a
    /// revocation takes effect at the latest when its call returns, which the lock orders.
    count: AtomicU64,
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    /// Token ids (`jti`), and until when each is to be remembered, seconds since 1970-01-01 UTC.
    tokens: HashMap<Box<str>, u64>,
    /// Users: tokens issued until this time are not valid; and until when it is to be remembered.
    users: HashMap<Box<str>, (u64, u64)>,
}

impl Revocations {
    /// How many there have been: what was learned before the last one may not hold any more.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Revokes the token with this id (`jti`). It is remembered until `until_unix_s`, when the token
    /// has expired anyway; `u64::MAX` = always.
    pub fn revoke_token(&self, id: &str, until_unix_s: u64, now_unix_s: u64) {
        let mut tables = self.write();
        make_room(&mut tables.tokens, |until| *until, now_unix_s);
        let until = tables.tokens.entry(id.into()).or_default();
        *until = until_unix_s.max(*until);
    }

    /// Revokes all tokens of a user, in one tenant or in all, that were issued until `issued_unix_s`,
    /// and those that do not say when they were issued. It is remembered until `until_unix_s`.
    pub fn revoke_user(
        &self,
        user: &str,
        tenant: Option<&str>,
        (issued_unix_s, until_unix_s): (u64, u64),
        now_unix_s: u64,
    ) {
        let mut tables = self.write();
        make_room(&mut tables.users, |(_, until)| *until, now_unix_s);
        let key = tenant.map_or_else(|| user.to_owned(), |tenant| user_in(user, tenant));
        let (issued, until) = tables.users.entry(key.into()).or_default();
        *issued = issued_unix_s.max(*issued);
        *until = until_unix_s.max(*until);
    }

    /// Whether a token with these claims is revoked.
    #[must_use]
    pub fn contains(
        &self,
        token_id: Option<&str>,
        (user, tenant): (&str, Option<&str>),
        issued_unix_s: Option<u64>,
        now_unix_s: u64,
    ) -> bool {
        if self.count() == 0 {
            return false;
        }
        let tables = self.read();
        let token = token_id.and_then(|id| tables.tokens.get(id));
        let is_revoked = |key: &str| {
            tables.users.get(key).is_some_and(|(issued, until)| {
                *until > now_unix_s && issued_unix_s.is_none_or(|at| at <= *issued)
            })
        };
        let of_user =
            is_revoked(user) || tenant.is_some_and(|tenant| is_revoked(&user_in(user, tenant)));
        of_user || token.is_some_and(|until| *until > now_unix_s)
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        let tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        self.count.fetch_add(1, Ordering::Relaxed);
        tables
    }
}

/// A user of one tenant. No name has a control character.
fn user_in(user: &str, tenant: &str) -> String {
    format!("{tenant}\0{user}")
}

/// Before an entry is added: forgets those that are over when the table is full, or else the one that
/// ends first.
fn make_room<T>(table: &mut HashMap<Box<str>, T>, until: impl Fn(&T) -> u64, now_unix_s: u64) {
    if table.len() < REVOCATIONS_MAX {
        return;
    }
    table.retain(|_, entry| until(entry) > now_unix_s);
    if table.len() >= REVOCATIONS_MAX
        && let Some(first) = table.iter().min_by_key(|(_, entry)| until(entry))
    {
        let first = first.0.clone();
        table.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_revoked_by_its_id_until_it_has_expired() {
        let revocations = Revocations::default();
        assert!(!revocations.contains(Some("a"), ("ann", None), None, 100));
        revocations.revoke_token("a", 200, 100);
        assert!(revocations.contains(Some("a"), ("ann", None), None, 199));
        assert!(!revocations.contains(Some("a"), ("ann", None), None, 200));
        assert!(!revocations.contains(Some("b"), ("ann", None), Some(1), 100));
        assert!(!revocations.contains(None, ("ann", None), None, 100));
    }

    #[test]
    fn a_user_s_tokens_are_revoked_up_to_a_time_of_issue() {
        let revocations = Revocations::default();
        revocations.revoke_user("ann", None, (100, u64::MAX), 100);
        for (issued, expected) in [(None, true), (Some(100), true), (Some(101), false)] {
            assert_eq!(
                revocations.contains(None, ("ann", None), issued, 150),
                expected
            );
        }
        assert!(!revocations.contains(None, ("bob", None), None, 150));
        // An earlier revocation that arrives later changes nothing.
        revocations.revoke_user("ann", None, (50, 60), 100);
        assert!(revocations.contains(None, ("ann", Some("t")), Some(99), 150));
    }

    #[test]
    fn a_user_of_one_tenant_is_not_one_of_another() {
        let revocations = Revocations::default();
        revocations.revoke_user("ann", Some("acme"), (100, u64::MAX), 100);
        for (tenant, expected) in [(Some("acme"), true), (Some("other"), false), (None, false)] {
            let is_revoked = revocations.contains(None, ("ann", tenant), Some(1), 150);
            assert_eq!(is_revoked, expected, "{tenant:?}");
        }
    }

    #[test]
    fn the_tables_are_bounded_and_forget_what_is_over_first() {
        let revocations = Revocations::default();
        for index in 0..REVOCATIONS_MAX {
            let until = if index < 10 { 100 } else { 1_000 };
            revocations.revoke_token(&index.to_string(), until, 50);
        }
        revocations.revoke_token("new", 2_000, 500);
        assert_eq!(revocations.read().tokens.len(), REVOCATIONS_MAX - 9);
        assert!(revocations.contains(Some("10"), ("", None), Some(1), 500));
        for index in 0..10 {
            revocations.revoke_token(&format!("more{index}"), 2_000, 500);
        }
        assert_eq!(revocations.read().tokens.len(), REVOCATIONS_MAX);
    }
}
