//! Tokens that must not be accepted, and those of every algorithm that must be.

use super::{ClaimRules, Revocations, StaticToken, TokenAlgorithm, UserClaim, Verifier};
use super::{FetchedKeys, Identity, KeyError, VerificationKey};
use crate::base::Now;
use crate::base::counters::TokenError;
use crate::base::label::Label;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use std::sync::Arc;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const NOW: Now = Now::at(0, 1_000_000);

macro_rules! key {
    ($name:literal) => {
        include_str!(concat!("../../tests/keys/", $name, ".pem"))
    };
}

const RSA: (&str, &str) = (key!("rsa_private"), key!("rsa_public"));
const P256: (&str, &str) = (key!("ec_p256_private"), key!("ec_p256_public"));
const P384: (&str, &str) = (key!("ec_p384_private"), key!("ec_p384_public"));
const ED25519: (&str, &str) = (key!("ed25519_private"), key!("ed25519_public"));

fn claims() -> Value {
    json!({"sub": "ann", "exp": 2_000})
}

fn sign_as(header: Header, claims: &Value, private: &str) -> String {
    let pem = private.as_bytes();
    let key = EncodingKey::from_rsa_pem(pem)
        .or_else(|_| EncodingKey::from_ec_pem(pem))
        .or_else(|_| EncodingKey::from_ed_pem(pem))
        .unwrap_or_else(|_| EncodingKey::from_secret(pem));
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

fn sign(algorithm: TokenAlgorithm, claims: &Value, private: &str) -> String {
    sign_as(Header::new(algorithm.of_library()), claims, private)
}

/// A token with any header, signed with the secret as HS256 over what it says.
fn forge(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let key = EncodingKey::from_secret(SECRET);
    let algorithm = jsonwebtoken::Algorithm::HS256;
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn public(keys: &[&str]) -> Verifier {
    let keys = keys
        .iter()
        .map(|pem| VerificationKey::from_pem(pem, None).unwrap());
    Verifier::new(keys.collect(), ClaimRules::default())
}

fn user(verifier: &Verifier, token: &str) -> Result<String, TokenError> {
    let identity = verifier.verify(token, UserClaim::Sub, NOW);
    identity.map(|identity| identity.user.into())
}

fn secret() -> &'static str {
    std::str::from_utf8(SECRET).unwrap()
}

#[test]
fn every_algorithm_verifies_with_its_own_kind_of_key_only() {
    use TokenAlgorithm::{EdDsa, Es256, Es384, Hs256, Hs384, Hs512};
    use TokenAlgorithm::{Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
    let with_secret = Verifier::new(
        vec![VerificationKey::secret(SECRET, TokenAlgorithm::ALL)],
        ClaimRules::default(),
    );
    let pairs: [(&[TokenAlgorithm], &str, Verifier); 5] = [
        (&[Hs256, Hs384, Hs512], secret(), with_secret),
        (
            &[Rs256, Rs384, Rs512, Ps256, Ps384, Ps512],
            RSA.0,
            public(&[RSA.1]),
        ),
        (&[Es256], P256.0, public(&[P256.1])),
        (&[Es384], P384.0, public(&[P384.1])),
        (&[EdDsa], ED25519.0, public(&[ED25519.1])),
    ];
    let mut count = 0;
    for (algorithms, private, _) in &pairs {
        for algorithm in *algorithms {
            let token = sign(*algorithm, &claims(), private);
            for (others, _, verifier) in &pairs {
                let expected = if others == algorithms {
                    Ok("ann".to_owned())
                } else {
                    Err(TokenError::Algorithm)
                };
                assert_eq!(user(verifier, &token), expected, "{}", algorithm.name());
            }
            // Any other signature is none.
            let mut forged = token.clone();
            let at = forged.len() - 5;
            let other = if forged[at..].starts_with('A') {
                "Q"
            } else {
                "A"
            };
            forged.replace_range(at..=at, other);
            let verifier = &pairs.iter().find(|pair| pair.0 == *algorithms).unwrap().2;
            assert_eq!(user(verifier, &forged), Err(TokenError::Signature));
            count += 1;
        }
    }
    assert_eq!(count, TokenAlgorithm::ALL.len());
}

#[test]
fn none_and_unknown_algorithms_are_rejected_with_any_keys() {
    for verifier in [
        Verifier::hs256(SECRET),
        public(&[RSA.1]),
        public(&[ED25519.1]),
    ] {
        for name in [
            "none", "None", "NONE", "", "hs256", "HS257", "ES512", "RS256 ",
        ] {
            let token = forge(&json!({"alg": name, "typ": "JWT"}), &claims());
            assert_eq!(
                user(&verifier, &token),
                Err(TokenError::Algorithm),
                "{name}"
            );
            let (unsigned, _) = token.rsplit_once('.').unwrap();
            let unsigned = format!("{unsigned}.");
            assert_eq!(
                user(&verifier, &unsigned),
                Err(TokenError::Algorithm),
                "{name}"
            );
        }
    }
}

#[test]
fn a_public_key_is_no_secret() {
    // Signed by HMAC with the text of the public key, which everyone knows.
    for pem in [RSA.1, P256.1, ED25519.1] {
        let key = EncodingKey::from_secret(pem.as_bytes());
        let trimmed = EncodingKey::from_secret(pem.trim().as_bytes());
        for key in [key, trimmed] {
            let token = jsonwebtoken::encode(&Header::default(), &claims(), &key).unwrap();
            assert_eq!(user(&public(&[pem]), &token), Err(TokenError::Algorithm));
        }
    }
}

#[test]
fn a_key_id_only_selects_among_the_known_keys() {
    let named = |pem, id| VerificationKey::from_pem(pem, Some(id)).unwrap();
    let keys = vec![named(P256.1, "new"), named(P384.1, "old")];
    let verifier = Verifier::new(keys, ClaimRules::default());
    let token = |id: Option<&str>| {
        let mut header = Header::new(TokenAlgorithm::Es256.of_library());
        header.kid = id.map(str::to_owned);
        sign_as(header, &claims(), P256.0)
    };
    assert_eq!(user(&verifier, &token(Some("new"))), Ok("ann".into()));
    assert_eq!(user(&verifier, &token(None)), Ok("ann".into()));
    for id in [
        "old",
        "../../../../dev/null",
        "/etc/passwd",
        "",
        "new\0",
        "' OR 1=1 --",
    ] {
        assert_eq!(
            user(&verifier, &token(Some(id))),
            Err(TokenError::Key),
            "{id}"
        );
    }
    // With the secret of an empty file.
    let header = Header {
        kid: Some("/dev/null".into()),
        ..Header::default()
    };
    let token = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(b"")).unwrap();
    assert_eq!(user(&verifier, &token), Err(TokenError::Algorithm));
    assert_eq!(
        user(&Verifier::hs256(SECRET), &token),
        Err(TokenError::Signature)
    );
}

#[test]
fn keys_in_a_token_prove_nothing() {
    let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode("own")});
    for extra in [
        json!({"jwk": jwk}),
        json!({"jku": "http://127.0.0.1/keys"}),
        json!({"x5u": "http://127.0.0.1/certificate"}),
    ] {
        let mut header = json!({"alg": "HS256"});
        let Value::Object(extra) = extra else {
            unreachable!()
        };
        header.as_object_mut().unwrap().extend(extra);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims()));
        let key = EncodingKey::from_secret(b"own");
        let algorithm = jsonwebtoken::Algorithm::HS256;
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
        let token = format!("{message}.{signature}");
        assert_eq!(
            user(&Verifier::hs256(SECRET), &token),
            Err(TokenError::Signature)
        );
        // What the issuer signed itself stays valid.
        let token = forge(&header, &claims());
        assert_eq!(user(&Verifier::hs256(SECRET), &token), Ok("ann".into()));
    }
}

#[test]
fn unknown_critical_extensions_are_rejected() {
    for critical in [json!(["b64"]), json!([]), json!("exp"), json!(null)] {
        let token = forge(
            &json!({"alg": "HS256", "crit": critical, "b64": false}),
            &claims(),
        );
        let expected = Err(TokenError::Critical);
        assert_eq!(
            user(&Verifier::hs256(SECRET), &token),
            expected,
            "{critical}"
        );
    }
    for header in [
        json!([]),
        json!({}),
        json!({"alg": 7}),
        json!({"alg": "HS256", "kid": 7}),
    ] {
        let token = forge(&header, &claims());
        assert_eq!(
            user(&Verifier::hs256(SECRET), &token),
            Err(TokenError::Malformed)
        );
    }
    let twice = r#"{"alg":"HS256","alg":"none"}"#;
    let token = format!("{}.e30.", URL_SAFE_NO_PAD.encode(twice));
    assert_eq!(
        user(&Verifier::hs256(SECRET), &token),
        Err(TokenError::Malformed)
    );
}

#[test]
fn times_have_the_leeway_that_is_set_and_no_other() {
    let with_leeway = |leeway_s| {
        let key = VerificationKey::secret(SECRET, &[TokenAlgorithm::Hs256]);
        let rules = ClaimRules {
            leeway_s,
            ..ClaimRules::default()
        };
        Verifier::new(vec![key], rules)
    };
    let token = |claims: Value| sign(TokenAlgorithm::Hs256, &claims, secret());
    // Expired for one second.
    let expired = token(json!({"sub": "ann", "exp": 999}));
    assert_eq!(user(&with_leeway(0), &expired), Err(TokenError::Expired));
    assert_eq!(
        user(&with_leeway(1), &expired),
        Err(TokenError::Expired),
        "exp is exclusive"
    );
    assert_eq!(user(&with_leeway(2), &expired), Ok("ann".into()));
    let identity = with_leeway(2)
        .verify(&expired, UserClaim::Sub, NOW)
        .unwrap();
    assert_eq!(
        identity.expires_unix_s, 1_001,
        "the session ends with the leeway"
    );
    let early = token(json!({"sub": "ann", "exp": 2_000, "nbf": 1_002}));
    assert_eq!(user(&with_leeway(1), &early), Err(TokenError::NotYetValid));
    assert_eq!(user(&with_leeway(2), &early), Ok("ann".into()));
}

#[test]
fn issuer_and_audience_are_compared_exactly() {
    let verifier = |issuers: &[&str], audiences: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let key = VerificationKey::secret(SECRET, &[TokenAlgorithm::Hs256]);
        let rules = ClaimRules {
            issuers: list(issuers),
            audiences: list(audiences),
            ..ClaimRules::default()
        };
        Verifier::new(vec![key], rules)
    };
    let check = |verifier: &Verifier, issuer: Value, audience: Value, expected| {
        let mut claims = claims();
        for (name, value) in [("iss", issuer), ("aud", audience)] {
            if !value.is_null() {
                claims[name] = value;
            }
        }
        let token = sign(TokenAlgorithm::Hs256, &claims, secret());
        let verdict = user(verifier, &token).map(drop);
        assert_eq!(verdict, expected, "{claims}");
    };
    let any = verifier(&[], &[]);
    check(&any, json!("x"), json!(null), Ok(()));
    check(&any, json!(null), json!("api"), Err(TokenError::Audience));
    check(&any, json!(null), json!([]), Err(TokenError::Audience));
    let strict = verifier(&["https://a", "https://b"], &["fanwire", "ws"]);
    check(&strict, json!("https://b"), json!("ws"), Ok(()));
    check(&strict, json!("https://a"), json!(["x", "fanwire"]), Ok(()));
    check(
        &strict,
        json!("https://a/"),
        json!("ws"),
        Err(TokenError::Issuer),
    );
    check(&strict, json!(null), json!("ws"), Err(TokenError::Issuer));
    check(
        &strict,
        json!("https://a"),
        json!("WS"),
        Err(TokenError::Audience),
    );
    check(
        &strict,
        json!("https://a"),
        json!(null),
        Err(TokenError::Audience),
    );
    check(&strict, json!(7), json!("ws"), Err(TokenError::Malformed));
}

#[test]
fn names_are_bounded_and_without_control_characters() {
    let long = "x".repeat(201);
    for (claim, value) in [
        ("sub", json!("ann\nforged log line")),
        ("sub", json!("ann\u{7f}")),
        ("sub", json!(long)),
        ("tenant_id", json!("")),
        ("tenant_id", json!("a\u{0}")),
        ("roles", json!(["admin\r"])),
        ("permissions", json!([long])),
        ("jti", json!("\u{1b}[2J")),
    ] {
        let mut claims = claims();
        claims[claim] = value;
        let token = sign(TokenAlgorithm::Hs256, &claims, secret());
        let verdict = user(&Verifier::hs256(SECRET), &token);
        assert_eq!(verdict, Err(TokenError::Name), "{claims}");
    }
    let check = |_: &str| Some(Identity::new("ann\n"));
    let own = Verifier::default().with_check(Arc::new(check));
    assert_eq!(user(&own, "x"), Err(TokenError::Name));
}

#[test]
fn a_token_of_a_megabyte_is_rejected_unread() {
    let mut claims = claims();
    claims["padding"] = json!("x".repeat(1 << 20));
    let token = sign(TokenAlgorithm::Hs256, &claims, secret());
    assert_eq!(
        user(&Verifier::hs256(SECRET), &token),
        Err(TokenError::Malformed)
    );
}

#[test]
fn revoked_tokens_and_users_are_rejected() {
    let verifier = Verifier::hs256(SECRET).with_static_tokens(vec![StaticToken {
        user: "ann".into(),
        token: "t".into(),
    }]);
    let token = |id: &str, issued: u64| {
        let claims = json!({"sub": "ann", "exp": 2_000, "jti": id, "iat": issued});
        sign(TokenAlgorithm::Hs256, &claims, secret())
    };
    let revocations: &Revocations = verifier.revocations();
    revocations.revoke_token("a", u64::MAX, 1_000);
    assert_eq!(user(&verifier, &token("a", 900)), Err(TokenError::Revoked));
    assert_eq!(user(&verifier, &token("b", 900)), Ok("ann".into()));
    // Clones share it, as the shards do.
    verifier
        .clone()
        .revocations()
        .revoke_user("ann", None, (950, u64::MAX), 1_000);
    assert_eq!(user(&verifier, &token("b", 950)), Err(TokenError::Revoked));
    assert_eq!(
        user(&verifier, &token("b", 951)),
        Ok("ann".into()),
        "a newer token"
    );
    assert_eq!(
        user(&verifier, "t"),
        Err(TokenError::Revoked),
        "it does not say when it was issued"
    );
}

#[test]
fn several_secrets_are_accepted_while_they_change() {
    let key = |secret: &[u8]| VerificationKey::secret(secret, &[TokenAlgorithm::Hs256]);
    let new = b"another secret, of enough bytes to be one";
    let verifier = Verifier::new(vec![key(new), key(SECRET)], ClaimRules::default());
    let new = std::str::from_utf8(new).unwrap();
    for secret in [secret(), new] {
        let token = sign(TokenAlgorithm::Hs256, &claims(), secret);
        assert_eq!(user(&verifier, &token), Ok("ann".into()));
    }
    let token = sign(
        TokenAlgorithm::Hs256,
        &claims(),
        "a third secret, of enough bytes to be one",
    );
    assert_eq!(user(&verifier, &token), Err(TokenError::Signature));
}

#[test]
fn keys_that_are_not_public_or_too_weak_are_errors() {
    let error = |pem: &str| VerificationKey::from_pem(pem, None).map(drop);
    for private in [RSA.0, P256.0, ED25519.0] {
        assert_eq!(error(private), Err(KeyError::Private));
    }
    assert_eq!(error(key!("rsa_short_public")), Err(KeyError::TooShort));
    for text in [key!("ec_p521_public"), "", "-----BEGIN PUBLIC KEY-----"] {
        assert_eq!(error(text), Err(KeyError::NotPublicKey), "{text}");
    }
}

/// The JWK of a public key.
fn jwk(private: &str, algorithm: TokenAlgorithm, id: &str) -> Value {
    let pem = private.as_bytes();
    let key = EncodingKey::from_rsa_pem(pem).or_else(|_| EncodingKey::from_ec_pem(pem));
    let key = key.unwrap();
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, algorithm.of_library()).unwrap();
    let mut jwk = serde_json::to_value(&jwk).unwrap();
    jwk["kid"] = json!(id);
    jwk
}

#[test]
fn a_jwk_set_is_read_key_by_key_and_replaced_as_a_whole() {
    let fetched = Arc::new(FetchedKeys::default());
    let verifier = Verifier::new(Vec::new(), ClaimRules::default());
    let verifier = verifier.with_fetched_keys(Arc::clone(&fetched));
    let token = |algorithm: TokenAlgorithm, id: &str, private| {
        let mut header = Header::new(algorithm.of_library());
        header.kid = Some(id.into());
        sign_as(header, &claims(), private)
    };
    let rsa = token(TokenAlgorithm::Rs256, "r", RSA.0);
    let ec = token(TokenAlgorithm::Es256, "e", P256.0);
    assert!(verifier.is_configured());
    assert_eq!(
        user(&verifier, &rsa),
        Err(TokenError::Algorithm),
        "nothing is fetched yet"
    );
    assert!(fetched.take_outdated() && !fetched.take_outdated());
    let mut encrypts = jwk(P256.0, TokenAlgorithm::Es256, "x");
    encrypts["use"] = json!("enc");
    let mut signs = jwk(P256.0, TokenAlgorithm::Es256, "y");
    signs["key_ops"] = json!(["sign", "deriveKey"]);
    let secret = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET), "kid": "s"});
    let set = json!({"keys": [
        jwk(RSA.0, TokenAlgorithm::Rs256, "r"), encrypts, signs, secret, {"kty": "new kind"}, 7,
    ]});
    let keys = VerificationKey::from_jwk_set(set.to_string().as_bytes()).unwrap();
    assert_eq!(keys.len(), 1);
    fetched.replace(keys);
    assert_eq!(user(&verifier, &rsa), Ok("ann".into()));
    // The set names the algorithm of this key.
    let other = token(TokenAlgorithm::Ps256, "r", RSA.0);
    assert_eq!(user(&verifier, &other), Err(TokenError::Algorithm));
    let with_secret = sign(TokenAlgorithm::Hs256, &claims(), self::secret());
    assert_eq!(user(&verifier, &with_secret), Err(TokenError::Algorithm));
    let _ = fetched.take_outdated();
    assert_eq!(user(&verifier, &rsa), Ok("ann".into()));
    assert!(!fetched.take_outdated());
    let mut verifies = jwk(P256.0, TokenAlgorithm::Es256, "e");
    verifies["key_ops"] = json!(["verify"]);
    let set = json!({"keys": [verifies]});
    fetched.replace(VerificationKey::from_jwk_set(set.to_string().as_bytes()).unwrap());
    assert_eq!(user(&verifier, &ec), Ok("ann".into()));
    assert!(
        user(&verifier, &rsa).is_err(),
        "it was taken out of the set"
    );
    let many = json!({"keys": vec![json!({}); 33]}).to_string();
    let error = |json: &str| VerificationKey::from_jwk_set(json.as_bytes()).map(drop);
    assert_eq!(error(&many), Err(KeyError::TooManyKeys));
    assert_eq!(error("{}"), Err(KeyError::NotJwkSet));
    assert_eq!(error("<html>"), Err(KeyError::NotJwkSet));
}
