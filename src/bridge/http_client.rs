//! Requests to other hosts: bounded in time and size, without redirects.

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::time::Duration;

/// Time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of a body that nobody needs, and that is read so that its connection can be used again.
const IGNORED_BYTES_MAX: usize = 4 * 1024;
/// Idle connections to one host.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// A client for HTTP and, if it is made for such a URL, HTTPS; certificates are checked against those
/// that the host trusts.
#[derive(Clone, Debug)]
pub struct HttpClient(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl HttpClient {
    /// A client without connections for requests to this URL.
    ///
    /// # Errors
    /// When it is an https URL and the host has no certificates to trust.
    pub fn for_url(url: &str) -> io::Result<Self> {
        // Fails when the embedding program has chosen a library already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        // Minimal container images have no certificates, and need none for other URLs.
        let scheme = url.get(..6).unwrap_or_default();
        let builder = match scheme.eq_ignore_ascii_case("https:") {
            true => HttpsConnectorBuilder::new().with_native_roots()?,
            false => HttpsConnectorBuilder::new().with_tls_config(trusting_nobody()),
        };
        let connector = builder
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        Ok(Self(client))
    }

    /// The status of the answer, whatever its body is.
    ///
    /// # Errors
    /// What failed, as text.
    pub async fn send_for_status(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<StatusCode, String> {
        let sent = self.0.request(request).await;
        let answer = sent.map_err(|error| with_causes(&error))?;
        let status = answer.status();
        // A connection whose answer is read to its end can be used again; another one is closed.
        let _ = Limited::new(answer.into_body(), IGNORED_BYTES_MAX)
            .collect()
            .await;
        Ok(status)
    }

    /// Status and body of the answer.
    ///
    /// # Errors
    /// What failed, as text; also when the body is longer than `body_bytes_max`.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        body_bytes_max: usize,
    ) -> Result<(StatusCode, Bytes), String> {
        let sent = self.0.request(request).await;
        let answer: Response<_> = sent.map_err(|error| with_causes(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), body_bytes_max);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    }
}

fn trusting_nobody() -> ClientConfig {
    ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

/// The error and its causes, none of which contains the request.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
