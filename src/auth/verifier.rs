//! Verifies tokens: the signature, then the claims, then whether they are revoked.
//!
//! ```text
//!   token ─▶ the program's own check ─▶ static tokens ─▶ header: algorithm and key id ─▶ signature
//!                                                        with each key that fits ─▶ claims ─▶ identity
//! ```

use super::claims::{ClaimRules, Claims, UserClaim};
use super::identity::Identity;
use super::keys::{TokenAlgorithm, VerificationKey};
use super::revocations::Revocations;
use crate::base::Now;
use crate::base::catch_panic;
use crate::base::counters::TokenError;
use crate::base::limits::TOKEN_BYTES_MAX;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use subtle::ConstantTimeEq;

/// A token check of the embedding program: returns the identity, or `None` if the token is not
/// valid.
pub type TokenCheck = dyn Fn(&str) -> Option<Identity> + Send + Sync;

/// Verifies tokens: by the program's own check if it has one, then against the static tokens, then
/// with the keys. Without any of these every token is rejected. Clones share keys and revocations.
#[derive(Clone, Default)]
pub struct Verifier {
    keys: Arc<[VerificationKey]>,
    /// Keys of a JWK set, which is fetched again and again; `None` = there is none.
    fetched: Option<Arc<FetchedKeys>>,
    rules: Arc<ClaimRules>,
    static_tokens: Arc<[StaticToken]>,
    check: Option<Arc<TokenCheck>>,
    revocations: Arc<Revocations>,
    /// The authentication callback or a future of the embedding program is asked too.
    others: bool,
}

/// The keys of a JWK set. A fetch replaces them all at once.
#[derive(Debug, Default)]
pub struct FetchedKeys {
    keys: RwLock<Arc<[VerificationKey]>>,
    /// A token named a key that is not there: the set may have changed. Relaxed, as a flag that is
    /// seen late only delays the next fetch.
    is_outdated: AtomicBool,
}

impl FetchedKeys {
    /// Replaces the keys.
    pub fn replace(&self, keys: Vec<VerificationKey>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
    }

    /// Whether no keys are fetched yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.get().is_empty()
    }

    /// Whether a token has named an unknown key since the last call.
    #[must_use]
    pub fn take_outdated(&self) -> bool {
        self.is_outdated.swap(false, Ordering::Relaxed)
    }

    fn get(&self) -> Arc<[VerificationKey]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
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

/// The header of a token (RFC 7515 4.1). What else it says is ignored: keys and addresses of keys in
/// a token prove nothing.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    kid: Option<Cow<'a, str>>,
    /// Whether there is any `crit`, whatever its value.
    #[serde(rename = "crit", default, deserialize_with = "is_present")]
    has_crit: bool,
}

fn is_present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

impl Verifier {
    /// A verifier with these keys.
    #[must_use]
    pub fn new(keys: Vec<VerificationKey>, rules: ClaimRules) -> Self {
        super::install_signing_library();
        Self {
            keys: keys.into(),
            rules: Arc::new(rules),
            ..Self::default()
        }
    }

    /// A verifier of HS256 signatures made with `secret`.
    #[must_use]
    pub fn hs256(secret: &[u8]) -> Self {
        let key = VerificationKey::secret(secret, &[TokenAlgorithm::Hs256]);
        Self::new(vec![key], ClaimRules::default())
    }

    /// The same verifier, which also uses keys that are fetched.
    #[must_use]
    pub fn with_fetched_keys(self, fetched: Arc<FetchedKeys>) -> Self {
        Self {
            fetched: Some(fetched),
            ..self
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

    /// The tokens that it rejects although they are signed.
    #[must_use]
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// The same verifier, where others are asked about tokens that it cannot verify.
    #[must_use]
    pub fn asking_others(self) -> Self {
        Self {
            others: true,
            ..self
        }
    }

    /// Whether others are to be asked about a token that was rejected with this error. Tokens that
    /// are known here, but not valid, are not.
    #[must_use]
    pub fn asks_others(&self, token: &str, error: TokenError) -> bool {
        let is_unknown = matches!(
            error,
            TokenError::Malformed
                | TokenError::Algorithm
                | TokenError::Key
                | TokenError::Signature
                | TokenError::Unknown
                | TokenError::Unconfigured
        );
        self.others && is_unknown && (1..=TOKEN_BYTES_MAX).contains(&token.len())
    }

    /// Whether the verifier can accept any token.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.others || self.has_keys() || !self.static_tokens.is_empty() || self.check.is_some()
    }

    fn has_keys(&self) -> bool {
        !self.keys.is_empty() || self.fetched.is_some()
    }

    fn identity_of_static(&self, token: &str) -> Option<Identity> {
        // Compares all tokens completely, so that the time does not depend on which part matched.
        let mut found = None;
        for static_token in &*self.static_tokens {
            if is_same_secret(token.as_bytes(), static_token.token.as_bytes()) {
                found = Some(&static_token.user);
            }
        }
        Some(Identity::new(found?))
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
        let is_own = own.is_some();
        let identity = match own.or_else(|| self.identity_of_static(token)) {
            Some(identity) => identity,
            None if !self.has_keys() => {
                return Err(if self.is_configured() {
                    TokenError::Unknown
                } else {
                    TokenError::Unconfigured
                });
            }
            None => self.claims(token)?.check(claim, &self.rules, now)?,
        };
        if !identity.is_valid() {
            return Err(TokenError::Name);
        }
        // The embedding program decides about tokens of its own.
        if !is_own && self.is_revoked(&identity, identity.tenant.as_deref(), now) {
            return Err(TokenError::Revoked);
        }
        Ok(identity)
    }

    /// Whether the token of an identity, or its user in this tenant, is revoked.
    #[must_use]
    pub fn is_revoked(&self, identity: &Identity, tenant: Option<&str>, now: Now) -> bool {
        self.revocations.contains(
            identity.token_id.as_deref(),
            (&identity.user, tenant),
            identity.issued_unix_s,
            now.unix_s(),
        )
    }

    /// The claims of a token with a valid signature (RFC 7515 5.2).
    fn claims(&self, token: &str) -> Result<Claims, TokenError> {
        let malformed = TokenError::Malformed;
        let (message, signature) = token.rsplit_once('.').ok_or(malformed)?;
        let (header, claims) = message.split_once('.').ok_or(malformed)?;
        if claims.contains('.') {
            return Err(malformed);
        }
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| malformed)?;
        let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| malformed)?;
        let algorithm = TokenAlgorithm::named(&header.alg).ok_or(TokenError::Algorithm)?;
        // Extensions that must be understood (RFC 7515 4.1.11); the server understands none.
        if header.has_crit {
            return Err(TokenError::Critical);
        }
        self.check_signature(algorithm, header.kid.as_deref(), message, signature)?;
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| malformed)?;
        Claims::parse(&claims, &self.rules)
    }

    fn check_signature(
        &self,
        algorithm: TokenAlgorithm,
        id: Option<&str>,
        message: &str,
        signature: &str,
    ) -> Result<(), TokenError> {
        let fetched = self.fetched.as_ref().map(|fetched| fetched.get());
        let keys = || {
            self.keys
                .iter()
                .chain(fetched.iter().flat_map(|keys| keys.iter()))
        };
        let mut fitting = keys().filter(|key| key.fits(algorithm, id)).peekable();
        if fitting.peek().is_none() {
            if let Some(fetched) = &self.fetched {
                fetched.is_outdated.store(true, Ordering::Relaxed);
            }
            let has_algorithm = keys().any(|key| key.fits(algorithm, None));
            return Err(if has_algorithm {
                TokenError::Key
            } else {
                TokenError::Algorithm
            });
        }
        let verify = jsonwebtoken::crypto::verify;
        let is_signed = |key: &VerificationKey| {
            let checked = verify(
                signature,
                message.as_bytes(),
                &key.key,
                algorithm.of_library(),
            );
            // Anything but base64url is no signature either.
            checked.unwrap_or(false)
        };
        let is_valid = fitting.any(is_signed);
        is_valid.then_some(()).ok_or(TokenError::Signature)
    }
}

/// Whether two secrets are equal, in a time that does not depend on where they differ. Lengths are
/// not hidden: secrets of different lengths are unequal at once.
#[must_use]
pub fn is_same_secret(shown: &[u8], secret: &[u8]) -> bool {
    shown.ct_eq(secret).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Grant, issue};
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
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
            ..Grant::default()
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
        assert_eq!(*identity.roles, [Box::<str>::from("admin")]);
        assert_eq!(identity.expires_unix_s, 1_060);
    }

    #[test]
    fn claims_that_are_named_become_attributes() {
        let key = VerificationKey::secret(SECRET, &[TokenAlgorithm::Hs256]);
        let rules = ClaimRules {
            attributes: ["region", "level", "beta", "groups", "absent", "sub"]
                .map(str::to_owned)
                .to_vec(),
            ..ClaimRules::default()
        };
        let verifier = Verifier::new(vec![key], rules);
        let verify = |claims| {
            let token = sign(Algorithm::HS256, &claims);
            verifier.verify(&token, UserClaim::Sub, NOW)
        };
        let identity = verify(json!({
            "sub": "ann", "exp": 2_000, "region": "north", "level": 7, "beta": true,
            "groups": ["a"], "other": "x",
        }));
        let identity = identity.unwrap();
        for (name, value) in [
            ("region", Some("north")),
            ("level", Some("7")),
            ("beta", Some("true")),
            ("groups", None),
            ("absent", None),
            ("other", None),
            ("sub", Some("ann")),
        ] {
            assert_eq!(identity.attribute(name), value, "{name}");
        }
        for value in [String::new(), "a\nb".to_owned(), "x".repeat(201)] {
            let identity = verify(json!({"sub": "ann", "exp": 2_000, "region": value}));
            assert_eq!(identity, Err(TokenError::Name), "{value:?}");
        }
        let grant = Grant::new("ann")
            .with_attribute("region", "north")
            .with_attribute("sub", "bob");
        let token = issue(&grant, SECRET, 60, NOW).unwrap();
        let identity = verifier.verify(&token, UserClaim::Sub, NOW).unwrap();
        assert_eq!(
            (&*identity.user, identity.attribute("region")),
            ("ann", Some("north"))
        );
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
