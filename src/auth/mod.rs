//! Tokens: verifies JSON Web Tokens (RFC 7519), turns their claims into identities, and issues
//! tokens.

#[cfg(test)]
mod attacks;
pub mod claims;
pub mod identity;
pub mod issuer;
pub mod keys;
pub mod revocations;
pub mod verifier;

pub use claims::{ClaimRules, UserClaim};
pub(crate) use claims::{Name, Names, attribute};
pub use identity::Identity;
pub use issuer::{Grant, issue};
pub use keys::{KeyError, TokenAlgorithm, VerificationKey};
pub use revocations::Revocations;
pub use verifier::{FetchedKeys, StaticToken, TokenCheck, Verifier, is_same_secret};

/// Chooses the library that computes signatures. jsonwebtoken panics at the first token if another
/// crate of the embedding program also enables its other library. A choice of the program itself is
/// kept.
fn install_signing_library() {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}
