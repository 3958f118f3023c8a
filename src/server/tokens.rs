//! Builds the verifier of tokens from the settings.

use super::error::StartError;
use crate::auth::{ClaimRules, TokenAlgorithm, VerificationKey, Verifier};
use crate::config::{SettingsError, TokenSettings};

/// The verifier that the settings describe, without the program's own check and without keys that
/// are fetched.
///
/// # Errors
/// [`StartError::Settings`] when a file of `jwt_public_keys` cannot be used.
pub(super) fn verifier(settings: &TokenSettings, now_unix_s: u64) -> Result<Verifier, StartError> {
    let mut keys = Vec::new();
    let allowed = &settings.jwt_algorithms;
    let of_secrets: &[TokenAlgorithm] = match &**allowed {
        [] => &[TokenAlgorithm::Hs256],
        allowed => allowed,
    };
    let secrets = settings
        .jwt_secret
        .iter()
        .chain(&settings.jwt_previous_secrets);
    keys.extend(secrets.map(|secret| VerificationKey::secret(secret.0.as_bytes(), of_secrets)));
    for entry in &settings.jwt_public_keys {
        let key =
            public_key(entry).map_err(|error| StartError::Settings(SettingsError::File(error)))?;
        keys.push(key.limited_if(allowed));
    }
    let rules = ClaimRules {
        issuers: settings.jwt_issuers.clone(),
        audiences: settings.jwt_audiences.clone(),
        attributes: settings.token_attributes.clone(),
        leeway_s: settings.jwt_leeway.0 / 1_000,
    };
    let verifier = Verifier::new(keys, rules).with_static_tokens(settings.static_tokens.clone());
    for id in &settings.revoked_tokens {
        verifier
            .revocations()
            .revoke_token(id, u64::MAX, now_unix_s);
    }
    for user in &settings.revoked_users {
        let always = (u64::MAX, u64::MAX);
        verifier
            .revocations()
            .revoke_user(user, None, always, now_unix_s);
    }
    Ok(verifier)
}

/// Reads the key of an entry of `jwt_public_keys`: `PATH` or `KEY_ID=PATH`.
fn public_key(entry: &str) -> Result<VerificationKey, String> {
    let (id, path) = match entry.split_once('=') {
        Some((id, path)) => (Some(id), path),
        None => (None, entry),
    };
    let fail = |error: &dyn std::fmt::Display| {
        format!("cannot use {path:?} in `jwt_public_keys`: {error}")
    };
    let text = std::fs::read_to_string(path).map_err(|error| fail(&error))?;
    VerificationKey::from_pem(&text, id).map_err(|error| fail(&error))
}
