//! Which connections become sessions, and which identities they may have.

use super::command::{Connect, TokenSource};
use super::effect::Effect;
use super::event::{Event, Rejection};
use super::lifecycle::rejection_code;
use super::quotas::{Owner, QuotaFull, Quotas, Share};
use super::session::{Counted, Present, PresentList, Session, Shares};
use super::state::{Broker, Emit, view};
use crate::auth::Identity;
use crate::base::channel_names::is_tenant_id;
use crate::base::counters::{CloseReason, TokenError};
use crate::base::{ChannelTag, ConnectionId, NodeUser, Now, ProcessState, UserArrival, network_of};
use crate::config::{DialectPolicy, Policy, RateLimit, TenantSource};
use std::net::SocketAddr;

/// Whether a session may have an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    Rejected(CloseReason),
}

/// What came with a handshake to prove an identity.
enum Proof<'a> {
    /// A token, not yet verified.
    Token(&'a str),
    /// A token that is valid.
    Identity(Identity),
}

impl Broker {
    pub(super) fn connect(
        &mut self,
        id: ConnectionId,
        connect: Connect<'_>,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        let dialect = connect.dialect;
        let policy = self.policy.dialects[dialect.index()];
        // A session that must authenticate counts against the limits when it has.
        if policy.auth_required && !self.has_room(dialect) {
            return emit(rejection(CloseReason::Capacity));
        }
        let mut session = Session {
            dialect,
            encoding: connect.encoding,
            auth_failures: 0,
            closing: false,
            is_leaving: false,
            is_gone: false,
            is_named_tenant_trusted: match policy.tenant_source {
                TenantSource::Token => false,
                TenantSource::Request => true,
                TenantSource::Proxy => connect.is_tenant_vouched,
            },
            holds_user: false,
            has_restored: false,
            is_user_noted: false,
            isolates: policy.tenant_isolation,
            counted: Counted::default(),
            server_side_count: 0,
            violations: 0,
            rate_answered: None,
            peer: connect.peer,
            began: now,
            identity: None,
            named_tenant: connect.tenant.map(Into::into),
            rate: super::rate::RateState::default(),
            shares: None,
            filter_bytes: 0,
            subscriptions: Vec::new(),
            present: PresentList::default(),
            online: None,
            last_activity_ms: now.monotonic_ms,
            pinged: None,
        };
        if !policy.auth_required
            && let Err(reason) = self.limits().admit(&mut session, &policy, now)
        {
            return emit(rejection(reason));
        }
        let proof = self.proof_of(&policy, &connect, now, emit);
        let auth_pending = policy.auth_required || proof.is_some();
        if !auth_pending && session.tenant() != session.named_tenant.as_deref() {
            self.limits().release(&mut session, now);
            return emit(rejection(CloseReason::Tenant));
        }
        if !auth_pending && acquire_quotas(&self.quotas, &mut session, &policy, now).is_err() {
            self.limits().release(&mut session, now);
            return emit(rejection(CloseReason::Quota));
        }
        if let Some(shares) = &session.shares {
            let shares = [shares.user.as_ref(), shares.tenant.as_ref()];
            recount(&self.process_state, &policy, shares);
        }
        if session.counted.admitted {
            emit(Effect::Admitted);
        }
        self.process_state.add_session(dialect);
        emit(Effect::Reply(Event::Welcome {
            session: &view(self.session_id(id), &session, &self.channels, now),
            auth_pending,
            now,
        }));
        let earlier = self.sessions.insert(id, session);
        assert!(
            earlier.is_none(),
            "a slot's session ends before the next begins"
        );
        self.count_sessions();
        self.check_timers(id, &policy, now, emit);
        match proof {
            // A session whose handshake token is rejected is closed: the client cannot send another
            // token in the handshake.
            Some(Proof::Token(token)) => {
                self.authenticate(id, &policy, token, TokenSource::Handshake, now, emit);
            }
            Some(Proof::Identity(identity)) => {
                let verified = (Ok(identity), false);
                self.token_verified(id, &policy, verified, TokenSource::Handshake, now, emit);
            }
            None if !policy.auth_required => self.refresh_server_subscriptions(id),
            None => {}
        }
    }

    /// What came with the handshake to prove an identity. Where tokens are optional, an
    /// `Authorization` that proves nothing is ignored: a proxy may have put it there, and the
    /// client could not leave it out.
    fn proof_of<'a>(
        &self,
        policy: &DialectPolicy,
        connect: &Connect<'a>,
        now: Now,
        emit: &mut Emit<'_>,
    ) -> Option<Proof<'a>> {
        let of_client = connect.token.map(Proof::Token);
        let Some(token) = connect.authorization else {
            return of_client;
        };
        if policy.auth_required {
            return Some(Proof::Token(token));
        }
        if !self.verifier.is_configured() {
            return of_client;
        }
        match self.verify(connect.peer, policy, (token, false), now) {
            Ok(identity) => Some(Proof::Identity(identity)),
            Err(error) => {
                self.counters.token_errors.of(error).add(1);
                emit(Effect::TokenRejected(error));
                of_client
            }
        }
    }

    fn verify(
        &self,
        client: SocketAddr,
        policy: &DialectPolicy,
        (token, asks_others): (&str, bool),
        now: Now,
    ) -> Result<Identity, TokenError> {
        self.limit_guesses(client.ip(), token, asks_others, now, || {
            self.verifier.verify(token, policy.user_claim, now)
        })
    }

    /// Gives the session the identity of `token`, or rejects it, or has others asked about it.
    pub(super) fn authenticate(
        &mut self,
        id: ConnectionId,
        policy: &DialectPolicy,
        token: &str,
        source: TokenSource,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let verified = self.verify(session.peer, policy, (token, true), now);
        if let Err(error) = &verified
            && self.verifier.asks_others(token, *error)
        {
            let attempt = self.begin_attempt(session.peer.ip(), token, now);
            return emit(Effect::AskAboutToken {
                token,
                source,
                attempt,
            });
        }
        self.token_verified(id, policy, (verified, false), source, now, emit);
    }

    /// Continues when it is known whose a token is, or that it is not valid.
    pub(super) fn token_verified(
        &mut self,
        id: ConnectionId,
        policy: &DialectPolicy,
        (verified, is_awaited): (Result<Identity, TokenError>, bool),
        source: TokenSource,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        if let Ok(identity) = &verified
            && identity.expires_unix_s > now.unix_s()
            && !is_awaited
            && let Some(arrival) = self.arrival(id, policy, identity)
        {
            return emit(Effect::AwaitUser {
                identity,
                source,
                arrival,
            });
        }
        let is_in = match verified {
            Ok(identity) if identity.expires_unix_s <= now.unix_s() => {
                self.reject_token(id, TokenError::Expired, source, now, emit);
                false
            }
            Ok(identity) => self.admit_or_close(id, policy, identity, now, emit),
            Err(error) => {
                self.reject_token(id, error, source, now, emit);
                false
            }
        };
        // A session whose handshake token is rejected is closed: the client cannot send another
        // token in the handshake.
        if !is_in && source == TokenSource::Handshake {
            self.close_once(id, CloseReason::Unauthorized, now, emit);
        }
    }

    /// What is to be known of the user of a token from other nodes, if there are some.
    fn arrival(
        &self,
        id: ConnectionId,
        policy: &DialectPolicy,
        identity: &Identity,
    ) -> Option<UserArrival> {
        let link = self.process_state.link.as_ref()?;
        let session = self.sessions.get(id)?;
        let tenant = identity.tenant.as_deref().or(session.trusted_tenant());
        let is_same_user = session.user() == Some(&*identity.user) && session.tenant() == tenant;
        if is_same_user || !link.counters.is_up() {
            return None;
        }
        let tenants_max = policy.sessions_per_tenant_max;
        let counted = tenant.filter(|_| tenants_max > 0 && session.tenant() != tenant);
        let persistent = &self.process_state.persistent;
        let arrival = UserArrival {
            user: NodeUser {
                dialect: session.dialect,
                tenant: tenant.filter(|_| session.isolates).map(Into::into),
                user: (&*identity.user).into(),
            },
            sessions_max: (policy.sessions_per_user_max > 0)
                .then_some(policy.sessions_per_user_max),
            tenant: counted.map(|tenant| (tenant.into(), tenants_max)),
            offline_ttl_ms: policy.offline_queue.then_some(policy.offline_queue_ttl.0),
            persistent_ttl_ms: persistent.is_on().then_some(persistent.ttl_ms()),
        };
        let is_needed = arrival.sessions_max.is_some()
            || arrival.tenant.is_some()
            || arrival.offline_ttl_ms.is_some()
            || arrival.persistent_ttl_ms.is_some();
        is_needed.then_some(arrival)
    }

    /// Gives the session an identity, or closes it; false when it is closed.
    fn admit_or_close(
        &mut self,
        id: ConnectionId,
        policy: &DialectPolicy,
        identity: Identity,
        now: Now,
        emit: &mut Emit<'_>,
    ) -> bool {
        if let Admission::Rejected(reason) = self.admit_identity(id, policy, identity, now, emit) {
            self.close_once(id, reason, now, emit);
            return false;
        }
        self.check_timers(id, policy, now, emit);
        true
    }

    fn reject_token(
        &mut self,
        id: ConnectionId,
        error: TokenError,
        source: TokenSource,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        self.counters.token_errors.of(error).add(1);
        emit(Effect::TokenRejected(error));
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if error == TokenError::Unanswered {
            // It may be valid: the client is to try again, and has used no attempt.
            return if source == TokenSource::Message {
                let rejection = Rejection::HandlerFailed;
                emit(Effect::Reply(Event::AuthenticationFailed { rejection }));
            } else {
                self.close_once(id, CloseReason::AuthUnanswered, now, emit);
            };
        }
        if error == TokenError::Throttled {
            // Others behind its address must not end a session that has an identity.
            return if session.identity.is_some() {
                let rejection = Rejection::RateLimited;
                emit(Effect::Reply(Event::AuthenticationFailed { rejection }));
            } else {
                self.close_once(id, CloseReason::AuthThrottled, now, emit);
            };
        }
        session.auth_failures = session.auth_failures.saturating_add(1);
        let attempts_max = self.policy.dialects[session.dialect.index()].auth_attempts_max;
        let is_last = u32::from(session.auth_failures) >= attempts_max;
        let rejection = match error {
            TokenError::Expired => Rejection::TokenExpired,
            _ => Rejection::InvalidToken,
        };
        emit(Effect::Reply(Event::AuthenticationFailed { rejection }));
        if is_last {
            self.close(id, CloseReason::Unauthorized, now, emit);
        }
    }

    /// Gives the session an identity, if the tenant and the quotas allow it.
    pub(super) fn admit_identity(
        &mut self,
        id: ConnectionId,
        policy: &DialectPolicy,
        identity: Identity,
        now: Now,
        emit: &mut Emit<'_>,
    ) -> Admission {
        let Some(session) = self.sessions.get(id) else {
            return Admission::Admitted;
        };
        // The tenant of the token is authoritative; a request that names another one is forged or
        // mistaken.
        let proven = identity.tenant.as_deref();
        let tenant = proven.or(session.trusted_tenant());
        let is_named_otherwise =
            session.named_tenant.is_some() && session.named_tenant.as_deref() != tenant;
        if is_named_otherwise || proven.is_some_and(|proven| !is_tenant_id(proven)) {
            return Admission::Rejected(CloseReason::Tenant);
        }
        // Of a token without a tenant, only the session knows in which tenant its user is.
        if proven.is_none() && tenant.is_some() && self.verifier.is_revoked(&identity, tenant, now)
        {
            return Admission::Rejected(CloseReason::Revoked);
        }
        if let Err(reason) = self.count_admitted(id, policy, now, emit) {
            return Admission::Rejected(reason);
        }
        let Some(session) = self.sessions.get(id) else {
            return Admission::Admitted;
        };
        let tenant = identity.tenant.as_deref().or(session.trusted_tenant());
        let is_same_tenant = session.tenant() == tenant;
        let is_same_user = session.user() == Some(&*identity.user) && is_same_tenant;
        let is_moved = session.isolates && !is_same_tenant;
        let mut present = Vec::new();
        if !is_same_user {
            present = self.leave_presence(id, now, emit);
            self.stop_offline(id, now);
            self.release_user(id, now, emit);
        }
        let Some(session) = self.sessions.get_mut(id) else {
            return Admission::Admitted;
        };
        self.authenticated_count += u64::from(session.identity.is_none());
        session.identity = Some(Box::new(identity));
        if acquire_quotas(&self.quotas, session, policy, now).is_err() {
            self.release_user(id, now, emit);
            if let Some(session) = self.sessions.get_mut(id) {
                session.identity = None;
                self.authenticated_count -= 1;
            }
            return Admission::Rejected(CloseReason::Quota);
        }
        session.auth_failures = 0;
        if let Some(shares) = &session.shares {
            let shares = [shares.user.as_ref(), shares.tenant.as_ref()];
            recount(&self.process_state, policy, shares);
        }
        self.counters
            .authenticated_sessions
            .set(self.authenticated_count);
        if !is_same_user && !is_moved {
            self.change_offline_user(id, now);
        }
        if is_moved {
            // With them go the indices of the channels.
            present.clear();
            self.drop_client_side(id, now, emit);
        }
        self.refresh_server_subscriptions(id);
        self.drop_forbidden(id, is_same_user, now, emit);
        if let Some(session) = self.sessions.get(id)
            && let Some(identity) = session.identity.as_deref()
        {
            let session = &view(self.session_id(id), session, &self.channels, now);
            emit(Effect::Identified { session, identity });
            emit(Effect::Reply(Event::Authenticated {
                session,
                identity,
                now,
            }));
        }
        self.go_online(id, now, emit);
        self.note_user(id);
        self.join_presence(id, &present, now, emit);
        Admission::Admitted
    }

    fn limits(&self) -> Limits<'_> {
        Limits::new(&self.process_state, &self.quotas, &self.policy)
    }

    /// Counts a session that has authenticated against the limits, unless it already counts.
    fn count_admitted(
        &mut self,
        id: ConnectionId,
        policy: &DialectPolicy,
        now: Now,
        emit: &mut Emit<'_>,
    ) -> Result<(), CloseReason> {
        let Self {
            process_state,
            quotas,
            policy: of_process,
            sessions,
            ..
        } = self;
        if let Some(session) = sessions.get_mut(id)
            && !session.counted.admitted
        {
            let limits = Limits::new(process_state, quotas, of_process);
            limits.admit(session, policy, now)?;
            emit(Effect::Admitted);
        }
        Ok(())
    }

    /// The session's user leaves the channels on which the session counts; returns them: the next
    /// user of the session is not there yet.
    fn leave_presence(&mut self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) -> Vec<Present> {
        let session = self.sessions.get_mut(id);
        let all = session.map_or(Vec::new(), |session| session.present.take());
        for present in &all {
            self.disappear(id, *present, now, emit);
        }
        all
    }

    /// The session's user joins those of the channels that the session is still subscribed to.
    fn join_presence(&mut self, id: ConnectionId, all: &[Present], now: Now, emit: &mut Emit<'_>) {
        for Present { channel, .. } in all {
            let session = self.sessions.get(id);
            if session.is_some_and(|it| it.subscription(Some(*channel)).is_some()) {
                self.appear(id, *channel, now, emit);
            }
        }
    }

    /// Releases the session's share of the quotas of its user and its tenant; the session is not
    /// online as this user any more.
    fn release_user(&mut self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) {
        self.go_offline(id, now, emit);
        self.release_noted_user(id);
        self.release_persistent_user(id, now);
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let dialect = session.dialect;
        let policy = &self.policy.dialects[dialect.index()];
        let Some(shares) = &mut session.shares else {
            return;
        };
        let (user, tenant) = (shares.user.take(), shares.tenant.take());
        if let Some(share) = &tenant {
            self.quotas.release(share, policy.tenant_rate_limit, now);
        }
        if let Some(share) = &user {
            let limit = policy.rate_limit_of_user();
            self.quotas.release(share, limit, now);
        }
        recount(
            &self.process_state,
            policy,
            [user.as_ref(), tenant.as_ref()],
        );
    }

    pub(super) fn disconnect(
        &mut self,
        id: ConnectionId,
        unsent: &[(ChannelTag, u64)],
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        // First, so that a session with few subscriptions leaves its channels before its user is
        // offline.
        let Some(session) = self.sessions.get_mut(id).filter(|it| !it.is_gone) else {
            return;
        };
        session.closing = true;
        self.begin_leaving(id, now, emit);
        let remembered = self.remember_offline(id, unsent);
        if !remembered.is_empty() {
            emit(Effect::Remembered(&remembered));
        }
        self.release_user(id, now, emit);
        let Self {
            process_state,
            quotas,
            policy,
            sessions,
            ..
        } = self;
        if let Some(session) = sessions.get_mut(id) {
            session.is_gone = true;
            Limits::new(process_state, quotas, policy).release(session, now);
        }
        if let Some(session) = self.sessions.get(id) {
            self.process_state.remove_session(session.dialect);
            if session.counted.isolated {
                self.process_state.remove_isolated(session.dialect);
            }
            self.authenticated_count -= u64::from(session.identity.is_some());
            self.counters
                .authenticated_sessions
                .set(self.authenticated_count);
            if session.is_leaving {
                self.leaving.gone_count += 1;
            } else {
                self.sessions.remove(id);
            }
            self.count_sessions();
        }
    }

    pub(super) fn count_sessions(&self) {
        let count = self.sessions.count() - self.leaving.gone_count;
        self.counters.shard_sessions.set(count as u64);
    }
}

/// The limits of sessions of the process, of a dialect and of an address.
struct Limits<'a> {
    process_state: &'a ProcessState,
    quotas: &'a Quotas,
    policy: &'a Policy,
}

impl<'a> Limits<'a> {
    fn new(process_state: &'a ProcessState, quotas: &'a Quotas, policy: &'a Policy) -> Self {
        Self {
            process_state,
            quotas,
            policy,
        }
    }

    /// Counts a session that does not count yet.
    fn admit(
        &self,
        session: &mut Session,
        policy: &DialectPolicy,
        now: Now,
    ) -> Result<(), CloseReason> {
        let dialect = session.dialect;
        let process_state = self.process_state;
        if !process_state.admit(dialect, policy.sessions_max, self.policy.sessions_max) {
            return Err(CloseReason::Capacity);
        }
        let per_ip_max = policy.sessions_per_ip_max;
        if per_ip_max > 0 || policy.ip_rate_limit != RateLimit::Off {
            let owner = Owner::Address(network_of(session.peer.ip()));
            let Ok((share, _)) = self.quotas.acquire(dialect, owner, per_ip_max, now) else {
                process_state.release_admitted(dialect);
                return Err(CloseReason::Quota);
            };
            shares_of(session).address = Some(share);
        }
        session.counted.admitted = true;
        Ok(())
    }

    /// A session that ends no longer counts, if it did.
    fn release(&self, session: &mut Session, now: Now) {
        let dialect = session.dialect;
        let shares = session.shares.as_mut();
        if let Some(share) = shares.and_then(|shares| shares.address.take()) {
            let limit = self.policy.dialect(dialect).ip_rate_limit;
            self.quotas.release(&share, limit, now);
        }
        if std::mem::take(&mut session.counted.admitted) {
            self.process_state.release_admitted(dialect);
        }
    }
}

fn shares_of(session: &mut Session) -> &mut Shares {
    session.shares.get_or_insert_default()
}

/// Has the other nodes told how many sessions there are here of a user and of a tenant, as far as those have
/// limits.
fn recount(
    process_state: &ProcessState,
    policy: &DialectPolicy,
    [user, tenant]: [Option<&Share>; 2],
) {
    let Some(link) = &process_state.link else {
        return;
    };
    let user = user.filter(|_| policy.sessions_per_user_max > 0);
    let tenant = tenant.filter(|_| policy.sessions_per_tenant_max > 0);
    for share in [user, tenant].into_iter().flatten() {
        if let Some(owner) = share.counted_owner() {
            link.recount(owner);
        }
    }
}

/// The effect with which a session is rejected that has not begun.
fn rejection(reason: CloseReason) -> Effect<'static> {
    let code = rejection_code(reason);
    Effect::Close { code, reason }
}

/// Acquires the quotas of the session's tenant and user, unless it has them already. The tenant is
/// first: a session that the tenant's limit rejects must never count as one of its user.
fn acquire_quotas(
    quotas: &Quotas,
    session: &mut Session,
    policy: &DialectPolicy,
    now: Now,
) -> Result<(), QuotaFull> {
    let dialect = session.dialect;
    let shares = session.shares.as_deref();
    let (has_user, has_tenant) = shares.map_or((false, false), |shares| {
        (shares.user.is_some(), shares.tenant.is_some())
    });
    let sessions_max = policy.sessions_per_tenant_max;
    let counts_tenants =
        sessions_max > 0 || policy.tenant_rate_limit != RateLimit::Off || session.isolates;
    if counts_tenants
        && !has_tenant
        && let Some(tenant) = session.tenant()
    {
        let owner = Owner::Tenant(tenant);
        let (share, _) = quotas.acquire(dialect, owner, sessions_max, now)?;
        shares_of(session).tenant = Some(share);
    }
    let counts_users =
        policy.sessions_per_user_max > 0 || policy.rate_limit_of_user() != RateLimit::Off;
    if !counts_users || has_user {
        return Ok(());
    }
    let Some(user) = session.quota_user() else {
        return Ok(());
    };
    let (owner, sessions_max) = (Owner::User(&user), policy.sessions_per_user_max);
    let (share, _) = quotas.acquire(dialect, owner, sessions_max, now)?;
    shares_of(session).user = Some(share);
    Ok(())
}
