//! TLS of the listeners: certificates from the settings, and read again while the server runs.

use super::error::StartError;
use crate::base::{Now, ProcessState};
use crate::config::{Listener, TlsSettings, TlsVersion};
use crate::net::tls::Certificates;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Time between two looks whether files have changed, milliseconds.
const LOOK_MS: u64 = 5_000;

/// How often the process was asked to read its files again.
static READ_AGAIN: AtomicU64 = AtomicU64::new(0);

/// Asks all servers of this process to read their certificates again.
pub(super) fn read_again() {
    // Relaxed: nothing else belongs to it.
    READ_AGAIN.fetch_add(1, Ordering::Relaxed);
}

/// The configuration of each listener, `None` where it speaks no TLS.
pub(super) type TlsConfigs = Vec<Option<Arc<ServerConfig>>>;

/// Reads the certificates that the settings name.
pub(super) fn start(
    settings: &TlsSettings,
    listeners: &[Listener],
    process_state: &Arc<ProcessState>,
    now: Now,
) -> Result<(TlsConfigs, Option<CertificateWatch>), StartError> {
    if !settings.is_on() {
        return Ok((Vec::new(), None));
    }
    let certificates = match settings.tls_certificates.as_slice() {
        [] => Certificates::self_signed(now),
        files => Certificates::read(files.to_vec()),
    };
    let certificates = certificates.map_err(StartError::Tls)?;
    let versions: &[&'static SupportedProtocolVersion] = match settings.tls_min_version {
        TlsVersion::V1_2 => &[&TLS12, &TLS13],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let client_roots = settings.tls_client_roots.as_deref();
    let config = certificates.config(versions, client_roots, settings.tls_kernel);
    let config = config.map_err(StartError::Tls)?;
    let configs = listeners.iter().map(|listener| {
        let is_on = settings.is_on_for(listener);
        is_on.then(|| Arc::clone(&config))
    });
    let watch = CertificateWatch::new(certificates, Arc::clone(process_state));
    Ok((configs.collect(), Some(watch)))
}

/// Looks for certificates that have changed.
#[derive(Debug)]
pub(super) struct CertificateWatch {
    certificates: Arc<Certificates>,
    process_state: Arc<ProcessState>,
    changed_at: Vec<Option<SystemTime>>,
    read_again: u64,
    looked_ms: u64,
}

impl CertificateWatch {
    fn new(certificates: Arc<Certificates>, process_state: Arc<ProcessState>) -> Self {
        let watch = Self {
            changed_at: certificates.changed_at(),
            certificates,
            process_state,
            read_again: READ_AGAIN.load(Ordering::Relaxed),
            looked_ms: 0,
        };
        watch.note_expiry();
        watch
    }

    fn note_expiry(&self) {
        let expiry = self.certificates.expiry_unix_s();
        // Relaxed: nothing else belongs to it.
        let expiries = &self.process_state.certificate_expiry;
        expiries.store(expiry, Ordering::Relaxed);
    }

    /// Reads the certificates again if somebody has asked for that, or a file has changed.
    pub(super) fn look(&mut self, now_ms: u64) {
        let requests = READ_AGAIN.load(Ordering::Relaxed);
        let is_requested = std::mem::replace(&mut self.read_again, requests) != requests;
        if !is_requested && now_ms < self.looked_ms + LOOK_MS {
            return;
        }
        self.looked_ms = now_ms;
        let changed_at = self.certificates.changed_at();
        let has_changed = std::mem::replace(&mut self.changed_at, changed_at) != self.changed_at;
        if !is_requested && !has_changed {
            return;
        }
        match self.certificates.read_again() {
            Ok(()) => {
                self.note_expiry();
                tracing::info!(target: "fanwire::tls", "certificates were read again");
            }
            Err(error) => tracing::error!(
                target: "fanwire::tls",
                %error,
                "certificates were not read again; those in use stay"
            ),
        }
    }
}
