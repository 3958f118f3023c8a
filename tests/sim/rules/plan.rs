//! What is drawn at random: rules, and what clients do.

use super::model::{Limits, Opening};
use super::texts::{Ask, Proof, Scope, Token};
use super::{DIALECTS, SECRET};
use crate::random::Random;
use fanwire::auth::{Grant, issue};
use fanwire::base::{DialectId, Now};
use fanwire::config::{DialectPolicy, Millis, RateLimit, RateScope, TenantSource};

const USERS: [&str; 4] = ["ann", "bob", "cem", "dot"];
const TENANTS: [&str; 2] = ["t1", "t2"];
/// Addresses from which clients come.
const IPS: usize = 4;
/// Longest validity of a token, seconds.
const TTL_S_MAX: usize = 60;
const ROOMS: [&str; 6] = [
    "room:chat",
    "room:news",
    "room:vip",
    "room:admin",
    "room:all_document_updates",
    "room:background_jobs",
];
const CHANNELS: [&str; 8] = [
    "prop:1",
    "prop:2",
    "room:chat",
    "room:vip",
    "room:admin",
    "room:document_updates_ann",
    "all",
    "user:ann",
];
/// On the other channels of dialects nobody may publish but their own clients.
pub(super) const PUBLISH_RULES: [&str; 3] = [
    "prop:* anyone",
    "prop:2 role=vip",
    "room:chat permission=read",
];
const BROADCASTS: [&str; 9] = [
    "all",
    "user:ann",
    "user:bob",
    "tenant:t1",
    "role:admin",
    "permission:publish",
    "dialect:assist",
    "room:chat",
    "prop:1",
];

fn one<T: Copy>(random: &mut Random, items: &[T]) -> T {
    items[random.below(items.len())]
}

/// The rules of one dialect, narrow enough to be met in every run.
pub(super) fn limits(random: &mut Random) -> Limits {
    let rate = match random.below(4) {
        0 => RateLimit::Off,
        1 => RateLimit::Bucket {
            per_minute: 30,
            burst: 4,
        },
        _ => RateLimit::Window {
            messages: 3 + u32::try_from(random.below(20)).unwrap(),
            // The longer ones outlast the memory of a user.
            window_ms: one(random, &[5_000, 10_000, 1_000_000]),
        },
    };
    Limits {
        auth_required: !random.once_in(4),
        auth_attempts_max: 1 + u32::try_from(random.below(3)).unwrap(),
        auth_timeout_ms: 20_000,
        sessions_max: 4 + random.below(10),
        per_ip_max: 2 + random.below(4),
        per_user_max: 1 + random.below(4),
        per_tenant_max: 2 + random.below(4),
        rate,
        rate_scope: one(random, &[RateScope::Connection, RateScope::User]),
        rate_violations_max: one(random, &[0, 1, 5]),
        announces_users: false,
        isolates: random.once_in(2),
        trusts_requests: random.once_in(2),
    }
}

/// The same rules, as the server has them.
pub(super) fn policy(dialect: DialectId, limits: &Limits) -> DialectPolicy {
    let count = |count: usize| u32::try_from(count).unwrap();
    DialectPolicy {
        auth_required: limits.auth_required,
        auth_attempts_max: limits.auth_attempts_max,
        auth_timeout: Millis(limits.auth_timeout_ms),
        // Heartbeats are for `timeouts`.
        ping_interval: Millis(0),
        rate_limit: limits.rate,
        rate_scope: limits.rate_scope,
        rate_violations_max: limits.rate_violations_max,
        sessions_max: limits.sessions_max as u64,
        sessions_per_ip_max: count(limits.per_ip_max),
        sessions_per_user_max: count(limits.per_user_max),
        sessions_per_tenant_max: count(limits.per_tenant_max),
        tenant_isolation: limits.isolates,
        tenant_source: match limits.trusts_requests {
            true => TenantSource::Request,
            false => TenantSource::Token,
        },
        ..DialectPolicy::of(dialect)
    }
}

pub(super) fn opening(random: &mut Random, now: Now) -> Opening {
    Opening {
        dialect: one(random, &DIALECTS),
        ip: u8::try_from(random.below(IPS)).unwrap(),
        tenant: random.once_in(4).then(|| one(random, &TENANTS)),
        proof: random.once_in(2).then(|| proof(random, now)),
    }
}

/// The request head of a client.
pub(super) fn head(opening: &Opening, now: Now) -> Vec<u8> {
    let path = match opening.dialect {
        DialectId::Gateway => "/ws",
        _ => "/ws/connect",
    };
    let bearer = opening.proof.as_ref().map(|proof| {
        let token = token(proof, now);
        format!("Authorization: Bearer {token}\r\n")
    });
    let tenant = opening
        .tenant
        .map(|tenant| format!("X-Tenant-ID: {tenant}\r\n"));
    format!(
        "GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{}{}\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        bearer.unwrap_or_default(),
        tenant.unwrap_or_default()
    )
    .into_bytes()
}

fn proof(random: &mut Random, now: Now) -> Proof {
    match random.below(16) {
        0 => Proof::Forged,
        1 => Proof::Garbage,
        kind => {
            let mut some = |names: &[&'static str]| {
                let names = names.iter().copied();
                names.filter(|_| random.once_in(2)).collect::<Vec<_>>()
            };
            let (roles, permissions) = (some(&["admin", "vip"]), some(&["publish", "read"]));
            let ttl_s = match kind {
                // Over just now.
                2 => 0,
                _ => 1 + random.below(TTL_S_MAX) as u64,
            };
            Proof::Token(Token {
                user: one(random, &USERS),
                tenant: random.once_in(2).then(|| one(random, &TENANTS)),
                roles,
                permissions,
                expires_s: now.unix_s() + ttl_s,
            })
        }
    }
}

/// The text of what a client shows.
pub(super) fn token(proof: &Proof, now: Now) -> String {
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    match proof {
        Proof::Garbage => "no.token".into(),
        Proof::Forged => {
            let grant = Grant::new(USERS[0]);
            issue(&grant, b"a secret of somebody else, long enough", 60, now).unwrap()
        }
        Proof::Token(token) => {
            let mut grant = Grant::new(token.user);
            grant.tenant = token.tenant.map(Into::into);
            grant.roles = texts(&token.roles);
            grant.permissions = texts(&token.permissions);
            issue(&grant, SECRET, token.expires_s - now.unix_s(), now).unwrap()
        }
    }
}

/// A channel, and for which sessions a broadcast there is.
pub(super) fn broadcast(random: &mut Random) -> (&'static str, Scope) {
    let channel = one(random, &BROADCASTS);
    let is_shared = !channel.starts_with("room:") && !channel.starts_with("prop:");
    let tenant = match channel.strip_prefix("tenant:") {
        Some(tenant) => tenant,
        None => one(random, &TENANTS),
    };
    let scope = match random.below(4) {
        0 if is_shared => Scope::All,
        0 | 1 => Scope::Of(None),
        _ => Scope::Of(Some(tenant)),
    };
    (channel, scope)
}

/// What a client asks for; it has this number for what it publishes.
pub(super) fn ask(random: &mut Random, dialect: DialectId, number: u64, now: Now) -> Ask {
    match (random.below(16), dialect) {
        (0, _) => Ask::Ping,
        (1, _) => Ask::Unknown,
        (2..5, _) => Ask::Authenticate(proof(random, now)),
        (5..10, DialectId::Gateway) => Ask::Subscribe(one(random, &CHANNELS).into()),
        (10..12, DialectId::Gateway) => Ask::Unsubscribe(one(random, &CHANNELS).into()),
        (_, DialectId::Gateway) => Ask::Publish(one(random, &CHANNELS).into(), number),
        (5..10, _) => Ask::Subscribe(one(random, &ROOMS).into()),
        (10..13, _) => Ask::Unsubscribe(one(random, &ROOMS).into()),
        (13, _) => Ask::OwnDocuments {
            subscribe: !random.once_in(3),
        },
        _ => Ask::AlertAdmins(number),
    }
}
