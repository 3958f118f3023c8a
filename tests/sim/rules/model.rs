//! The rules once more, as plainly as possible: what every client must be told at every step.
//!
//! The model keeps no counts. How many sessions a user has is counted when it matters, and who is
//! told of a publication is asked of every session.

use super::texts::{
    self, Ask, Proof, Publication, Scope, Token, admitted, auth_failed, error, room_event,
    user_activity,
};
use super::usage::Usage;
use fanwire::base::{DialectId, Now};
use fanwire::config::{RateLimit, RateScope};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How long a user without sessions is remembered, milliseconds.
pub(super) const MEMORY_MS: u64 = 300_000;

/// The rules of one dialect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) auth_required: bool,
    pub(super) auth_attempts_max: u32,
    pub(super) auth_timeout_ms: u64,
    pub(super) sessions_max: usize,
    pub(super) per_ip_max: usize,
    pub(super) per_user_max: usize,
    pub(super) per_tenant_max: usize,
    pub(super) rate: RateLimit,
    pub(super) rate_scope: RateScope,
    pub(super) rate_violations_max: u32,
    pub(super) announces_users: bool,
    /// Whether tenants are isolated.
    pub(super) isolates: bool,
    /// Whether requests name tenants for tokens without one.
    pub(super) trusts_requests: bool,
}

/// A user: the dialect, the tenant where tenants are isolated, and the id.
type UserKey = (DialectId, Option<&'static str>, &'static str);

/// What a client says with its request.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    pub(super) dialect: DialectId,
    pub(super) ip: u8,
    pub(super) tenant: Option<&'static str>,
    pub(super) proof: Option<Proof>,
}

/// What one client must be told in one step.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// In this order, before the publications.
    pub(super) replies: Vec<Value>,
    /// In any order: several shards may publish in one step.
    pub(super) publications: Vec<Value>,
    /// Code and reason of the close frame at the end.
    pub(super) close: Option<(u16, String)>,
}

/// Users on a channel with their sessions, and all sessions.
type Present<'a> = (BTreeMap<&'a str, u32>, u64);

#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) dialect: DialectId,
    ip: u8,
    /// The tenant that its request names.
    named: Option<&'static str>,
    trusts_requests: bool,
    isolates: bool,
    /// Whether it counts against the limits of its dialect and its address.
    counts_for_dialect: bool,
    /// Whether it counts against the limit of its tenant.
    counts_for_tenant: bool,
    pub(super) identity: Option<Token>,
    began_ms: u64,
    auth_failures: u32,
    violations: u32,
    /// When it was last told of one.
    violation_told_ms: Option<u64>,
    usage: Usage,
    /// What it subscribed to, oldest first.
    pub(super) channels: Vec<String>,
    /// The channels that the server has subscribed it to.
    server_side: BTreeSet<String>,
}

pub(super) struct Model {
    limits: HashMap<DialectId, Limits>,
    pub(super) sessions: BTreeMap<usize, Session>,
    /// Messages of users, and when the last session of each ended.
    users: HashMap<UserKey, (Usage, u64)>,
    published: Vec<Publication>,
    told: BTreeMap<usize, Told>,
    /// Sessions that the server closed, by reason.
    pub(super) closes: BTreeMap<String, u64>,
}

impl Session {
    pub(super) fn user(&self) -> Option<&'static str> {
        self.identity.as_ref().map(|identity| identity.user)
    }

    /// The tenant of its token, or else the one that its request names, if requests are trusted.
    pub(super) fn tenant(&self) -> Option<&'static str> {
        let proven = self.identity.as_ref().and_then(|identity| identity.tenant);
        proven.or(self.trusted())
    }

    fn trusted(&self) -> Option<&'static str> {
        self.named.filter(|_| self.trusts_requests)
    }

    /// The tenant whose channels are its own.
    pub(super) fn space(&self) -> Option<&'static str> {
        self.tenant().filter(|_| self.isolates)
    }

    fn is_user(&self, space: Option<&str>, user: &str) -> bool {
        self.user() == Some(user) && self.space() == space
    }

    /// Whether a publication is for it.
    fn receives(&self, publication: &Publication) -> bool {
        let channel = &publication.channel;
        self.has(channel)
            && match publication.scope {
                Scope::All => true,
                Scope::Of(_) if channel.starts_with("tenant:") => true,
                Scope::Of(tenant) => self.space() == tenant,
            }
    }

    fn has(&self, channel: &str) -> bool {
        let mut channels = self.channels.iter();
        self.server_side.contains(channel) || channels.any(|known| known == channel)
    }

    /// Whether rules let it have a channel.
    fn may_have(&self, channel: &str) -> bool {
        let has_role = |role| {
            let identity = self.identity.as_ref();
            identity.is_some_and(|identity| identity.roles.contains(&role))
        };
        match channel {
            "room:admin" | "room:all_document_updates" => has_role("admin"),
            "room:vip" => has_role("vip"),
            _ => match channel.strip_prefix("room:document_updates_") {
                Some(user) => self.user() == Some(user),
                None => true,
            },
        }
    }

    /// The channels that the server subscribes it to: by its dialect, its tenant, its token.
    fn server_side(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::from(["all".to_owned()]);
        names.insert(format!("dialect:{}", self.dialect.name()));
        names.extend(self.tenant().map(|tenant| format!("tenant:{tenant}")));
        if let Some(identity) = &self.identity {
            names.insert(format!("user:{}", identity.user));
            names.extend(identity.roles.iter().map(|role| format!("role:{role}")));
            let permissions = identity.permissions.iter();
            names.extend(permissions.map(|permission| format!("permission:{permission}")));
        }
        // Admins of the assist dialect are in their room, unless they have joined it themselves.
        let has_joined = self.channels.iter().any(|channel| channel == "room:admin");
        if self.dialect == DialectId::Assist && self.may_have("room:admin") && !has_joined {
            names.insert("room:admin".into());
        }
        names
    }
}

/// Whether others are told who comes to a channel and goes.
fn has_presence(channel: &str) -> bool {
    let reserved = [
        "room:admin",
        "room:system_monitoring",
        "room:background_jobs",
        "room:all_document_updates",
    ];
    let is_reserved = reserved.contains(&channel);
    channel.starts_with("room:") && !is_reserved && !channel.starts_with("room:document_updates_")
}

impl Model {
    pub(super) fn new(limits: HashMap<DialectId, Limits>) -> Self {
        Self {
            limits,
            sessions: BTreeMap::new(),
            users: HashMap::new(),
            published: Vec::new(),
            told: BTreeMap::new(),
            closes: BTreeMap::new(),
        }
    }

    /// What each client must be told of the last step.
    pub(super) fn take_told(&mut self, now: Now) -> BTreeMap<usize, Told> {
        for publication in std::mem::take(&mut self.published) {
            for (client, session) in &self.sessions {
                if session.receives(&publication) {
                    let text = publication.text(session.dialect, now);
                    let told = self.told.entry(*client).or_default();
                    told.publications.push(text);
                }
            }
        }
        std::mem::take(&mut self.told)
    }

    fn reply(&mut self, client: usize, text: Value) {
        self.told.entry(client).or_default().replies.push(text);
    }

    fn reject(&mut self, client: usize, reason: &str) {
        let dialect = self.sessions[&client].dialect;
        self.reply(client, error(dialect, reason));
    }

    fn close_frame(&mut self, client: usize, code: u16, reason: &str) {
        *self.closes.entry(reason.to_owned()).or_default() += 1;
        let told = self.told.entry(client).or_default();
        told.close = Some((code, reason.to_owned()));
    }

    fn close(&mut self, client: usize, reason: &str, now: Now) {
        self.close_frame(client, 1008, reason);
        self.end(client, now);
    }

    /// How many sessions of a dialect are of a kind.
    fn count(&self, dialect: DialectId, is_one: impl Fn(&Session) -> bool) -> usize {
        let sessions = self.sessions.values();
        let found = sessions.filter(|session| session.dialect == dialect && is_one(session));
        found.count()
    }

    /// Whether the limit of a dialect is reached.
    fn is_full(&self, dialect: DialectId) -> bool {
        let admitted = self.count(dialect, |session| session.counts_for_dialect);
        admitted >= self.limits[&dialect].sessions_max
    }

    /// Whether the limit of an address is reached.
    fn is_full_for(&self, dialect: DialectId, ip: u8) -> bool {
        let admitted = self.count(dialect, |session| {
            session.counts_for_dialect && session.ip == ip
        });
        admitted >= self.limits[&dialect].per_ip_max
    }

    pub(super) fn publish(&mut self, publication: Publication) {
        self.published.push(publication);
    }

    pub(super) fn connect(&mut self, client: usize, opening: &Opening, now: Now) {
        let Opening {
            dialect,
            ip,
            tenant,
            ref proof,
        } = *opening;
        let limits = self.limits[&dialect];
        if self.is_full(dialect) {
            return self.close_frame(client, 1013, "capacity");
        }
        // Who has to authenticate counts from then on.
        if !limits.auth_required && self.is_full_for(dialect, ip) {
            return self.close_frame(client, 1008, "quota");
        }
        // Where tokens are optional, a wrong one in `Authorization` means nobody.
        let is_right =
            |proof: &&Proof| matches!(proof, Proof::Token(token) if token.expires_s > now.unix_s());
        let proof = proof
            .as_ref()
            .filter(|proof| limits.auth_required || is_right(proof));
        let is_anonymous = proof.is_none() && !limits.auth_required;
        if is_anonymous && tenant.is_some() && !limits.trusts_requests {
            return self.close_frame(client, 1008, "tenant");
        }
        let is_full = |tenant| self.of_tenant(dialect, tenant) >= limits.per_tenant_max;
        if is_anonymous && tenant.is_some_and(is_full) {
            return self.close_frame(client, 1008, "quota");
        }
        let session = Session {
            dialect,
            ip,
            named: tenant,
            trusts_requests: limits.trusts_requests,
            isolates: limits.isolates,
            counts_for_dialect: !limits.auth_required,
            counts_for_tenant: is_anonymous,
            identity: None,
            began_ms: now.monotonic_ms,
            auth_failures: 0,
            violations: 0,
            violation_told_ms: None,
            usage: Usage::default(),
            channels: Vec::new(),
            server_side: BTreeSet::new(),
        };
        self.sessions.insert(client, session);
        match proof {
            Some(proof) => {
                self.authenticate(client, proof, now);
                let is_rejected = self.sessions.get(&client);
                if is_rejected.is_some_and(|session| session.identity.is_none()) {
                    self.close(client, "unauthorized", now);
                }
            }
            None if !limits.auth_required => {
                let session = self.sessions.get_mut(&client).unwrap();
                session.server_side = session.server_side();
                if dialect == DialectId::Assist {
                    self.reply(client, admitted(dialect, None, now));
                }
            }
            None => {}
        }
    }

    pub(super) fn message(&mut self, client: usize, ask: &Ask, now: Now) {
        let Some(session) = self.sessions.get(&client) else {
            return;
        };
        let limits = self.limits[&session.dialect];
        if !self.counts(client, now) {
            let session = self.sessions.get_mut(&client).unwrap();
            session.violations += 1;
            let violations = session.violations;
            let told_ms = session.violation_told_ms;
            if told_ms.is_none_or(|told_ms| now.monotonic_ms - told_ms >= 1_000) {
                session.violation_told_ms = Some(now.monotonic_ms);
                self.reject(client, "Rate limit exceeded");
            }
            if limits.rate_violations_max > 0 && violations > limits.rate_violations_max {
                self.close(client, "rate_limited", now);
            }
            return;
        }
        let session = &self.sessions[&client];
        let (user, space) = (session.user(), session.space());
        let auth_satisfied = user.is_some() || !limits.auth_required;
        match ask {
            Ask::Ping => self.reply(client, json!({"type": "pong"})),
            Ask::Unknown => self.reject(client, "Unknown message type"),
            Ask::Authenticate(proof) => self.authenticate(client, proof, now),
            _ if !auth_satisfied => self.reject(client, "Authentication required"),
            Ask::Subscribe(channel) => self.subscribe(client, channel, now),
            Ask::Unsubscribe(channel) => self.unsubscribe(client, channel, now),
            Ask::OwnDocuments { subscribe } => match user {
                None => self.reject(client, "Authentication required"),
                Some(user) if *subscribe => {
                    let channel = format!("room:document_updates_{user}");
                    self.subscribe(client, &channel, now);
                }
                Some(user) => {
                    self.unsubscribe(client, &format!("room:document_updates_{user}"), now);
                }
            },
            Ask::Publish(channel, number) => {
                let identity = session.identity.as_ref();
                if !identity.is_some_and(|identity| identity.permissions.contains(&"publish")) {
                    self.reject(client, "Permission denied");
                } else if channel == "all" || channel.starts_with("user:") {
                    self.reject(client, "Channel is reserved");
                } else if !identity.is_some_and(|identity| match channel.as_str() {
                    "prop:1" => true,
                    "prop:2" => identity.roles.contains(&"vip"),
                    "room:chat" => identity.permissions.contains(&"read"),
                    _ => false,
                }) {
                    self.reject(client, "Permission denied");
                } else {
                    self.publish(Publication {
                        scope: Scope::Of(space),
                        channel: channel.clone(),
                        kind: "m",
                        data: json!({"number": number}),
                    });
                }
            }
            Ask::AlertAdmins(number) => {
                if session.may_have("room:admin") {
                    self.publish(texts::alert(*number).of(space));
                } else {
                    self.reject(client, "Permission denied");
                }
            }
        }
    }

    /// Counts a message against the rate limit.
    fn counts(&mut self, client: usize, now: Now) -> bool {
        let session = self.sessions.get_mut(&client).unwrap();
        let limits = self.limits[&session.dialect];
        let usage = match (limits.rate_scope, session.user()) {
            (RateScope::User, Some(user)) => {
                let key = (session.dialect, session.space(), user);
                &mut self.users.entry(key).or_default().0
            }
            _ => &mut session.usage,
        };
        usage.allows(limits.rate, now.monotonic_ms)
    }

    fn subscribe(&mut self, client: usize, channel: &str, now: Now) {
        let session = self.sessions.get_mut(&client).unwrap();
        let (dialect, user, space) = (session.dialect, session.user(), session.space());
        if channel == "all" || channel.starts_with("user:") {
            return self.reject(client, "Channel is reserved");
        }
        if !session.may_have(channel) {
            return self.reject(client, "Permission denied");
        }
        let is_new = !session.has(channel);
        let is_first = is_new && !self.is_there(space, channel, user);
        let session = self.sessions.get_mut(&client).unwrap();
        if is_new {
            session.channels.push(channel.to_owned());
        }
        let event = room_event("join", channel, user).of(space);
        if dialect == DialectId::Gateway {
            let text = json!({"type": "subscribed", "data": {"channel": channel}});
            self.reply(client, text);
        } else if !is_first {
            self.reply(client, event.text(dialect, now));
        }
        if is_first {
            self.publish(event);
        }
    }

    fn unsubscribe(&mut self, client: usize, channel: &str, now: Now) {
        let session = self.sessions.get_mut(&client).unwrap();
        let (dialect, user, space) = (session.dialect, session.user(), session.space());
        if channel == "all" || channel.starts_with("user:") {
            return self.reject(client, "Channel is reserved");
        }
        let count = session.channels.len();
        session.channels.retain(|known| known != channel);
        let had_joined = session.channels.len() < count;
        session.server_side.remove(channel);
        let event = room_event("leave", channel, user).of(space);
        let text = match dialect {
            DialectId::Gateway => json!({"type": "unsubscribed", "data": {"channel": channel}}),
            _ => event.text(dialect, now),
        };
        self.reply(client, text);
        if had_joined && !self.is_there(space, channel, user) {
            self.publish(event);
        }
    }

    fn authenticate(&mut self, client: usize, proof: &Proof, now: Now) {
        let session = self.sessions.get_mut(&client).unwrap();
        let (dialect, limits) = (session.dialect, self.limits[&session.dialect]);
        let token = match proof {
            Proof::Token(token) if token.expires_s > now.unix_s() => token,
            _ => {
                session.auth_failures += 1;
                let is_last = session.auth_failures >= limits.auth_attempts_max;
                let is_over = matches!(proof, Proof::Token(_));
                let reason = ["Invalid token", "Token expired"][usize::from(is_over)];
                self.reply(client, auth_failed(dialect, reason));
                if is_last {
                    self.close(client, "unauthorized", now);
                }
                return;
            }
        };
        // A request that names another tenant than the token.
        let tenant = token.tenant.or(session.trusted());
        if session.named.is_some() && session.named != tenant {
            return self.close(client, "tenant", now);
        }
        let (counts_for_dialect, ip) = (session.counts_for_dialect, session.ip);
        if !counts_for_dialect && self.is_full(dialect) {
            self.close_frame(client, 1013, "capacity");
            return self.end(client, now);
        }
        if !counts_for_dialect && self.is_full_for(dialect, ip) {
            return self.close(client, "quota", now);
        }
        let session = self.sessions.get_mut(&client).unwrap();
        session.counts_for_dialect = true;
        let is_moved = session.tenant() != tenant;
        let is_other = session.user() != Some(token.user) || is_moved;
        let space = tenant.filter(|_| limits.isolates);
        let rooms = if is_other {
            self.leave_identity(client, now)
        } else {
            Vec::new()
        };
        let of_user = self.count(dialect, |session| session.is_user(space, token.user));
        let is_full = |tenant| self.of_tenant(dialect, tenant) >= limits.per_tenant_max;
        let is_over_tenant = tenant.is_some_and(is_full);
        if is_other && (of_user >= limits.per_user_max || is_over_tenant) {
            return self.close(client, "quota", now);
        }
        let session = self.sessions.get_mut(&client).unwrap();
        session.auth_failures = 0;
        session.identity = Some(token.clone());
        session.counts_for_tenant = true;
        if is_moved && limits.isolates {
            session.channels.clear();
        }
        session.server_side = session.server_side();
        self.reply(client, admitted(dialect, Some(token.user), now));
        self.drop_forbidden(client, is_other);
        if is_other && of_user == 0 && limits.announces_users {
            self.publish(user_activity("connected", token.user).of(space));
        }
        for room in rooms {
            let session = self.sessions.get_mut(&client).unwrap();
            let stays = session.channels.contains(&room);
            // Whether others of the user were there before.
            let identity = session.identity.take();
            let was_there = self.is_there(space, &room, Some(token.user));
            self.sessions.get_mut(&client).unwrap().identity = identity;
            if stays && !was_there {
                self.publish(room_event("join", &room, Some(token.user)).of(space));
            }
        }
    }

    /// Whether a user has a session on a channel, or nobody is told of it.
    fn is_there(&self, space: Option<&str>, channel: &str, user: Option<&str>) -> bool {
        let Some(user) = user.filter(|_| has_presence(channel)) else {
            return true;
        };
        let mut sessions = self.sessions.values();
        sessions.any(|session| {
            session.is_user(space, user) && session.channels.iter().any(|it| it == channel)
        })
    }

    /// Who is on each channel of which that is kept: the sessions of each user, and of all.
    pub(super) fn present(&self) -> BTreeMap<(Option<&str>, &str), Present<'_>> {
        let mut present = BTreeMap::<_, Present<'_>>::new();
        for session in self.sessions.values() {
            for channel in session.channels.iter().filter(|it| has_presence(it)) {
                let (users, sessions) = present.entry((session.space(), &**channel)).or_default();
                *sessions += 1;
                if let Some(user) = session.user() {
                    *users.entry(user).or_default() += 1;
                }
            }
        }
        present
    }

    /// The sessions that count against the limit of a tenant.
    fn of_tenant(&self, dialect: DialectId, tenant: &str) -> usize {
        self.count(dialect, |session| {
            session.counts_for_tenant && session.tenant() == Some(tenant)
        })
    }

    /// A new token of the same user may say less than the one before.
    fn drop_forbidden(&mut self, client: usize, is_other: bool) {
        let session = self.sessions.get_mut(&client).unwrap();
        let (user, space) = (session.user(), session.space());
        let mut dropped = Vec::new();
        for channel in std::mem::take(&mut session.channels) {
            if session.may_have(&channel) {
                session.channels.push(channel);
            } else {
                dropped.push(channel);
            }
        }
        for channel in dropped {
            if !is_other && !self.is_there(space, &channel, user) {
                self.publish(room_event("leave", &channel, user).of(space));
            }
        }
    }

    /// The session no longer speaks for whom it did: others are told as if it had left. Returns the
    /// channels that it was on.
    fn leave_identity(&mut self, client: usize, now: Now) -> Vec<String> {
        let session = self.sessions.get_mut(&client).unwrap();
        let (dialect, user, space) = (session.dialect, session.user(), session.space());
        session.identity = None;
        session.counts_for_tenant = false;
        let rooms = session.channels.clone();
        for room in &rooms {
            if !self.is_there(space, room, user) {
                self.publish(room_event("leave", room, user).of(space));
            }
        }
        let Some(user) = user else {
            return rooms;
        };
        if self.count(dialect, |session| session.is_user(space, user)) == 0 {
            if self.limits[&dialect].announces_users {
                self.publish(user_activity("disconnected", user).of(space));
            }
            if let Some((_, left_ms)) = self.users.get_mut(&(dialect, space, user)) {
                *left_ms = now.monotonic_ms;
            }
        }
        rooms
    }

    fn end(&mut self, client: usize, now: Now) {
        self.leave_identity(client, now);
        self.sessions.remove(&client);
    }

    /// The client ends its session; a close frame of its is answered.
    pub(super) fn leave(&mut self, client: usize, with_close_frame: bool, now: Now) {
        if with_close_frame {
            let told = self.told.entry(client).or_default();
            told.close = Some((1000, String::new()));
        }
        self.end(client, now);
    }

    /// Time has passed.
    pub(super) fn pass(&mut self, now: Now) {
        for client in self.sessions.keys().copied().collect::<Vec<_>>() {
            let session = &self.sessions[&client];
            let limits = self.limits[&session.dialect];
            let waited_ms = now.monotonic_ms - session.began_ms;
            match &session.identity {
                Some(token) if token.expires_s <= now.unix_s() => {
                    self.reject(client, "Token expired");
                    self.close(client, "token_expired", now);
                }
                None if limits.auth_required && waited_ms >= limits.auth_timeout_ms => {
                    self.close(client, "auth_timeout", now);
                }
                _ => {}
            }
        }
    }

    /// Forgets users that left long ago; returns how many addresses, users and tenants are left.
    pub(super) fn sweep(&mut self, now: Now) -> usize {
        let sessions: Vec<_> = self.sessions.values().collect();
        let is_here = |dialect, space, user| {
            let mut sessions = sessions.iter();
            sessions.any(|session| session.dialect == dialect && session.is_user(space, user))
        };
        let limits = &self.limits;
        self.users
            .retain(|(dialect, space, user), (usage, left_ms)| {
                let matters = usage.matters(limits[dialect].rate, now.monotonic_ms);
                is_here(*dialect, *space, user)
                    || (matters && *left_ms + MEMORY_MS > now.monotonic_ms)
            });
        let mut remembered = BTreeSet::new();
        for session in &sessions {
            let dialect = session.dialect.index();
            if session.counts_for_dialect {
                remembered.insert((dialect, 'i', None, session.ip.to_string()));
            }
            if let Some(user) = session.user() {
                remembered.insert((dialect, 'u', session.space(), user.to_owned()));
            }
            if session.counts_for_tenant {
                let tenant = session.tenant().map(str::to_owned);
                remembered.extend(tenant.map(|tenant| (dialect, 't', None, tenant)));
            }
        }
        let users = self.users.keys();
        remembered.extend(
            users.map(|(dialect, space, user)| (dialect.index(), 'u', *space, (*user).to_owned())),
        );
        remembered.len()
    }
}
