//! Settings of TLS.

use super::declaration::settings;
use super::listener::{Listener, Routes};
use super::value::{SettingType, SettingValue};
use std::borrow::Cow;
use std::path::PathBuf;

/// The files of a certificate, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificatePair {
    /// The certificate, and its chain behind it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl SettingType for Vec<CertificatePair> {
    fn rule() -> Cow<'static, str> {
        "a list of strings \"CERTIFICATE KEY\", two files each, whose names have no spaces".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        let pairs = texts.iter().map(|text| {
            let mut words = text.split_whitespace().map(PathBuf::from);
            let (certificate, key) = (words.next()?, words.next()?);
            let pair = CertificatePair { certificate, key };
            words.next().is_none().then_some(pair)
        });
        pairs.collect()
    }

    fn show(&self) -> Option<String> {
        let pairs = self
            .iter()
            .map(|pair| format!("{} {}", pair.certificate.display(), pair.key.display()));
        pairs.collect::<Vec<_>>().show()
    }
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

impl SettingType for TlsVersion {
    fn rule() -> Cow<'static, str> {
        "`1.2` or `1.3`".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        match value.as_str()?.trim() {
            "1.2" => Some(Self::V1_2),
            "1.3" => Some(Self::V1_3),
            _ => None,
        }
    }

    fn show(&self) -> Option<String> {
        let text = match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        };
        text.to_owned().show()
    }
}

/// Ports, in any order.
impl SettingType for Vec<u16> {
    fn rule() -> Cow<'static, str> {
        "a list of ports".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        texts.iter().map(|text| text.parse().ok()).collect()
    }

    fn show(&self) -> Option<String> {
        let ports = self.iter().map(u16::to_string);
        ports.collect::<Vec<_>>().show()
    }
}

settings! {
    /// Settings of TLS.
    pub struct TlsSettings {
        /// Speak TLS (`wss` and `https`) on the listeners of clients. Certificates imply it. Without
        /// any, in development mode, the server makes one for itself, which no client trusts.
        tls: bool = false, flag = Some("");
        /// Certificates, each "CERTIFICATE KEY": the PEM files of a certificate with its chain, and of its
        /// private key. A client receives the first one that is for the name it asks for (SNI), else the
        /// first of all. They are read again on SIGHUP, and when a file changes.
        tls_certificates: Vec<CertificatePair> = Vec::new(), flag = Some("CERTIFICATE KEY,…");
        /// The listeners that speak TLS, by port; not set: all of clients.
        tls_ports: Vec<u16> = Vec::new();
        /// PEM file of authorities; clients must have a certificate of one of them.
        tls_client_roots: Option<PathBuf> = None;
        /// The oldest version of TLS that is spoken.
        tls_min_version: TlsVersion = TlsVersion::V1_2;
        /// Let the kernel encrypt what is sent, after the handshake. Where the kernel has no TLS, the
        /// server does it.
        tls_kernel: bool = false, flag = Some("");
    }
}

impl TlsSettings {
    /// Whether any listener speaks TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.tls || !self.tls_certificates.is_empty()
    }

    /// Whether this listener does.
    #[must_use]
    pub fn is_on_for(&self, listener: &Listener) -> bool {
        let is_for_clients = listener.routes != Routes::Admin;
        let is_named = match self.tls_ports.as_slice() {
            [] => is_for_clients,
            ports => ports.contains(&listener.address.port()),
        };
        self.is_on() && is_named
    }
}
