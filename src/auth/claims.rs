//! The claims of a token: whether they are valid now, and the identity that they describe.

use super::identity::Identity;
use crate::base::Now;
use crate::base::counters::TokenError;
use crate::base::label::label;
use serde::Deserialize;
use std::collections::BTreeMap;

label! {
    /// The claim with the user's id; the other one is the fallback.
    UserClaim {
        /// RFC 7519 4.1.2.
        Sub = "sub",
        /// The claim in tokens of the monitoring server.
        UserId = "user_id",
    }
}

/// What the server requires of claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimRules {
    /// Issuers (`iss`) that are trusted; empty = any.
    pub issuers: Vec<String>,
    /// Names of this server (`aud`). A token that names an audience must name one of them (RFC 7519
    /// 4.1.3); if there are any, each token must.
    pub audiences: Vec<String>,
    /// Claims that become attributes of the identity.
    pub attributes: Vec<String>,
    /// How much the clocks of issuer and server may differ, seconds.
    pub leeway_s: u64,
}

/// The claims that the server reads.
#[derive(Deserialize)]
pub(super) struct Claims {
    sub: Option<Name>,
    user_id: Option<Name>,
    tenant_id: Option<Name>,
    role: Option<Names>,
    roles: Option<Names>,
    permissions: Option<Names>,
    iss: Option<Box<str>>,
    aud: Option<Names>,
    jti: Option<Box<str>>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    #[serde(skip)]
    attributes: BTreeMap<Box<str>, Box<str>>,
}

/// An id: a string, or a number, which some issuers use.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Name {
    Text(Box<str>),
    Number(u64),
}

/// Names of a kind, such as roles: one, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Names {
    One(Box<str>),
    Many(Vec<Box<str>>),
}

impl Claims {
    /// The claims in the payload of a token.
    pub(super) fn parse(payload: &[u8], rules: &ClaimRules) -> Result<Self, TokenError> {
        let malformed = |_| TokenError::Malformed;
        let mut claims: Self = serde_json::from_slice(payload).map_err(malformed)?;
        if !rules.attributes.is_empty() {
            let mut all =
                serde_json::from_slice::<serde_json::Map<_, _>>(payload).map_err(malformed)?;
            let attributes = rules.attributes.iter();
            let attributes = attributes.filter_map(|name| {
                let value = attribute(all.remove(name)?)?;
                Some((name.as_str().into(), value))
            });
            claims.attributes = attributes.collect();
        }
        Ok(claims)
    }

    pub(super) fn check(
        self,
        user_claim: UserClaim,
        rules: &ClaimRules,
        now: Now,
    ) -> Result<Identity, TokenError> {
        let exp = self.exp.ok_or(TokenError::Malformed)?;
        let expires_unix_s = seconds(exp)?.saturating_add(rules.leeway_s);
        if expires_unix_s <= now.unix_s() {
            return Err(TokenError::Expired);
        }
        if let Some(nbf) = self.nbf
            && seconds(nbf)? > now.unix_s().saturating_add(rules.leeway_s)
        {
            return Err(TokenError::NotYetValid);
        }
        let is_trusted = |issuer: &str| rules.issuers.iter().any(|it| it == issuer);
        if !rules.issuers.is_empty() && !self.iss.as_deref().is_some_and(is_trusted) {
            return Err(TokenError::Issuer);
        }
        let audiences = self.aud.map(Names::into_vec);
        let is_for_us = |audiences: Vec<Box<str>>| {
            let mut own = rules.audiences.iter();
            own.any(|own| audiences.iter().any(|audience| **audience == **own))
        };
        if !audiences.map_or(rules.audiences.is_empty(), is_for_us) {
            return Err(TokenError::Audience);
        }
        let user = match user_claim {
            UserClaim::Sub => self.sub.or(self.user_id),
            UserClaim::UserId => self.user_id.or(self.sub),
        };
        let user = user.map(Name::into_text).filter(|user| !user.is_empty());
        let mut roles = self.role.map(Names::into_vec).unwrap_or_default();
        roles.extend(self.roles.map(Names::into_vec).unwrap_or_default());
        Ok(Identity {
            user: user.ok_or(TokenError::NoUser)?,
            tenant: self.tenant_id.map(Name::into_text),
            roles,
            permissions: self.permissions.map(Names::into_vec).unwrap_or_default(),
            attributes: self.attributes,
            token_id: self.jti,
            issued_unix_s: self.iat.map(seconds).transpose()?,
            expires_unix_s,
        })
    }
}

/// The value of an attribute: a text, a whole number or a boolean, as its text.
pub(crate) fn attribute(claim: serde_json::Value) -> Option<Box<str>> {
    use serde_json::Value::{Bool, Number, String};
    match claim {
        String(text) => Some(text.into()),
        Number(number) if !number.is_f64() => Some(number.to_string().into()),
        Bool(value) => Some(value.to_string().into()),
        _ => None,
    }
}

/// A NumericDate counts seconds and may have a fraction (RFC 7519 2). A date that f64 cannot
/// represent exactly, or NaN, is rejected.
fn seconds(date: f64) -> Result<u64, TokenError> {
    let is_date = (0.0..9e15).contains(&date);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was just checked, and a fraction of a second is dropped"
    )]
    is_date.then_some(date as u64).ok_or(TokenError::Malformed)
}

impl Name {
    pub(crate) fn into_text(self) -> Box<str> {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string().into(),
        }
    }
}

impl Names {
    pub(crate) fn into_vec(self) -> Vec<Box<str>> {
        match self {
            Self::One(name) => vec![name],
            Self::Many(names) => names,
        }
    }
}
