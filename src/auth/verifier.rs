//! Verifies tokens: the signature, then the validity period, then the claims.

use super::identity::Identity;
use crate::base::Now;
use crate::base::catch_panic;
use crate::base::counters::TokenError;
use crate::base::label::label;
use crate::base::limits::TOKEN_BYTES_MAX;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use std::sync::Arc;
use subtle::ConstantTimeEq;

label! {
    /// The claim with the user's id; the other one is the fallback.
    UserClaim {
        /// RFC 7519 4.1.2.
        Sub = "sub",
        /// The claim in tokens of the monitoring server.
        UserId = "user_id",
    }
}

/// A token check of the embedding program: returns the identity, or `None` if the token is not
/// valid.
pub type TokenCheck = dyn Fn(&str) -> Option<Identity> + Send + Sync;

/// Verifies tokens: by the program's own check if it has one, then against the static tokens, then
/// with the secret. Without any of these every token is rejected.
#[derive(Clone, Default)]
pub struct Verifier {
    key: Option<(DecodingKey, Validation)>,
    static_tokens: Arc<[StaticToken]>,
    check: Option<Arc<TokenCheck>>,
}

/// A token that is compared as a whole, and is valid as long as the server runs.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticToken {
    /// Its user.
    pub user: Box<str>,
    /// The token.
    pub token: Box<str>,
}

impl std::fmt::Debug for StaticToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "StaticToken {{ user: {:?} }}", self.user)
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let configured = self.is_configured();
        write!(formatter, "Verifier {{ configured: {configured} }}")
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<Name>,
    user_id: Option<Name>,
    tenant_id: Option<Name>,
    role: Option<Names>,
    roles: Option<Names>,
    permissions: Option<Names>,
    exp: f64,
    nbf: Option<f64>,
}

/// An id: a string, or a number, which some issuers use.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Text(Box<str>),
    Number(u64),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(Box<str>),
    Many(Vec<Box<str>>),
}

impl Verifier {
    /// A verifier of HS256 signatures made with `secret`.
    #[must_use]
    pub fn hs256(secret: &[u8]) -> Self {
        super::install_signing_library();
        let mut validation = Validation::new(Algorithm::HS256);
        // Time is an argument, so that the broker can run on simulated time; `verify` checks the
        // times itself.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp"]);
        Self {
            key: Some((DecodingKey::from_secret(secret), validation)),
            ..Self::default()
        }
    }

    /// The same verifier, which also accepts these static tokens.
    #[must_use]
    pub fn with_static_tokens(self, static_tokens: Vec<StaticToken>) -> Self {
        Self {
            static_tokens: static_tokens.into(),
            ..self
        }
    }

    /// The same verifier, which calls `check` first.
    #[must_use]
    pub fn with_check(self, check: Arc<TokenCheck>) -> Self {
        Self {
            check: Some(check),
            ..self
        }
    }

    /// Whether the verifier can accept any token.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.key.is_some() || !self.static_tokens.is_empty() || self.check.is_some()
    }

    fn identity_of_static(&self, token: &str) -> Option<Identity> {
        // Compares all tokens completely, so that the time does not depend on which part matched.
        let mut found = None;
        for static_token in &*self.static_tokens {
            if is_same_secret(token.as_bytes(), static_token.token.as_bytes()) {
                found = Some(&static_token.user);
            }
        }
        Some(Identity {
            user: found?.clone(),
            expires_unix_s: u64::MAX,
            ..Identity::default()
        })
    }

    /// The identity of `token` at the moment `now`.
    ///
    /// # Errors
    /// Why the token is rejected.
    pub fn verify(&self, token: &str, claim: UserClaim, now: Now) -> Result<Identity, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        // A check that panics rejects the token, and must not end the shard.
        let own = self.check.as_ref();
        let own = own.and_then(|check| catch_panic(|| check(token)).flatten());
        if let Some(identity) = own.or_else(|| self.identity_of_static(token)) {
            return Ok(identity);
        }
        let Some((key, validation)) = &self.key else {
            let is_configured = self.is_configured();
            return Err(if is_configured {
                TokenError::Unknown
            } else {
                TokenError::Unconfigured
            });
        };
        let claims = jsonwebtoken::decode::<Claims>(token, key, validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => TokenError::Signature,
                ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
                    TokenError::Algorithm
                }
                // `alg: none` and unknown algorithms already fail when the header is parsed.
                ErrorKind::Json(error) if error.to_string().contains("unknown variant") => {
                    TokenError::Algorithm
                }
                _ => TokenError::Malformed,
            })?
            .claims;
        claims.into_identity(claim, now)
    }
}

/// Whether two secrets are equal, in a time that does not depend on where they differ. Lengths are
/// not hidden: secrets of different lengths are unequal at once.
#[must_use]
pub fn is_same_secret(shown: &[u8], secret: &[u8]) -> bool {
    shown.ct_eq(secret).into()
}

impl Claims {
    fn into_identity(self, claim: UserClaim, now: Now) -> Result<Identity, TokenError> {
        // RFC 7519 2: a NumericDate counts seconds and may have a fraction. A date that f64 cannot
        // represent exactly, or NaN, is rejected.
        let seconds = |date: f64| {
            let is_date = (0.0..9e15).contains(&date);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the range was just checked, and a fraction of a second is dropped"
            )]
            is_date.then_some(date as u64).ok_or(TokenError::Malformed)
        };
        let expires_unix_s = seconds(self.exp)?;
        if expires_unix_s <= now.unix_s() {
            return Err(TokenError::Expired);
        }
        if let Some(nbf) = self.nbf
            && seconds(nbf)? > now.unix_s()
        {
            return Err(TokenError::NotYetValid);
        }
        let user = match claim {
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
            expires_unix_s,
        })
    }
}

impl Name {
    fn into_text(self) -> Box<str> {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string().into(),
        }
    }
}

impl Names {
    fn into_vec(self) -> Vec<Box<str>> {
        match self {
            Self::One(name) => vec![name],
            Self::Many(names) => names,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Grant, issue};
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
    const NOW: Now = Now::at(0, 1_000_000);

    fn sign(algorithm: Algorithm, claims: &serde_json::Value) -> String {
        let key = EncodingKey::from_secret(SECRET);
        jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
    }

    fn check(token: &str, expected: Result<&str, TokenError>) {
        let verdict = Verifier::hs256(SECRET).verify(token, UserClaim::Sub, NOW);
        let user = verdict.as_ref().map(|identity| &*identity.user);
        assert_eq!(user.map_err(|error| *error), expected, "{token}");
    }

    #[test]
    fn an_issued_token_proves_all_it_was_issued_for() {
        let grant = Grant {
            user: "ann".into(),
            tenant: Some("t1".into()),
            roles: vec!["admin".into()],
            permissions: vec!["publish".into()],
        };
        let token = issue(&grant, SECRET, 60, NOW).unwrap();
        let identity = Verifier::hs256(SECRET)
            .verify(&token, UserClaim::UserId, NOW)
            .unwrap();
        assert_eq!(
            (&*identity.user, identity.tenant.as_deref()),
            ("ann", Some("t1"))
        );
        assert!(identity.may("publish") && !identity.may("read"));
        assert_eq!(*identity.roles, ["admin".into()]);
        assert_eq!(identity.expires_unix_s, 1_060);
    }

    #[test]
    fn time_is_the_argument_and_has_no_leeway() {
        let claims = |exp: f64| json!({"sub": "ann", "exp": exp});
        check(&sign(Algorithm::HS256, &claims(1_001.0)), Ok("ann"));
        check(&sign(Algorithm::HS256, &claims(1_001.5)), Ok("ann"));
        check(
            &sign(Algorithm::HS256, &claims(1_000.0)),
            Err(TokenError::Expired),
        );
        check(
            &sign(Algorithm::HS256, &claims(-5.0)),
            Err(TokenError::Malformed),
        );
        check(
            &sign(Algorithm::HS256, &claims(1e300)),
            Err(TokenError::Malformed),
        );
        let early = json!({"sub": "ann", "exp": 2_000, "nbf": 1_001});
        check(
            &sign(Algorithm::HS256, &early),
            Err(TokenError::NotYetValid),
        );
        let forever = json!({"sub": "ann"});
        check(
            &sign(Algorithm::HS256, &forever),
            Err(TokenError::Malformed),
        );
    }

    #[test]
    fn only_the_configured_algorithm_and_secret_count() {
        let claims = json!({"sub": "ann", "exp": 2_000});
        check(&sign(Algorithm::HS512, &claims), Err(TokenError::Algorithm));
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        for name in ["none", "None", "RS256x"] {
            let head = part(json!({"alg": name, "typ": "JWT"}));
            let body = part(claims.clone());
            check(&format!("{head}.{body}."), Err(TokenError::Algorithm));
        }
        let mut forged = sign(Algorithm::HS256, &claims);
        let changed = if forged.ends_with('A') { "E" } else { "A" };
        forged.replace_range(forged.len() - 1.., changed);
        check(&forged, Err(TokenError::Signature));
    }

    #[test]
    fn listed_tokens_and_a_program_s_own_check_prove_users_too() {
        let static_token = |user: &str, token: &str| StaticToken {
            user: user.into(),
            token: token.into(),
        };
        let verifier = Verifier::default()
            .with_static_tokens(vec![static_token("ann", "t1"), static_token("bob", "t2")]);
        let user = |verifier: &Verifier, token| {
            let identity = verifier.verify(token, UserClaim::Sub, NOW);
            identity.map(|identity| identity.user.to_string())
        };
        assert_eq!(user(&verifier, "t2"), Ok("bob".into()));
        assert_eq!(user(&verifier, "t"), Err(TokenError::Unknown));
        let check = |token: &str| {
            (token == "open").then(|| Identity {
                user: "eve".into(),
                ..Identity::default()
            })
        };
        let verifier = verifier.with_check(Arc::new(check));
        assert_eq!(user(&verifier, "open"), Ok("eve".into()));
        assert_eq!(user(&verifier, "t1"), Ok("ann".into()));
        assert_eq!(
            user(&Verifier::default(), "t1"),
            Err(TokenError::Unconfigured)
        );
    }

    #[test]
    fn secrets_are_the_same_byte_for_byte() {
        for (shown, expected) in [
            ("secret", true),
            ("", false),
            ("secre", false),
            ("secret1", false),
            ("Secret", false),
            ("secreT", false),
        ] {
            assert_eq!(
                is_same_secret(shown.as_bytes(), b"secret"),
                expected,
                "{shown}"
            );
        }
        assert!(is_same_secret(b"", b""));
    }

    #[test]
    fn garbage_is_malformed_and_users_are_required() {
        for garbage in ["", "a", "a.b.c", "....", "\u{20ac}.x.y"] {
            check(garbage, Err(TokenError::Malformed));
        }
        check(&"a".repeat(TOKEN_BYTES_MAX + 1), Err(TokenError::Malformed));
        let nobody = sign(Algorithm::HS256, &json!({"exp": 2_000}));
        check(&nobody, Err(TokenError::NoUser));
        let number = sign(Algorithm::HS256, &json!({"user_id": 7, "exp": 2_000}));
        check(&number, Ok("7"));
    }
}
