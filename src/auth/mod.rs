//! Tokens: HS256 JSON Web Tokens (RFC 7519) checked and issued, claims made an identity.

pub mod identity;
pub mod issuer;
pub mod verifier;

pub use identity::Identity;
pub use issuer::{Grant, issue};
pub use verifier::{StaticToken, TokenCheck, UserClaim, Verifier, is_same_secret};
