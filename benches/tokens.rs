//! What does it cost to verify a token, for each algorithm, and to reject one whose signature is
//! wrong?

use criterion::{Criterion, criterion_group, criterion_main};
use fanwire::auth::{ClaimRules, TokenAlgorithm, UserClaim, VerificationKey, Verifier};
use fanwire::base::Now;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use std::hint::black_box;

const SECRET: &str = "a secret of at least thirty-two bytes";
const NOW: Now = Now::at(0, 1_700_000_000_000);

macro_rules! key {
    ($name:literal) => {
        include_str!(concat!("../tests/keys/", $name, ".pem"))
    };
}

/// A key to sign with, the key to verify with, and the algorithms of both.
fn keys() -> Vec<(EncodingKey, VerificationKey, &'static [&'static str])> {
    let public = |pem| VerificationKey::from_pem(pem, None).expect("the key is valid");
    let expect = "the key is valid";
    let secret = VerificationKey::secret(
        SECRET.as_bytes(),
        &[
            TokenAlgorithm::Hs256,
            TokenAlgorithm::Hs384,
            TokenAlgorithm::Hs512,
        ],
    );
    vec![
        (
            EncodingKey::from_secret(SECRET.as_bytes()),
            secret,
            &["HS256", "HS384", "HS512"],
        ),
        (
            EncodingKey::from_rsa_pem(key!("rsa_private").as_bytes()).expect(expect),
            public(key!("rsa_public")),
            &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        ),
        (
            EncodingKey::from_ec_pem(key!("ec_p256_private").as_bytes()).expect(expect),
            public(key!("ec_p256_public")),
            &["ES256"],
        ),
        (
            EncodingKey::from_ec_pem(key!("ec_p384_private").as_bytes()).expect(expect),
            public(key!("ec_p384_public")),
            &["ES384"],
        ),
        (
            EncodingKey::from_ed_pem(key!("ed25519_private").as_bytes()).expect(expect),
            public(key!("ed25519_public")),
            &["EdDSA"],
        ),
    ]
}

fn verify(criterion: &mut Criterion) {
    let claims = serde_json::json!({
        "sub": "user-4711", "tenant_id": "acme", "roles": ["editor"], "permissions": ["publish"],
        "iat": 1_700_000_000, "exp": 1_800_000_000, "jti": "5f0c2a5e-9b1c-4d37-8a44-6c1f7a0b9d21",
    });
    for (signing, verifying, names) in keys() {
        let verifier = Verifier::new(vec![verifying], ClaimRules::default());
        for name in names {
            let algorithm: Algorithm = name.parse().expect("the library knows it");
            let token = jsonwebtoken::encode(&Header::new(algorithm), &claims, &signing);
            let token = token.expect("the key fits");
            // Of other claims, so of the right form.
            let at = token.find('.').expect("it has three parts") + 20;
            let changed = if &token[at..=at] == "A" { "B" } else { "A" };
            let forged = format!("{}{changed}{}", &token[..at], &token[at + 1..]);
            let run = |token: &str| verifier.verify(black_box(token), UserClaim::Sub, NOW);
            assert!(run(&token).is_ok() && run(&forged).is_err(), "{name}");
            let mut group = criterion.benchmark_group(*name);
            group.bench_function("accept", |bencher| bencher.iter(|| run(&token)));
            group.bench_function("reject", |bencher| bencher.iter(|| run(&forged)));
            group.finish();
        }
    }
}

criterion_group!(benches, verify);
criterion_main!(benches);
