//! Certificates and keys from files, one of them for each name of the server (SNI, RFC 6066 3), and the
//! configuration of rustls with them.

use crate::base::Now;
use crate::config::CertificatePair;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: Duration = Duration::from_secs(86_400);
/// What the server speaks (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// Why a file of certificates or keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFileError {
    path: PathBuf,
    reason: String,
}

impl TlsFileError {
    fn new(path: &Path, reason: impl ToString) -> Self {
        Self {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}

impl fmt::Display for TlsFileError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for TlsFileError {}

/// The certificates of the process, which may be read again while it runs.
#[derive(Debug)]
pub struct Certificates {
    files: Vec<CertificatePair>,
    /// In the order of the files; the first one is for names that none is for.
    keys: RwLock<Arc<[Arc<CertifiedKey>]>>,
}

impl Certificates {
    /// Reads them.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn read(files: Vec<CertificatePair>) -> Result<Arc<Self>, TlsFileError> {
        let keys = RwLock::new(read_all(&files)?);
        Ok(Arc::new(Self { files, keys }))
    }

    /// A certificate for this host, made on the spot, which no client trusts; for ninety days.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn self_signed(now: Now) -> Result<Arc<Self>, TlsFileError> {
        let failed = |error: &dyn fmt::Display| TlsFileError::new(Path::new("self-signed"), error);
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let mut wanted = CertificateParams::new(names).map_err(|error| failed(&error))?;
        let today = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(now.unix_ms);
        // The clocks of clients may be behind.
        wanted.not_before = today - DAY;
        wanted.not_after = today + 90 * DAY;
        let made = wanted.self_signed(&key).map_err(|error| failed(&error))?;
        let key = PrivateKeyDer::try_from(key.serialize_der());
        let key = key.map_err(|error| failed(&error))?;
        let chain = vec![made.der().clone()];
        let key = CertifiedKey::from_der(chain, key, &provider());
        let key = key.map_err(|error| failed(&error))?;
        Ok(Arc::new(Self {
            files: Vec::new(),
            keys: RwLock::new(Arc::new([Arc::new(key)])),
        }))
    }

    /// Whether it was made on the spot.
    #[must_use]
    pub fn is_self_signed(&self) -> bool {
        self.files.is_empty()
    }

    /// When the files were changed last, so far as that is known.
    #[must_use]
    pub fn changed_at(&self) -> Vec<Option<SystemTime>> {
        let paths = self
            .files
            .iter()
            .flat_map(|files| [&files.certificate, &files.key]);
        let changed = paths.map(|path| fs::metadata(path).and_then(|it| it.modified()).ok());
        changed.collect()
    }

    /// When the first of them expires, seconds since 1970-01-01 UTC; 0 if that cannot be read.
    #[must_use]
    pub fn expiry_unix_s(&self) -> u64 {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let expiries = keys.iter().filter_map(|key| {
            let (_, certificate) = X509Certificate::from_der(key.end_entity_cert().ok()?).ok()?;
            u64::try_from(certificate.validity().not_after.timestamp()).ok()
        });
        expiries.min().unwrap_or(0)
    }

    /// Reads them again, for connections that begin from now on.
    ///
    /// # Errors
    /// The first file that cannot be used; all stay as they were.
    pub fn read_again(&self) -> Result<(), TlsFileError> {
        if self.is_self_signed() {
            return Ok(());
        }
        let keys = read_all(&self.files)?;
        // A panic cannot leave it half changed.
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// The configuration of a listener. With `client_roots`, clients must have a certificate of one of
    /// these. With `kernel`, the kernel may get the keys of connections.
    ///
    /// # Errors
    /// The file of `client_roots`, if it cannot be used.
    pub fn config(
        self: &Arc<Self>,
        versions: &[&'static SupportedProtocolVersion],
        client_roots: Option<&Path>,
        kernel: bool,
    ) -> Result<Arc<ServerConfig>, TlsFileError> {
        let unusable = |error: rustls::Error| TlsFileError::new(Path::new("tls"), error);
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(versions).map_err(unusable)?;
        let builder = match client_roots {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in read_certificates(path)? {
                    let added = roots.add(certificate);
                    added.map_err(|error| TlsFileError::new(path, error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
                let verifier = verifier.build();
                let verifier = verifier.map_err(|error| TlsFileError::new(path, error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        let mut config = builder.with_cert_resolver(resolver);
        config.ignore_client_order = true;
        config.enable_secret_extraction = kernel;
        // One for the next connection, which gets the one after it (RFC 8446 C.4).
        config.send_tls13_tickets = 1;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Tickets hold the session; the server remembers none.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let keys = Arc::clone(&keys);
        let name = hello.server_name();
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| keys.iter().find(|key| is_for(key, &name)).cloned());
        named.or_else(|| keys.first().cloned())
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let certificate = key.end_entity_cert().ok();
    let certificate = certificate.and_then(|it| ParsedCertificate::try_from(it).ok());
    certificate
        .is_some_and(|certificate| rustls::client::verify_server_name(&certificate, name).is_ok())
}

/// Those of rustls, AES with 128 bits first: as safe for a connection, and its handshake and its records
/// cost less.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
            _ => 1,
        });
    Arc::new(provider)
}

fn read_all(files: &[CertificatePair]) -> Result<Arc<[Arc<CertifiedKey>]>, TlsFileError> {
    files.iter().map(read_key).collect()
}

fn read_key(files: &CertificatePair) -> Result<Arc<CertifiedKey>, TlsFileError> {
    let chain = read_certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| TlsFileError::new(&files.key, error))?;
    let key = CertifiedKey::from_der(chain, key, &provider());
    let key = key.map_err(|error| TlsFileError::new(&files.key, error))?;
    Ok(Arc::new(key))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let failed = |error| TlsFileError::new(path, error);
    let certificates = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(failed)?;
    if certificates.is_empty() {
        return Err(TlsFileError::new(path, "it has no certificate"));
    }
    Ok(certificates)
}
