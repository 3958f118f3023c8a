//! Issues tokens, for `fanwire token`, for `--dev` and for tests.

use crate::base::Now;
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

/// What a token shall grant.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// The user: claims `sub` and `user_id`.
    pub user: String,
    /// Claim `tenant_id`.
    pub tenant: Option<String>,
    /// Claim `roles`.
    pub roles: Vec<String>,
    /// Claim `permissions`.
    pub permissions: Vec<String>,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    roles: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    permissions: &'a [String],
    iat: u64,
    exp: u64,
}

/// An HS256 token for `grant`, valid for `ttl_s` seconds from `now`.
///
/// # Errors
/// What the signing library says; it has no reason to.
pub fn issue(
    grant: &Grant,
    secret: &[u8],
    ttl_s: u64,
    now: Now,
) -> Result<String, jsonwebtoken::errors::Error> {
    let claims = Claims {
        sub: &grant.user,
        user_id: &grant.user,
        tenant_id: grant.tenant.as_deref(),
        roles: &grant.roles,
        permissions: &grant.permissions,
        iat: now.unix_s(),
        exp: now.unix_s().saturating_add(ttl_s),
    };
    super::install_signing_library();
    let key = EncodingKey::from_secret(secret);
    jsonwebtoken::encode(&Header::default(), &claims, &key)
}
