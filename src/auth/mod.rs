//! Tokens: verifies HS256 JSON Web Tokens (RFC 7519), turns their claims into identities, and
//! issues tokens.

pub mod identity;
pub mod issuer;
pub mod verifier;

pub use identity::Identity;
pub use issuer::{Grant, issue};
pub use verifier::{StaticToken, TokenCheck, UserClaim, Verifier, is_same_secret};

/// Chooses the library that computes signatures. jsonwebtoken panics at the first token if another
/// crate of the embedding program also enables its other library. A choice of the program itself is
/// kept.
fn install_signing_library() {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}
