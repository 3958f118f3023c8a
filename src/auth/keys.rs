//! The keys that tokens are verified with: shared secrets, public keys of PEM files and of JWK sets
//! (RFC 7517).

use crate::base::label::{Label, label};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

label! {
    /// An algorithm of signatures (RFC 7518 3.1, RFC 8037). `none` is not among them.
    TokenAlgorithm {
        /// HMAC with SHA-256.
        Hs256 = "HS256",
        /// HMAC with SHA-384.
        Hs384 = "HS384",
        /// HMAC with SHA-512.
        Hs512 = "HS512",
        /// RSA PKCS #1 v1.5 with SHA-256.
        Rs256 = "RS256",
        /// RSA PKCS #1 v1.5 with SHA-384.
        Rs384 = "RS384",
        /// RSA PKCS #1 v1.5 with SHA-512.
        Rs512 = "RS512",
        /// RSA PSS with SHA-256.
        Ps256 = "PS256",
        /// RSA PSS with SHA-384.
        Ps384 = "PS384",
        /// RSA PSS with SHA-512.
        Ps512 = "PS512",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
        /// ECDSA on P-384 with SHA-384.
        Es384 = "ES384",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}

use TokenAlgorithm::{
    EdDsa, Es256, Es384, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512,
};

/// Bytes of the smallest RSA key, 2,048 bits.
const RSA_BYTES_MIN: usize = 256;
/// Keys of a JWK set. A token without a key id is tried with all keys of its algorithm.
const JWK_SET_KEYS_MAX: usize = 32;

impl TokenAlgorithm {
    /// The algorithm of this name, exactly as registered.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|algorithm| algorithm.name() == name)
    }

    /// Whether tokens are signed with a secret, which the server knows.
    #[must_use]
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Hs256 | Hs384 | Hs512)
    }

    pub(super) const fn of_library(self) -> Algorithm {
        match self {
            Hs256 => Algorithm::HS256,
            Hs384 => Algorithm::HS384,
            Hs512 => Algorithm::HS512,
            Rs256 => Algorithm::RS256,
            Rs384 => Algorithm::RS384,
            Rs512 => Algorithm::RS512,
            Ps256 => Algorithm::PS256,
            Ps384 => Algorithm::PS384,
            Ps512 => Algorithm::PS512,
            Es256 => Algorithm::ES256,
            Es384 => Algorithm::ES384,
            EdDsa => Algorithm::EdDSA,
        }
    }
}

/// A key, and what it may verify.
#[derive(Clone, Debug)]
pub struct VerificationKey {
    /// Its id; a token that names another one is not verified with it.
    id: Option<Box<str>>,
    algorithms: Vec<TokenAlgorithm>,
    pub(super) key: DecodingKey,
}

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Not the PEM text of one public key of RSA, P-256, P-384 or Ed25519.
    NotPublicKey,
    /// A private key, which belongs to who signs tokens.
    Private,
    /// An RSA key of fewer than 2,048 bits.
    TooShort,
    /// Not a JWK set (RFC 7517 5).
    NotJwkSet,
    /// A JWK set with more than 32 keys.
    TooManyKeys,
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::NotPublicKey => "not a public key of RSA, P-256, P-384 or Ed25519 in PEM",
            Self::Private => "a private key: the server needs the public one only",
            Self::TooShort => "an RSA key of fewer than 2048 bits",
            Self::NotJwkSet => "not a JWK set",
            Self::TooManyKeys => "a JWK set of more than 32 keys",
        })
    }
}

impl std::error::Error for KeyError {}

impl VerificationKey {
    /// A secret, for tokens of these algorithms; those that are not symmetric do not count.
    #[must_use]
    pub fn secret(secret: &[u8], algorithms: &[TokenAlgorithm]) -> Self {
        let algorithms = algorithms.iter().copied();
        Self {
            id: None,
            algorithms: algorithms
                .filter(|algorithm| algorithm.is_symmetric())
                .collect(),
            key: DecodingKey::from_secret(secret),
        }
    }

    /// The public key of a PEM text (RFC 7468, PKCS #1, SPKI or a certificate). It verifies the
    /// algorithms of its kind.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(text: &str, id: Option<&str>) -> Result<Self, KeyError> {
        if text.contains("PRIVATE KEY") {
            return Err(KeyError::Private);
        }
        let pem = text.trim().as_bytes();
        let key = DecodingKey::from_rsa_pem(pem)
            .or_else(|_| DecodingKey::from_ec_pem(pem))
            .or_else(|_| DecodingKey::from_ed_pem(pem))
            .map_err(|_| KeyError::NotPublicKey)?;
        let bytes = key.try_get_as_bytes().map_err(|_| KeyError::NotPublicKey)?;
        Ok(Self {
            id: id.map(Into::into),
            algorithms: algorithms_of(key.family(), bytes.len())?,
            key,
        })
    }

    /// The keys of a JWK set that can verify tokens. Others are left out: for encryption, of other
    /// algorithms, and secrets, which do not belong in a public document.
    ///
    /// # Errors
    /// [`KeyError::NotJwkSet`] and [`KeyError::TooManyKeys`].
    pub fn from_jwk_set(json: &[u8]) -> Result<Vec<Self>, KeyError> {
        // Each key on its own: one of an unknown kind does not spoil the others.
        #[derive(serde::Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(json).map_err(|_| KeyError::NotJwkSet)?;
        if set.keys.len() > JWK_SET_KEYS_MAX {
            return Err(KeyError::TooManyKeys);
        }
        let keys = set.keys.into_iter();
        let keys = keys.filter_map(|key| serde_json::from_value(key).ok());
        Ok(keys.filter_map(|jwk| Self::from_jwk(&jwk)).collect())
    }

    fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        if common
            .public_key_use
            .as_ref()
            .is_some_and(|it| *it != PublicKeyUse::Signature)
        {
            return None;
        }
        // RFC 7517 4.3: a key may be used for the operations that it names, and no others.
        if common
            .key_operations
            .as_ref()
            .is_some_and(|it| !it.contains(&KeyOperations::Verify))
        {
            return None;
        }
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => vec![Rs256, Rs384, Rs512, Ps256, Ps384, Ps512],
            AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
                EllipticCurve::P256 => vec![Es256],
                EllipticCurve::P384 => vec![Es384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(parameters)
                if parameters.curve == EllipticCurve::Ed25519 =>
            {
                vec![EdDsa]
            }
            _ => return None,
        };
        if let Some(named) = common.key_algorithm {
            let named = named.to_string();
            algorithms.retain(|algorithm| algorithm.name() == named);
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        (!algorithms.is_empty()).then(|| Self {
            id: common.key_id.as_deref().map(Into::into),
            algorithms,
            key,
        })
    }

    /// The same key, for no other algorithms than these.
    #[must_use]
    pub fn limited_to(mut self, algorithms: &[TokenAlgorithm]) -> Self {
        self.algorithms
            .retain(|algorithm| algorithms.contains(algorithm));
        self
    }

    /// The same key, for no other algorithms than these; if there are none, for all of its kind.
    #[must_use]
    pub fn limited_if(self, algorithms: &[TokenAlgorithm]) -> Self {
        match algorithms {
            [] => self,
            algorithms => self.limited_to(algorithms),
        }
    }

    /// The algorithms that it verifies.
    #[must_use]
    pub fn algorithms(&self) -> &[TokenAlgorithm] {
        &self.algorithms
    }

    /// Whether it may verify a token with this algorithm and key id.
    pub(super) fn fits(&self, algorithm: TokenAlgorithm, id: Option<&str>) -> bool {
        let has_id = match (&self.id, id) {
            (Some(own), Some(id)) => **own == *id,
            // A key or a token without an id may belong to any.
            _ => true,
        };
        has_id && self.algorithms.contains(&algorithm)
    }
}

fn algorithms_of(family: AlgorithmFamily, bytes: usize) -> Result<Vec<TokenAlgorithm>, KeyError> {
    // An uncompressed point (SEC 1 2.3.3).
    const P256_BYTES: usize = 1 + 2 * 32;
    const P384_BYTES: usize = 1 + 2 * 48;
    Ok(match (family, bytes) {
        (AlgorithmFamily::Rsa, bytes) if bytes < RSA_BYTES_MIN => return Err(KeyError::TooShort),
        (AlgorithmFamily::Rsa, _) => vec![Rs256, Rs384, Rs512, Ps256, Ps384, Ps512],
        (AlgorithmFamily::Ec, P256_BYTES) => vec![Es256],
        (AlgorithmFamily::Ec, P384_BYTES) => vec![Es384],
        (AlgorithmFamily::Ed, _) => vec![EdDsa],
        _ => return Err(KeyError::NotPublicKey),
    })
}
