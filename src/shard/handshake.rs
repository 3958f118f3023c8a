//! Reads the request head of a connection and upgrades it, passes it to the HTTP API, or rejects
//! it.

use super::Shard;
use super::client_log::Connected;
use super::connection::{CloseRequest, Phase};
use crate::base::channel_names::is_tenant_id;
use crate::base::client_counters::ConnectionStatus;
use crate::base::counters::{CloseReason, RejectReason};
use crate::base::limits::HEAD_BYTES_MAX;
use crate::base::{ConnectionId, DialectId, FrameEncoding, FrameRun, Now, Variant};
use crate::broker::{Command, Connect, HandshakeExcess};
use crate::config::{
    Compression, ForwardedHeader, PeerRole, Policy, ProxyProtocol, RejectionMode, Routes,
};
use crate::http::proxy_protocol::{self, ProxyHeader};
use crate::http::target::percent_decode;
use crate::http::{ForwardedForm, Head, HeadError, Target, UpgradeError};
use crate::ws::CloseCode;
use crate::ws::extension::Agreement;
use crate::ws::handshake::switching_protocols;
use std::borrow::Cow;
use std::net::SocketAddr;

/// The subprotocol that is followed by a token in the list, for browsers, which cannot set headers.
const BEARER_SUBPROTOCOL: &str = "bearer";

/// What a request head leads to.
enum HandshakeDecision<'a> {
    Reject(RejectReason),
    Http,
    Upgrade(Upgrade<'a>),
}

struct Upgrade<'a> {
    head_bytes: usize,
    dialect: DialectId,
    encoding: FrameEncoding,
    answer: String,
    origin: Option<&'a str>,
    authorization: Option<&'a str>,
    correlation_id: Option<&'a str>,
    token: Option<Cow<'a, str>>,
    /// The tenant, and whether the header names it.
    tenant: Option<(Cow<'a, str>, bool)>,
    /// The path, and what of it names the tenant.
    path: (&'a str, Option<&'a str>),
}

impl Upgrade<'_> {
    /// The path, without the name of a tenant.
    fn route(&self) -> String {
        match self.path {
            (path, Some(tenant)) => path.replace(tenant, "{tenant}"),
            (path, None) => path.to_owned(),
        }
    }
}

impl Shard {
    /// Receives bytes while the request head is incomplete.
    pub(super) fn receive_head(&mut self, id: ConnectionId, bytes: &mut [u8], now: Now) {
        let Some(connection) = self.connections.slab.get_mut(id) else {
            return;
        };
        let Phase::Head(pending_request) = &mut connection.phase else {
            return;
        };
        let role = pending_request.role;
        let waiting = &mut pending_request.head;
        if waiting.is_empty() {
            return self.inspect(id, role, bytes, now);
        }
        waiting.extend_from_slice(bytes);
        // A head ends with a line feed, so bytes without one cannot complete it and need no
        // parsing. A header of the PROXY protocol need not have one at its end.
        let may_be_complete = bytes.contains(&b'\n') || waiting.len() >= HEAD_BYTES_MAX;
        if may_be_complete || role == PeerRole::Relay {
            let mut all = std::mem::take(waiting);
            self.inspect(id, role, &mut all, now);
        }
    }

    fn inspect(&mut self, id: ConnectionId, role: PeerRole, bytes: &mut [u8], now: Now) {
        match role {
            PeerRole::Client | PeerRole::Proxy => self.inspect_head(id, bytes, now),
            PeerRole::Relay => self.inspect_proxy_header(id, bytes, now),
            PeerRole::Stranger => {
                let reason = RejectReason::ProxyHeaderMissing;
                self.connections.reject(id, reason, now);
            }
        }
    }

    /// Whether a connection has yet to begin with a header of the PROXY protocol, or without one.
    #[must_use]
    pub fn awaits_proxy_header(&self, id: ConnectionId) -> bool {
        let connection = self.connections.slab.get(id);
        let phase = connection.map(|connection| &connection.phase);
        matches!(phase, Some(Phase::Head(pending)) if pending.role == PeerRole::Relay)
    }

    /// Whether a connection has yet to send its request, and may.
    #[must_use]
    pub fn awaits_request(&self, id: ConnectionId) -> bool {
        let connection = self.connections.slab.get(id);
        connection.is_some_and(|connection| matches!(connection.phase, Phase::Head(_)))
    }

    /// Rejects a connection of no trusted proxy where a header of the PROXY protocol is required, before it
    /// has sent anything: with TLS, even the answer would cost a handshake. False if it is another one.
    pub fn reject_stranger(&mut self, id: ConnectionId, now: Now) -> bool {
        let connection = self.connections.slab.get(id);
        let phase = connection.map(|connection| &connection.phase);
        let is_stranger =
            matches!(phase, Some(Phase::Head(pending)) if pending.role == PeerRole::Stranger);
        if is_stranger {
            self.connections
                .reject(id, RejectReason::ProxyHeaderMissing, now);
        }
        is_stranger
    }

    /// A connection that awaits a header of the PROXY protocol has begun with something else, which is
    /// encrypted.
    pub fn skip_proxy_header(&mut self, id: ConnectionId, now: Now) {
        if self.broker.policy().proxy_protocol == ProxyProtocol::Required {
            let reason = RejectReason::ProxyHeaderMissing;
            return self.connections.reject(id, reason, now);
        }
        self.take_role(id, PeerRole::Proxy, None, now);
    }

    /// It is known from now on who sends what follows.
    fn take_role(
        &mut self,
        id: ConnectionId,
        role: PeerRole,
        client: Option<SocketAddr>,
        now: Now,
    ) {
        let Some(connection) = self.connections.slab.get_mut(id) else {
            return;
        };
        let Phase::Head(pending_request) = &mut connection.phase else {
            return;
        };
        pending_request.role = role;
        pending_request.client = client.unwrap_or(pending_request.client);
        let client = pending_request.client;
        if self.broker.policy().knows_client(role) {
            self.connections.count_address(id, client, now);
        }
    }

    /// Reads the header of the PROXY protocol before a request. What follows is sent by the client that
    /// it names, and by nobody who is trusted if it names none.
    fn inspect_proxy_header(&mut self, id: ConnectionId, bytes: &mut [u8], now: Now) {
        let policy = self.broker.policy();
        let Some(connection) = self.connections.slab.get_mut(id) else {
            return;
        };
        let Phase::Head(pending_request) = &mut connection.phase else {
            return;
        };
        let (header_bytes, role, client) = match proxy_protocol::read(bytes) {
            ProxyHeader::Incomplete => return pending_request.head = bytes.to_vec(),
            ProxyHeader::Malformed => {
                let reason = RejectReason::ProxyHeader;
                return self.connections.reject(id, reason, now);
            }
            ProxyHeader::Absent if policy.proxy_protocol == ProxyProtocol::Required => {
                let reason = RejectReason::ProxyHeaderMissing;
                return self.connections.reject(id, reason, now);
            }
            ProxyHeader::Absent => (0, PeerRole::Proxy, None),
            ProxyHeader::Complete {
                header_bytes,
                client,
            } => {
                let is_proxy = client.is_some_and(|client| policy.is_trusted_proxy(client.ip()));
                let role = match is_proxy {
                    true => PeerRole::Proxy,
                    false => PeerRole::Client,
                };
                (header_bytes, role, client)
            }
        };
        self.take_role(id, role, client, now);
        if header_bytes < bytes.len() {
            self.inspect_head(id, &mut bytes[header_bytes..], now);
        }
    }

    fn inspect_head(&mut self, id: ConnectionId, bytes: &mut [u8], now: Now) {
        let Some(connection) = self.connections.slab.get_mut(id) else {
            return;
        };
        let Phase::Head(pending_request) = &mut connection.phase else {
            return;
        };
        let policy = self.broker.policy();
        let listener = pending_request.listener;
        let accepted_nanos = pending_request.accepted_nanos;
        let mut client = pending_request.client;
        let is_proxy = pending_request.role == PeerRole::Proxy;
        let form = forwarded_form(policy).filter(|_| is_proxy);
        let head = match Head::parse(bytes, form) {
            Ok(Some(head)) => head,
            Ok(None) => return pending_request.head = bytes.to_vec(),
            Err(error) => {
                let reason = match error {
                    HeadError::TooLarge => RejectReason::HeadTooLarge,
                    HeadError::Malformed if proxy_protocol::begins(bytes) => {
                        RejectReason::ProxyHeaderUntrusted
                    }
                    HeadError::Malformed => RejectReason::BadRequest,
                };
                return self.connections.reject(id, reason, now);
            }
        };
        if let Some(form) = form {
            let is_trusted = |address| policy.is_trusted_proxy(address);
            let Ok(named) = form.client(head.forwarded(), is_trusted, client) else {
                let reason = RejectReason::ForwardedHeader;
                return self.connections.reject(id, reason, now);
            };
            client = named;
            pending_request.client = client;
            self.connections.count_address(id, client, now);
        }
        let served = (
            &policy.routes[usize::from(listener)],
            policy.compression_of(listener),
        );
        let connections = &mut self.connections;
        let traces = connections.traces.as_ref();
        let traces = traces.filter(|_| head.asks_for_websocket());
        let span = traces.and_then(|traces| traces.begin_connection(&head, accepted_nanos));
        let correlation_id = head.correlation_id();
        let head_bytes = match decide(&head, served, policy.tenant_domain.as_deref()) {
            HandshakeDecision::Reject(reason) => {
                connections.end_rejected(span, (String::new(), listener), reason);
                return connections.reject_request(id, correlation_id, reason, now);
            }
            HandshakeDecision::Http => {
                return self.connections.begin_http(id, bytes, now);
            }
            HandshakeDecision::Upgrade(upgrade) => {
                let excess = self.broker.count_handshake(client.ip(), now).err();
                if let Some(reason) = self.reject_early(&upgrade, excess) {
                    let connections = &mut self.connections;
                    connections.end_rejected(span, (upgrade.route(), listener), reason);
                    return connections.reject_request(id, correlation_id, reason, now);
                }
                if let (Some(traces), Some(span)) = (&mut self.connections.traces, span) {
                    let route = upgrade.route();
                    traces.upgrade_connection(id, span, route, listener, upgrade.dialect);
                }
                self.upgrade(id, &upgrade, excess, now);
                self.count_upgraded(id);
                self.call_connect(id, now);
                upgrade.head_bytes
            }
        };
        if head_bytes < bytes.len() {
            self.receive_frames(id, &mut bytes[head_bytes..], now);
        }
    }

    /// Why an upgrade is rejected with an HTTP status, not by closing a session.
    fn reject_early(
        &self,
        upgrade: &Upgrade<'_>,
        excess: Option<HandshakeExcess>,
    ) -> Option<RejectReason> {
        let policy = self.broker.policy();
        if self.is_shutting_down {
            return Some(RejectReason::Draining);
        }
        if policy.origin_rejection == RejectionMode::Http && !policy.allows_origin(upgrade.origin) {
            return Some(RejectReason::Origin);
        }
        if policy.capacity_rejection == RejectionMode::Http
            && let Some(excess) = excess
        {
            return Some(excess.reject_reason());
        }
        let is_full = || !self.broker.has_room(upgrade.dialect);
        (policy.capacity_rejection == RejectionMode::Http && is_full())
            .then_some(RejectReason::Capacity)
    }

    /// Counts whether an upgraded connection has become a session.
    fn count_upgraded(&self, id: ConnectionId) {
        let status = match self.broker.has_session(id) {
            true => ConnectionStatus::Accepted,
            false => ConnectionStatus::Rejected,
        };
        let counters = &self.connections.counters.clients;
        counters.connections.of(status).add(1);
    }

    fn upgrade(
        &mut self,
        id: ConnectionId,
        upgrade: &Upgrade<'_>,
        excess: Option<HandshakeExcess>,
        now: Now,
    ) {
        let connections = &mut self.connections;
        let Some(connection) = connections.slab.get_mut(id) else {
            return;
        };
        let Phase::Head(pending_request) = std::mem::replace(&mut connection.phase, Phase::Open)
        else {
            unreachable!("only a request head is inspected, and it upgrades once");
        };
        connection.variant = Variant::plain(upgrade.dialect).encoded(upgrade.encoding);
        let connected = Connected {
            client: pending_request.client,
            dialect: upgrade.dialect,
            listener: pending_request.listener,
            tenant: upgrade.tenant.as_ref().map(|(tenant, _)| &**tenant),
            correlation_id: upgrade.correlation_id,
        };
        connections.log.connected(id, &connected, now);
        if connections.stopwatch.is_running() {
            let elapsed = connections.stopwatch.nanos() - pending_request.accepted_nanos;
            let counters = &connections.counters;
            counters.handshake_duration_seconds.record(elapsed);
        }
        // The answer goes ahead of pongs for pings in the same packet.
        connections.send_control(id, FrameRun::reply(upgrade.answer.as_bytes()));
        // A script in a browser sees the reason of a rejection only in a close code.
        if let Some(excess) = excess {
            let (code, reason) = (CloseCode::TRY_AGAIN_LATER, excess.close_reason());
            return connections.end(id, CloseRequest::flushing(code, reason), now);
        }
        if !self.broker.policy().allows_origin(upgrade.origin) {
            let close = CloseRequest::flushing(CloseCode::POLICY_VIOLATION, CloseReason::Origin);
            return connections.end(id, close, now);
        }
        let connect = Command::Connect(Connect {
            dialect: upgrade.dialect,
            encoding: upgrade.encoding,
            peer: pending_request.client,
            authorization: upgrade.authorization,
            token: upgrade.token.as_deref(),
            tenant: upgrade.tenant.as_ref().map(|(tenant, _)| &**tenant),
            is_tenant_vouched: pending_request.role == PeerRole::Proxy
                && upgrade.tenant.as_ref().is_some_and(|it| it.1),
        });
        self.step(id, connect, now);
    }
}

/// The header in which trusted proxies name their clients.
const fn forwarded_form(policy: &Policy) -> Option<ForwardedForm> {
    match policy.forwarded_header {
        ForwardedHeader::None => None,
        ForwardedHeader::XForwardedFor => Some(ForwardedForm::XForwardedFor),
        ForwardedHeader::Forwarded => Some(ForwardedForm::Forwarded),
    }
}

/// The tenant that a request names, the first of: its path, a header, its query, its host name; and
/// whether it is the header. A name that cannot be decoded is `Some("")`, which is no tenant id.
fn tenant<'a>(
    head: &Head<'a>,
    target: &Target<'a>,
    in_path: Option<&'a str>,
    tenant_domain: Option<&str>,
) -> Option<(Cow<'a, str>, bool)> {
    let subdomain = || {
        let domain = tenant_domain?.to_ascii_lowercase();
        let (name, _) = head.host?.rsplit_once(':').unwrap_or((head.host?, ""));
        // RFC 9110 4.2.3: hosts are compared without case. A dot at the end names the root.
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let tenant = name.strip_suffix(&*domain)?.strip_suffix('.')?;
        Some(tenant.to_owned()).filter(|tenant| !tenant.is_empty() && !tenant.contains('.'))
    };
    if let Some(tenant) = in_path {
        return Some((percent_decode(tenant).unwrap_or_default(), false));
    }
    if let Some(tenant) = head.tenant {
        return Some((tenant.into(), true));
    }
    let tenant = target.parameter("tenant");
    let tenant = tenant.or_else(|| subdomain().map(Cow::Owned));
    tenant.map(|tenant| (tenant, false))
}

fn decide<'a>(
    head: &Head<'a>,
    (routes, compression): (&Routes, Compression),
    tenant_domain: Option<&str>,
) -> HandshakeDecision<'a> {
    if !head.has_valid_host() || head.is_ambiguous() {
        return HandshakeDecision::Reject(RejectReason::BadRequest);
    }
    if !head.asks_for_websocket() {
        return HandshakeDecision::Http;
    }
    let key = match head.upgrade_key() {
        Ok(key) => key,
        Err(UpgradeError::Version) => return HandshakeDecision::Reject(RejectReason::Version),
        Err(UpgradeError::Malformed) => return HandshakeDecision::Reject(RejectReason::BadRequest),
    };
    let target = Target::parse(head.target);
    let Some(route) = routes.route(target.path, head.subprotocols()) else {
        return HandshakeDecision::Reject(RejectReason::UnknownPath);
    };
    let tenant = tenant(head, &target, route.tenant, tenant_domain);
    let is_tenant = tenant
        .as_ref()
        .is_none_or(|(tenant, _)| is_tenant_id(tenant));
    if head.has_tenants || !is_tenant {
        return HandshakeDecision::Reject(RejectReason::BadRequest);
    }
    let mut subprotocols = head.subprotocols();
    let bearer = subprotocols.find(|subprotocol| *subprotocol == BEARER_SUBPROTOCOL);
    let subprotocol_token = bearer.and_then(|_| subprotocols.next());
    let subprotocol_token = subprotocol_token.map(Cow::Borrowed);
    let agreement = match compression {
        Compression::Deflate => Agreement::accept(head.extensions()),
        Compression::Off => None,
    };
    let extension = agreement.map(Agreement::answer);
    let subprotocol = route.subprotocol.or(bearer);
    HandshakeDecision::Upgrade(Upgrade {
        head_bytes: head.head_bytes,
        dialect: route.dialect,
        encoding: agreement.map_or(FrameEncoding::Plain, Agreement::encoding),
        answer: switching_protocols(key, subprotocol, extension.as_deref()),
        origin: head.origin,
        authorization: head.bearer,
        correlation_id: head.correlation_id(),
        token: subprotocol_token.or_else(|| target.parameter("token")),
        tenant,
        path: (target.path, route.tenant),
    })
}
