//! Who a session speaks for.

/// What a valid token says of its bearer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: Box<str>,
    /// The tenant, when the token names one.
    pub tenant: Option<Box<str>>,
    /// Roles, from `role` or `roles`.
    pub roles: Vec<Box<str>>,
    /// Permissions.
    pub permissions: Vec<Box<str>>,
    /// End of validity, seconds since 1970-01-01 UTC.
    pub expires_unix_s: u64,
}

impl Identity {
    /// Whether the token grants `permission`.
    #[must_use]
    pub fn may(&self, permission: &str) -> bool {
        let mut permissions = self.permissions.iter();
        permissions.any(|granted| **granted == *permission)
    }

    /// Whether the token names `role`.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        let mut roles = self.roles.iter();
        roles.any(|granted| **granted == *role)
    }
}
