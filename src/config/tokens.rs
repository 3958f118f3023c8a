//! Settings of tokens: how they are signed, what they must claim, and which are revoked.

use super::access::is_attribute;
use super::declaration::settings;
use super::secret::Secret;
use super::value::Millis;
use crate::auth::{StaticToken, TokenAlgorithm};
use crate::base::limits::IDENTITY_ATTRIBUTES_MAX;

settings! {
    /// Settings of tokens.
    pub struct TokenSettings {
        /// Secret that JSON Web Tokens are signed with, 32 bytes or more. Other users of the host
        /// can read command lines: prefer the variable.
        jwt_secret: Option<Secret> = None, flag = Some("SECRET"), is_secret = true,
            rule = Some((is_secret, SECRET_RULE));
        /// Earlier secrets, whose tokens are still accepted: for changing the secret.
        jwt_previous_secrets: Vec<Secret> = Vec::new(), is_secret = true,
            rule = Some((
                |secrets| secrets.iter().all(|secret| is_secret(&Some(secret.clone()))),
                SECRET_RULE,
            ));
        /// Files of public keys in PEM, each `PATH` or `KEY_ID=PATH`.
        jwt_public_keys: Vec<String> = Vec::new();
        /// Algorithms that are accepted; none = HS256 for secrets, and for each public key those of
        /// its kind.
        jwt_algorithms: Vec<TokenAlgorithm> = Vec::new(), aliases = &["jwt_algorithm"];
        /// Issuers (`iss`) whose tokens are accepted; none = all.
        jwt_issuers: Vec<String> = Vec::new();
        /// Names of this server (`aud`), one of which each token must contain; none = tokens without
        /// an audience.
        jwt_audiences: Vec<String> = Vec::new();
        /// How much the clock of an issuer may differ from the server's.
        jwt_leeway: Millis = Millis(0),
            rule = Some((|time| time.0 <= 600_000 && time.0.is_multiple_of(1_000), "whole seconds, at most 10m"));
        /// Claims that become attributes of the identity, which handlers and access rules can read.
        token_attributes: Vec<String> = Vec::new(),
            rule = Some((
                |names| names.len() <= IDENTITY_ATTRIBUTES_MAX && names.iter().all(|name| is_attribute(name)),
                ATTRIBUTE_RULE,
            ));
        /// HTTPS address of a JWK set, whose keys are accepted too. HTTP is allowed for loopback.
        jwks_url: Option<String> = None, is_secret = true,
            rule = Some((|url| url.as_deref().is_none_or(is_safe_url), URL_RULE));
        /// Time between two fetches of the JWK set.
        jwks_refresh_interval: Millis = Millis(600_000),
            rule = Some((|time| time.0 >= 1_000, "1s or more"));
        /// Static tokens, each valid for its user as long as the server runs; with them no JWT
        /// secret is required.
        static_tokens: Vec<StaticToken> = Vec::new(), is_secret = true;
        /// Ids (`jti`) of tokens that are not accepted.
        revoked_tokens: Vec<String> = Vec::new();
        /// Users whose tokens are not accepted.
        revoked_users: Vec<String> = Vec::new();
        /// HTTPS address that is asked about each token, instead of keys: it answers with the identity.
        /// HTTP is allowed for loopback.
        auth_callback_url: Option<String> = None, is_secret = true,
            rule = Some((|url| url.as_deref().is_none_or(is_safe_url), URL_RULE));
        /// Time for the answer of the authentication callback; later the token is rejected.
        auth_callback_timeout: Millis = Millis(3_000),
            rule = Some((|time| (1..=60_000).contains(&time.0), "1ms to 1m"));
        /// Time for which an answer of the authentication callback is used again for the same token;
        /// 0s = it is always asked.
        auth_callback_cache: Millis = Millis(10_000);
        /// Questions to the authentication callback at a time; more wait.
        auth_callback_requests_max: u32 = 64,
            rule = Some((|count| *count > 0, "1 or more"));
    }
}

const ATTRIBUTE_RULE: &str = "at most 32 names of up to 200 bytes without spaces, `=` and `}`";
const SECRET_RULE: &str = "a string that is not empty, as with an empty secret anyone can sign tokens, \
    and not a key in PEM, which belongs in `jwt_public_keys`";
pub(super) const URL_RULE: &str = "an https:// address, or http:// to localhost, 127.0.0.1 or [::1], without a \
    user or password before the host";

/// A public key as a secret would let everyone who knows it sign tokens with HMAC.
fn is_secret(secret: &Option<Secret>) -> bool {
    secret
        .as_ref()
        .is_none_or(|secret| !secret.0.is_empty() && !secret.0.contains("-----BEGIN "))
}

/// Keys and identities are not fetched over networks that others can write to.
pub(super) fn is_safe_url(url: &str) -> bool {
    let Ok(url) = url.parse::<http::Uri>() else {
        return false;
    };
    // Libraries and proxies log addresses, and HTTP does not send what is before the `@`.
    if url.authority().is_some_and(|it| it.as_str().contains('@')) {
        return false;
    }
    let host = url.host().unwrap_or_default();
    match url.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => matches!(host, "localhost" | "127.0.0.1" | "[::1]"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fetched_safely_or_not_at_all() {
        for (url, expected) in [
            ("https://issuer.example/jwks.json", true),
            ("http://127.0.0.1:9000/jwks", true),
            ("http://[::1]:9000/", true),
            ("http://localhost/", true),
            ("https://issuer.example/jwks?key=a@b", true),
            ("https://user:password@issuer.example/jwks", false),
            ("http://user@127.0.0.1:9000/jwks", false),
            ("http://localhost.example/", false),
            ("http://issuer.example/", false),
            ("file:///etc/passwd", false),
            ("issuer.example", false),
            ("", false),
        ] {
            assert_eq!(is_safe_url(url), expected, "{url}");
        }
    }
}
