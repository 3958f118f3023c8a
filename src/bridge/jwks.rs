//! Fetches a JWK set again and again.

use super::http_client::HttpClient;
use crate::auth::{FetchedKeys, TokenAlgorithm, VerificationKey};
use http::{Request, StatusCode};
use http_body_util::Full;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Time for one fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest time between two fetches that tokens with unknown keys cause.
const OUTDATED_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two looks whether a fetch is due.
const TICK: Duration = Duration::from_millis(500);
/// Shortest time until a fetch that failed is tried again; it doubles with each failure.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Bytes of a JWK set.
const SET_BYTES_MAX: usize = 256 * 1024;

/// Where a JWK set is, and where its keys go.
#[derive(Clone, Debug)]
pub struct JwksConfig {
    /// The address.
    pub url: String,
    /// Time between two fetches.
    pub interval: Duration,
    /// The algorithms that the keys may verify; none = those of their kind.
    pub algorithms: Vec<TokenAlgorithm>,
    /// The keys.
    pub keys: Arc<FetchedKeys>,
}

/// Fetches once; if it fails, tokens of its keys are rejected until a later fetch succeeds.
pub(super) async fn fetch_first(config: &JwksConfig) {
    if let Err(error) = fetch(config).await {
        tracing::warn!(%error, url = %without_query(&config.url), "cannot fetch the JWK set");
    }
}

/// Fetches at each interval, sooner after a failure or when a token has named an unknown key. The
/// known keys stay until a fetch succeeds.
pub(super) async fn refresh(config: JwksConfig) {
    let mut fetched = Instant::now();
    let mut wait = RETRY_MIN;
    let mut is_failed = config.keys.is_empty();
    loop {
        tokio::time::sleep(TICK).await;
        let passed = fetched.elapsed();
        let is_outdated = passed >= OUTDATED_INTERVAL && config.keys.take_outdated();
        let due = if is_failed { wait } else { config.interval };
        if passed < due && !is_outdated {
            continue;
        }
        fetched = Instant::now();
        match fetch(&config).await {
            Ok(count) => {
                if is_failed {
                    tracing::info!(keys = count, "the JWK set is fetched again");
                }
                (is_failed, wait) = (false, RETRY_MIN);
            }
            Err(error) => {
                let url = without_query(&config.url);
                tracing::warn!(%error, %url, "cannot fetch the JWK set; the known keys stay");
                wait = (wait * 2).min(config.interval.max(RETRY_MIN));
                is_failed = true;
            }
        }
    }
}

pub(super) async fn fetch(config: &JwksConfig) -> Result<usize, String> {
    let request = Request::get(&config.url)
        .header("accept", "application/json")
        .body(Full::default())
        .map_err(|error| error.to_string())?;
    let client = HttpClient::for_url(&config.url).map_err(|error| error.to_string())?;
    let sent = tokio::time::timeout(FETCH_TIMEOUT, client.send(request, SET_BYTES_MAX)).await;
    let (status, body) = sent.map_err(|_| "no answer in 10 s".to_owned())??;
    if status != StatusCode::OK {
        return Err(format!("the answer is {status}"));
    }
    let keys = VerificationKey::from_jwk_set(&body).map_err(|error| error.to_string())?;
    let keys = keys
        .into_iter()
        .map(|key| key.limited_if(&config.algorithms));
    let keys: Vec<_> = keys.filter(|key| !key.algorithms().is_empty()).collect();
    if keys.is_empty() {
        return Err("no key of the set can verify tokens".to_owned());
    }
    let count = keys.len();
    config.keys.replace(keys);
    Ok(count)
}

/// An address may have a secret in its query.
fn without_query(url: &str) -> &str {
    url.split_once('?').map_or(url, |(path, _)| path)
}
