//! Reads the request head of a connection and upgrades it, passes it to the HTTP API, or rejects
//! it.

use super::Shard;
use super::connection::{CloseRequest, Phase};
use crate::base::channel_names::is_tenant_id;
use crate::base::counters::{CloseReason, RejectReason};
use crate::base::limits::HEAD_BYTES_MAX;
use crate::base::{ConnectionId, DialectId, FrameRun, Now};
use crate::broker::{Command, Connect, HandshakeExcess};
use crate::config::{RejectionMode, Routes};
use crate::http::target::percent_decode;
use crate::http::{Head, HeadError, Target, UpgradeError};
use crate::ws::CloseCode;
use crate::ws::handshake::switching_protocols;
use std::borrow::Cow;

/// The subprotocol that is followed by a token in the list, for browsers, which cannot set headers.
const BEARER_SUBPROTOCOL: &str = "bearer";

/// What a request head leads to.
enum HandshakeDecision<'a> {
    NeedMore,
    Reject(RejectReason),
    Http,
    Upgrade(Upgrade<'a>),
}

struct Upgrade<'a> {
    head_bytes: usize,
    dialect: DialectId,
    answer: String,
    origin: Option<&'a str>,
    authorization: Option<&'a str>,
    token: Option<Cow<'a, str>>,
    /// The tenant, and whether the header names it.
    tenant: Option<(Cow<'a, str>, bool)>,
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
        let waiting = &mut pending_request.head;
        if waiting.is_empty() {
            return self.inspect_head(id, bytes, now);
        }
        waiting.extend_from_slice(bytes);
        // A head ends with a line feed, so bytes without one cannot complete it and need no
        // parsing.
        if bytes.contains(&b'\n') || waiting.len() >= HEAD_BYTES_MAX {
            let mut all = std::mem::take(waiting);
            self.inspect_head(id, &mut all, now);
        }
    }

    fn inspect_head(&mut self, id: ConnectionId, bytes: &mut [u8], now: Now) {
        let Some(connection) = self.connections.slab.get_mut(id) else {
            return;
        };
        let Phase::Head(pending_request) = &mut connection.phase else {
            return;
        };
        let client = pending_request.peer;
        let policy = self.broker.policy();
        let routes = &policy.routes[usize::from(pending_request.listener)];
        let head_bytes = match decide(bytes, routes, policy.tenant_domain.as_deref()) {
            HandshakeDecision::NeedMore => return pending_request.head = bytes.to_vec(),
            HandshakeDecision::Reject(reason) => return self.connections.reject(id, reason, now),
            HandshakeDecision::Http => {
                return self.connections.begin_http(id, bytes, now);
            }
            HandshakeDecision::Upgrade(upgrade) => {
                let excess = self.broker.count_handshake(client.ip(), now).err();
                if let Some(reason) = self.reject_early(&upgrade, excess) {
                    return self.connections.reject(id, reason, now);
                }
                self.upgrade(id, &upgrade, excess, now);
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
        connection.dialect = upgrade.dialect;
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
            peer: pending_request.peer,
            authorization: upgrade.authorization,
            token: upgrade.token.as_deref(),
            tenant: upgrade.tenant.as_ref().map(|(tenant, _)| &**tenant),
            is_tenant_vouched: upgrade.tenant.as_ref().is_some_and(|it| it.1)
                && self
                    .broker
                    .policy()
                    .is_trusted_proxy(pending_request.peer.ip()),
        });
        self.step(id, connect, now);
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
        let (name, _) = head.host?.rsplit_once(':').unwrap_or((head.host?, ""));
        let tenant = name.strip_suffix(tenant_domain?)?.strip_suffix('.')?;
        Some(tenant).filter(|tenant| !tenant.is_empty() && !tenant.contains('.'))
    };
    if let Some(tenant) = in_path {
        return Some((percent_decode(tenant).unwrap_or_default(), false));
    }
    if let Some(tenant) = head.tenant {
        return Some((tenant.into(), true));
    }
    let tenant = target.parameter("tenant");
    let tenant = tenant.or_else(|| subdomain().map(Cow::Borrowed));
    tenant.map(|tenant| (tenant, false))
}

fn decide<'a>(
    bytes: &'a [u8],
    routes: &Routes,
    tenant_domain: Option<&str>,
) -> HandshakeDecision<'a> {
    let head = match Head::parse(bytes) {
        Ok(Some(head)) => head,
        Ok(None) => return HandshakeDecision::NeedMore,
        Err(HeadError::TooLarge) => return HandshakeDecision::Reject(RejectReason::HeadTooLarge),
        Err(HeadError::Malformed) => return HandshakeDecision::Reject(RejectReason::BadRequest),
    };
    if !head.has_valid_host() {
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
    let tenant = tenant(&head, &target, route.tenant, tenant_domain);
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
    HandshakeDecision::Upgrade(Upgrade {
        head_bytes: head.head_bytes,
        dialect: route.dialect,
        answer: switching_protocols(key, route.subprotocol.or(bearer)),
        origin: head.origin,
        authorization: head.bearer,
        token: subprotocol_token.or_else(|| target.parameter("token")),
        tenant,
    })
}
