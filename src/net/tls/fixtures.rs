//! For tests: clients of rustls, and what a kernel does with the keys it gets.

use super::{Certificates, SendKeys};
use crate::base::Now;
use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct};
use rustls::{ServerConfig, SignatureScheme};
use std::sync::Arc;

/// The cipher suites for the certificate of the tests.
pub(crate) const SUITES: [CipherSuite; 6] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// Whether a suite is one of TLS 1.3.
pub(crate) fn is_1_3(suite: CipherSuite) -> bool {
    SUITES[..3].contains(&suite)
}

/// Takes any certificate.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
        ]
    }
}

/// The configuration of a server with a certificate made on the spot.
pub(crate) fn server_config(kernel: bool) -> Arc<ServerConfig> {
    let certificates = Certificates::self_signed(Now::at(0, 1_800_000_000_000)).unwrap();
    certificates
        .config(&[&TLS12, &TLS13], None, kernel)
        .unwrap()
}

/// A client that knows these suites.
pub(crate) fn client(suites: &[CipherSuite]) -> ClientConnection {
    client_in_fragments(suites, None)
}

/// The same, with records of at most so many bytes.
pub(crate) fn client_in_fragments(
    suites: &[CipherSuite],
    record_bytes_max: Option<usize>,
) -> ClientConnection {
    let mut provider = default_provider();
    let is_known = |suite: CipherSuite| suites.contains(&suite);
    provider.cipher_suites.retain(|it| is_known(it.suite()));
    let version = if is_1_3(suites[0]) { &TLS13 } else { &TLS12 };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.max_fragment_size = record_bytes_max;
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    client.set_buffer_limit(None);
    client
}

/// xorshift64 (Marsaglia, 2003).
pub(crate) fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// A number less than `end`.
pub(crate) fn below(seed: &mut u64, end: usize) -> usize {
    usize::try_from(next(seed) % u64::try_from(end).unwrap()).unwrap()
}

/// Encrypts as the kernel does with the keys that it was given (net/tls/tls_sw.c).
pub(crate) struct KernelEncryptor {
    key: LessSafeKey,
    is_1_3: bool,
    is_gcm: bool,
    /// Salt and nonce.
    iv: [u8; 12],
    sequence: u64,
}

impl KernelEncryptor {
    /// With the structure that `setsockopt` gets.
    pub(crate) fn new(keys: &SendKeys) -> Self {
        let bytes = keys.bytes();
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let (algorithm, nonce, key, salt) = match number(2) {
            51 => (&AES_128_GCM, 8, 16, 4),
            52 => (&AES_256_GCM, 8, 32, 4),
            54 => (&CHACHA20_POLY1305, 12, 32, 0),
            other => panic!("cipher {other}"),
        };
        let (nonce, rest) = bytes[4..].split_at(nonce);
        let (key, rest) = rest.split_at(key);
        let (salt, sequence) = rest.split_at(salt);
        Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap()),
            is_1_3: number(0) == 0x0304,
            is_gcm: salt.len() == 4,
            iv: [salt, nonce].concat().try_into().unwrap(),
            sequence: u64::from_be_bytes(sequence.try_into().unwrap()),
        }
    }

    /// One record of this type.
    pub(crate) fn record(&mut self, record_type: u8, content: &[u8]) -> Vec<u8> {
        let mut nonce = self.iv;
        let counts = self.is_gcm && !self.is_1_3;
        if !counts {
            for (byte, other) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
                *byte ^= other;
            }
        }
        let mut body = content.to_vec();
        let header = |kind: u8, length: usize| {
            let length = u16::try_from(length).unwrap().to_be_bytes();
            [kind, 3, 3, length[0], length[1]]
        };
        let (head, additional) = if self.is_1_3 {
            body.push(record_type);
            let head = header(23, body.len() + 16);
            (head, head.to_vec())
        } else {
            let explicit = if counts { 8 } else { 0 };
            let of_plain = header(record_type, body.len());
            let additional = [&self.sequence.to_be_bytes()[..], &of_plain].concat();
            (header(record_type, explicit + body.len() + 16), additional)
        };
        let sealed_with = Nonce::assume_unique_for_key(nonce);
        let sealed =
            self.key
                .seal_in_place_append_tag(sealed_with, Aad::from(additional), &mut body);
        sealed.unwrap();
        self.sequence += 1;
        let mut record = head.to_vec();
        if counts {
            record.extend_from_slice(&nonce[4..]);
            let count = u64::from_be_bytes(nonce[4..].try_into().unwrap());
            self.iv[4..].copy_from_slice(&count.wrapping_add(1).to_be_bytes());
        }
        record.extend(body);
        record
    }
}
