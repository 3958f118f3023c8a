//! Who may call the HTTP API.

use super::answer::Rejected;
use super::caller::Caller;
use super::context::NotifyKey;
use super::request::Shown;
use crate::auth::is_same_secret;
use crate::broker::TenantScope;
use crate::config::{ApiKey, ApiScope};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, ORIGIN};
use hyper::{HeaderMap, StatusCode};

/// What the caller of a request may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access<'a> {
    /// `None`: everything.
    key: Option<&'a ApiKey>,
    /// Whether everyone may do this.
    is_anonymous: bool,
}

impl<'a> Access<'a> {
    /// Everything.
    const ALL: Self = Self {
        key: None,
        is_anonymous: false,
    };

    /// For which tenant the caller acts: the one of its key, else the one that it names.
    pub(super) fn scope(
        self,
        tenant: Option<&'a str>,
        all_tenants: bool,
    ) -> Result<TenantScope<'a>, Rejected> {
        let own = self.key.and_then(|key| key.tenant.as_deref());
        match (own, tenant, all_tenants) {
            (_, Some(_), true) => Err(Rejected::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "`tenant` and `all_tenants` are mutually exclusive",
            )),
            (Some(own), Some(tenant), false) if tenant != own => Err(Rejected::new(
                StatusCode::FORBIDDEN,
                "the key is for another tenant",
            )),
            (Some(_), None, true) => Err(Rejected::new(
                StatusCode::FORBIDDEN,
                "the key is for one tenant",
            )),
            (None, None, true) if self.is_anonymous => Err(Rejected::new(
                StatusCode::FORBIDDEN,
                "`all_tenants` requires a key",
            )),
            (Some(own), _, false) => Ok(TenantScope::Of(own)),
            (None, _, true) => Ok(TenantScope::All),
            (None, tenant, false) => Ok(tenant.into()),
        }
    }

    /// What the caller wants is about sessions of all tenants.
    pub(super) fn for_all_tenants(self) -> Result<(), Rejected> {
        match self.tenant() {
            None => Ok(()),
            Some(_) => Err(Rejected::new(
                StatusCode::FORBIDDEN,
                "the key is for one tenant",
            )),
        }
    }

    /// The only tenant of which the caller may see and change something; `None` = all.
    pub(super) fn tenant(self) -> Option<&'a str> {
        self.key.and_then(|key| key.tenant.as_deref())
    }
}

/// Who calls, if that is allowed.
pub(super) fn authorize<'a>(
    caller: &'a Caller,
    headers: &HeaderMap,
    scope: ApiScope,
) -> Result<Access<'a>, Rejected> {
    let keys = &caller.context.api_keys;
    let Some(shown) = shown_key(headers) else {
        if caller.context.is_open(caller.listener) && names_loopback(headers) {
            caller.request.note_authorized();
            return Ok(Access::ALL);
        }
        let reason = match keys.is_empty() {
            true => "the HTTP API is closed: set `api_keys`",
            false => "a key is missing: send it as `X-API-Key` or `Authorization: Bearer`",
        };
        return Err(unauthorized(reason));
    };
    let Some(index) = find(keys, shown) else {
        return Err(unauthorized("the key is wrong"));
    };
    let key = &keys[index];
    caller.request.note_key(Shown::ApiKey(index));
    if !key.allows(scope) {
        return Err(Rejected::new(
            StatusCode::FORBIDDEN,
            "the key does not allow this",
        ));
    }
    caller.note_authorized();
    caller.request.note_authorized();
    Ok(Access {
        key: Some(key),
        ..Access::ALL
    })
}

/// Which of the keys this is.
fn find(keys: &[ApiKey], shown: &[u8]) -> Option<usize> {
    // All are compared, so that the time does not tell which one is nearly right.
    let keys = keys.iter().enumerate();
    keys.fold(None, |found, (index, key)| {
        let is_it = is_same_secret(shown, key.key.0.as_bytes());
        if is_it { Some(index) } else { found }
    })
}

/// Whether the caller has a key, or needs none.
pub(super) fn is_known(caller: &Caller, headers: &HeaderMap) -> bool {
    let context = &caller.context;
    match shown_key(headers) {
        Some(shown) => find(&context.api_keys, shown).is_some(),
        None => context.is_open(caller.listener) && names_loopback(headers),
    }
}

/// Who calls `POST /notify`: also who shows the key that is for nothing else, and without any key who
/// may do so on the notification server.
pub(super) fn authorize_notify<'a>(
    caller: &'a Caller,
    headers: &HeaderMap,
) -> Result<Access<'a>, Rejected> {
    match &caller.context.notify[usize::from(caller.listener)] {
        NotifyKey::Open => {
            return Ok(Access {
                is_anonymous: true,
                ..Access::ALL
            });
        }
        NotifyKey::Key(key) => {
            let shown = shown_key(headers);
            if shown.is_some_and(|shown| is_same_secret(shown, key.0.as_bytes())) {
                caller.note_authorized();
                caller.request.note_key(Shown::NotifyKey);
                return Ok(Access::ALL);
            }
        }
        NotifyKey::None => {}
    }
    authorize(caller, headers, ApiScope::Publish)
}

const fn unauthorized(reason: &'static str) -> Rejected {
    Rejected::new(StatusCode::UNAUTHORIZED, reason)
}

/// The key of a request, in one of two places.
pub(super) fn shown_key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| key.trim().as_bytes())
    });
    let own = headers.get("x-api-key").map(HeaderValue::as_bytes);
    own.or(bearer)
}

/// A page of another site whose name leads to this host must not pass for a caller on it.
fn names_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default();
    let (name, _) = host.rsplit_once(':').unwrap_or((host, ""));
    let name = if host.ends_with(']') { host } else { name };
    name.eq_ignore_ascii_case("localhost")
        || name == "[::1]"
        || name
            .parse()
            .is_ok_and(|ip: std::net::Ipv4Addr| ip.is_loopback())
}

/// The origin of a request that a page of another site makes, if it may not.
pub(super) fn foreign_origin<'a>(caller: &Caller, headers: &'a HeaderMap) -> Option<&'a str> {
    let origin = headers.get(ORIGIN)?;
    let origin = origin.to_str().unwrap_or("null");
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let is_own = origin
        .split_once("://")
        .is_some_and(|(_, own)| Some(own) == host);
    let mut allowed = caller.context.cors_origins.iter();
    (!is_own && !allowed.any(|pattern| pattern.allows(origin))).then_some(origin)
}
