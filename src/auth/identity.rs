//! Identities of sessions.

use crate::base::limits::{IDENTITY_ATTRIBUTES_MAX, IDENTITY_NAME_BYTES_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The identity of a session: the claims of a valid token about its bearer.
///
/// ```
/// use fanwire::Identity;
///
/// let ann = Identity::new("ann").with_role("admin").with_permission("publish");
/// assert!(ann.has_role("admin") && ann.may("publish"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Identity {
    /// The user.
    pub user: Box<str>,
    /// The tenant, if there is one.
    pub tenant: Option<Box<str>>,
    /// Roles.
    pub roles: Vec<Box<str>>,
    /// Permissions.
    pub permissions: Vec<Box<str>>,
    /// What else is known of it, by name: the claims that `token_attributes` names, or what the
    /// program or the authentication callback says.
    pub attributes: BTreeMap<Box<str>, Box<str>>,
    /// The id of its token (`jti`, RFC 7519 4.1.7), by which the token can be revoked.
    pub token_id: Option<Box<str>>,
    /// When its token was issued (`iat`), seconds since 1970-01-01 UTC; `None` = the token does not say.
    /// Of an identity from the authentication callback, when the callback was asked.
    pub issued_unix_s: Option<u64>,
    /// End of validity, seconds since 1970-01-01 UTC; `u64::MAX` = never.
    pub expires_unix_s: u64,
}

impl Identity {
    /// A user without tenant, roles and permissions, whose identity never expires.
    #[must_use]
    pub fn new(user: &str) -> Self {
        Self {
            user: user.into(),
            expires_unix_s: u64::MAX,
            ..Self::default()
        }
    }

    /// The same identity, in a tenant.
    ///
    /// ```
    /// let ann = fanwire::Identity::new("ann").with_tenant("acme");
    /// assert_eq!(ann.tenant.as_deref(), Some("acme"));
    /// ```
    #[must_use]
    pub fn with_tenant(mut self, tenant: &str) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// The same identity, with one more role.
    ///
    /// ```
    /// assert!(fanwire::Identity::new("ann").with_role("admin").has_role("admin"));
    /// ```
    #[must_use]
    pub fn with_role(mut self, role: &str) -> Self {
        self.roles.push(role.into());
        self
    }

    /// The same identity, with one more permission.
    ///
    /// ```
    /// assert!(fanwire::Identity::new("ann").with_permission("publish").may("publish"));
    /// ```
    #[must_use]
    pub fn with_permission(mut self, permission: &str) -> Self {
        self.permissions.push(permission.into());
        self
    }

    /// The same identity, with an attribute, which replaces an earlier one of this name.
    ///
    /// ```
    /// let ann = fanwire::Identity::new("ann").with_attribute("region", "north");
    /// assert_eq!(ann.attribute("region"), Some("north"));
    /// ```
    #[must_use]
    pub fn with_attribute(mut self, name: &str, value: &str) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// The same identity, valid until this moment, seconds since 1970-01-01 UTC.
    ///
    /// ```
    /// let ann = fanwire::Identity::new("ann").until(1_900_000_000);
    /// assert_eq!(ann.expires_unix_s, 1_900_000_000);
    /// ```
    #[must_use]
    pub fn until(mut self, expires_unix_s: u64) -> Self {
        self.expires_unix_s = expires_unix_s;
        self
    }

    /// Whether all its names are from 1 to 200 bytes long and without control characters, so that they
    /// can be parts of channel names and of log lines, and it has at most 32 attributes.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let one = [&self.user]
            .into_iter()
            .chain(&self.tenant)
            .chain(&self.token_id);
        let names = one.chain(&self.roles).chain(&self.permissions);
        let attributes = self.attributes.iter();
        let mut names = names.chain(attributes.flat_map(|(name, value)| [name, value]));
        self.attributes.len() <= IDENTITY_ATTRIBUTES_MAX
            && names.all(|name| {
                (1..=IDENTITY_NAME_BYTES_MAX).contains(&name.len())
                    && !name.contains(char::is_control)
            })
    }

    /// Whether it has `permission`.
    ///
    /// ```
    /// assert!(!fanwire::Identity::new("ann").may("publish"));
    /// ```
    #[must_use]
    pub fn may(&self, permission: &str) -> bool {
        let mut permissions = self.permissions.iter();
        permissions.any(|granted| **granted == *permission)
    }

    /// The value of an attribute.
    ///
    /// ```
    /// assert_eq!(fanwire::Identity::new("ann").attribute("region"), None);
    /// ```
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(|value| &**value)
    }

    /// Whether it has `role`.
    ///
    /// ```
    /// assert!(!fanwire::Identity::new("ann").has_role("admin"));
    /// ```
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        let mut roles = self.roles.iter();
        roles.any(|granted| **granted == *role)
    }
}
