//! The keys with which the kernel encrypts what is sent, as `setsockopt` takes them.

use super::TlsError;
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};
use zeroize::Zeroize as _;

/// Bytes of the largest of the structures.
const STRUCTURE_BYTES_MAX: usize = 56;
/// Ciphers of linux/tls.h.
const AES_GCM_128: u16 = 51;
const AES_GCM_256: u16 = 52;
const CHACHA20_POLY1305: u16 = 54;
/// The part of a nonce of GCM that all records share.
const SALT_BYTES: usize = 4;

/// A structure `tls12_crypto_info_*` of linux/tls.h. It stays at its address until it is dropped, and is
/// wiped then.
///
/// ```text
///   version 2 │ cipher 2 │ nonce │ key │ salt │ sequence number 8
///                          8       16    4      AES-128-GCM
///                          8       32    4      AES-256-GCM
///                          12      32    0      ChaCha20-Poly1305
/// ```
pub struct SendKeys {
    bytes: Box<[u8; STRUCTURE_BYTES_MAX]>,
    length: usize,
}

impl SendKeys {
    /// The keys of a connection, from this sequence number on.
    ///
    /// # Errors
    /// [`TlsError::Suite`] for a cipher or version that the kernel has not.
    pub fn new(
        version: ProtocolVersion,
        (sequence, secrets): &(u64, ConnectionTrafficSecrets),
    ) -> Result<Self, TlsError> {
        let (number, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (AES_GCM_128, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (AES_GCM_256, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (CHACHA20_POLY1305, key, iv),
            _ => return Err(TlsError::Suite),
        };
        let version_number = match version {
            ProtocolVersion::TLSv1_2 => 0x0303,
            ProtocolVersion::TLSv1_3 => 0x0304_u16,
            _ => return Err(TlsError::Suite),
        };
        let is_gcm = number != CHACHA20_POLY1305;
        let salt_bytes = if is_gcm { SALT_BYTES } else { 0 };
        let (salt, nonce) = iv.as_ref().split_at(salt_bytes);
        let mut keys = Self {
            bytes: Box::new([0; STRUCTURE_BYTES_MAX]),
            length: 0,
        };
        keys.append(&version_number.to_ne_bytes());
        keys.append(&number.to_ne_bytes());
        let nonce_at = keys.length;
        keys.append(nonce);
        if is_gcm && version == ProtocolVersion::TLSv1_2 {
            // The kernel counts this up from the first record that it sends. rustls has sent some with
            // this nonce, or it XOR a small number, and none may come twice with one key (RFC 5288 3).
            keys.bytes[nonce_at] ^= 0x80;
        }
        keys.append(key.as_ref());
        keys.append(salt);
        keys.append(&sequence.to_be_bytes());
        Ok(keys)
    }

    fn append(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        self.bytes[self.length..end].copy_from_slice(bytes);
        self.length = end;
    }

    /// The structure.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for SendKeys {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl std::fmt::Debug for SendKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SendKeys")
    }
}
