//! Issues tokens, for `fanwire token`, for `--dev` and for tests.

use crate::base::Now;
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;
use std::collections::BTreeMap;

/// What a token grants.
///
/// ```
/// let grant = fanwire::TokenGrant::new("ann").with_permission("publish");
/// assert_eq!(grant.permissions, ["publish"]);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Grant {
    /// The user: claims `sub` and `user_id`.
    pub user: String,
    /// Claim `tenant_id`.
    pub tenant: Option<String>,
    /// Claim `roles`.
    pub roles: Vec<String>,
    /// Claim `permissions`.
    pub permissions: Vec<String>,
    /// Further claims, for servers that make them attributes (`token_attributes`).
    pub attributes: BTreeMap<String, String>,
}

impl Grant {
    /// A token for a user, without tenant, roles and permissions.
    #[must_use]
    pub fn new(user: &str) -> Self {
        Self {
            user: user.into(),
            ..Self::default()
        }
    }

    /// The same grant, in a tenant.
    ///
    /// ```
    /// let grant = fanwire::TokenGrant::new("ann").with_tenant("acme");
    /// assert_eq!(grant.tenant.as_deref(), Some("acme"));
    /// ```
    #[must_use]
    pub fn with_tenant(mut self, tenant: &str) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// The same grant, with one more role.
    ///
    /// ```
    /// assert_eq!(fanwire::TokenGrant::new("ann").with_role("admin").roles, ["admin"]);
    /// ```
    #[must_use]
    pub fn with_role(mut self, role: &str) -> Self {
        self.roles.push(role.into());
        self
    }

    /// The same grant, with one more permission, such as `publish`.
    ///
    /// ```
    /// let grant = fanwire::TokenGrant::new("ann").with_permission("publish");
    /// assert_eq!(grant.permissions, ["publish"]);
    /// ```
    #[must_use]
    pub fn with_permission(mut self, permission: &str) -> Self {
        self.permissions.push(permission.into());
        self
    }

    /// The same grant, with a further claim. The other claims of the token have precedence.
    ///
    /// ```
    /// let grant = fanwire::TokenGrant::new("ann").with_attribute("region", "north");
    /// assert_eq!(grant.attributes["region"], "north");
    /// ```
    #[must_use]
    pub fn with_attribute(mut self, claim: &str, value: &str) -> Self {
        self.attributes.insert(claim.into(), value.into());
        self
    }
}

/// The claims that say what the other fields of a grant say.
const OWN_CLAIMS: [&str; 7] = [
    "sub",
    "user_id",
    "tenant_id",
    "roles",
    "permissions",
    "iat",
    "exp",
];

#[derive(Serialize)]
struct Claims<'a> {
    #[serde(flatten)]
    attributes: BTreeMap<&'a str, &'a str>,
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
/// The error of the signing library; none is expected.
pub fn issue(
    grant: &Grant,
    secret: &[u8],
    ttl_s: u64,
    now: Now,
) -> Result<String, jsonwebtoken::errors::Error> {
    let attributes = grant.attributes.iter();
    let attributes = attributes.filter(|(claim, _)| !OWN_CLAIMS.contains(&claim.as_str()));
    let claims = Claims {
        attributes: attributes
            .map(|(claim, value)| (&**claim, &**value))
            .collect(),
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
