//! Signs requests to backends of the operator, as the specification Standard Webhooks says
//! (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md):
//!
//! ```text
//!   webhook-id:        id of the message, the same when it is sent again
//!   webhook-timestamp: seconds since 1970-01-01 UTC, when it is sent
//!   webhook-signature: v1,BASE64 for each key, with a space between them
//!                         └─ HMAC-SHA256(key, "ID.TIMESTAMP.BODY")
//! ```

use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::request::Builder;

/// The keys that sign; without any, requests have an id and a time only.
#[derive(Debug, Default)]
pub struct Signer(Vec<Key>);

impl Signer {
    /// A signer with these keys.
    #[must_use]
    pub fn new(keys: &[Vec<u8>]) -> Self {
        let keys = keys.iter().map(|key| Key::new(HMAC_SHA256, key));
        Self(keys.collect())
    }

    /// Adds the headers to a request with this body.
    pub(super) fn sign(&self, request: Builder, id: &str, unix_s: u64, body: &[u8]) -> Builder {
        let request = request
            .header("webhook-id", id)
            .header("webhook-timestamp", unix_s);
        let signatures = self.0.iter().map(|key| {
            let mut context = Context::with_key(key);
            context.update(format!("{id}.{unix_s}.").as_bytes());
            context.update(body);
            format!("v1,{}", BASE64.encode(context.sign()))
        });
        let signatures: Vec<_> = signatures.collect();
        match signatures.is_empty() {
            true => request,
            false => request.header("webhook-signature", signatures.join(" ")),
        }
    }
}

/// A new id of a message, which nobody can guess.
pub(super) fn new_id() -> Result<String, String> {
    let random = [getrandom::u64(), getrandom::u64()];
    let [high, low] = random.map(|number| number.map_err(|error| error.to_string()));
    Ok(format!("msg_{:016x}{:016x}", high?, low?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_has_its_signature() {
        let key = BASE64.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = Signer::new(&[key]).sign(
            http::Request::post("http://127.0.0.1/"),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        let request = signed.body(()).unwrap();
        assert_eq!(
            request.headers()["webhook-signature"],
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        assert_eq!(request.headers()["webhook-timestamp"], "1614265330");
        let unsigned = Signer::default().sign(http::Request::post("/"), "a", 1, b"");
        assert!(
            !unsigned
                .headers_ref()
                .unwrap()
                .contains_key("webhook-signature")
        );
    }
}
