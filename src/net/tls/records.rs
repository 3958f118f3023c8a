//! The records of a client, decrypted without rustls: after the kernel has the keys for sending, rustls
//! has no part in the connection any more.
//!
//! Receiving stays in the process, although the kernel could decrypt too: what has arrived in part stays
//! where it is, receives that are armed go on, and a record that is no data needs no system call of its
//! own.
//!
//! ```text
//!   type 1 │ version 2 │ length 2 │ TLS 1.3: encrypted (data, type 1, zeroes), tag 16     RFC 8446 5.2
//!                                 │ TLS 1.2: with GCM nonce 8, encrypted data, tag 16     RFC 5246 6.2.3.3
//! ```

use super::TlsError;
use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    UnboundKey,
};
use rustls::ConnectionTrafficSecrets;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;

const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
/// The part of a nonce that is in each record of TLS 1.2 with GCM (RFC 5288 3).
const EXPLICIT_NONCE_BYTES: usize = 8;
/// Most bytes of a record's data.
const DATA_BYTES_MAX: usize = 1 << 14;
/// Most bytes that a record of TLS 1.3 adds to it: type, padding and tag (RFC 8446 5.2).
const EXPANSION_MAX: usize = 256;
/// Most bytes of a KeyUpdate, the only message of a handshake that a client may send at this time.
const KEY_UPDATE_BYTES: usize = 5;
/// Changes of keys, and warnings, that may follow each other without data between them.
const KEY_UPDATES_MAX: u8 = 32;
const WARNINGS_MAX: u8 = 4;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// What an alert says (RFC 8446 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// A record that has no place here.
    UnexpectedMessage,
    /// A record that cannot be decrypted.
    BadRecordMac,
    /// A record that is too long.
    RecordOverflow,
    /// A field with a value that it cannot have.
    IllegalParameter,
    /// A message that does not end where it should.
    DecodeError,
    /// A record of another version.
    ProtocolVersion,
    /// Nothing the peer has done.
    InternalError,
}

impl Alert {
    /// The content of its record.
    #[must_use]
    pub const fn bytes(self) -> &'static [u8] {
        match self {
            Self::UnexpectedMessage => &[2, 10],
            Self::BadRecordMac => &[2, 20],
            Self::RecordOverflow => &[2, 22],
            Self::IllegalParameter => &[2, 47],
            Self::DecodeError => &[2, 50],
            Self::ProtocolVersion => &[2, 70],
            Self::InternalError => &[2, 80],
        }
    }
}

/// What the records say beside their data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The peer has ended its stream (`close_notify`).
    pub has_ended: bool,
    /// It wants this side to change its keys too.
    pub wants_key_update: bool,
}

/// Keys and sequence numbers of what a client sends.
pub(super) struct RecordReader {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
    is_gcm: bool,
    /// Where new keys come from; `None` for TLS 1.2, which has none.
    schedule: Option<KernelConnection<ServerConnectionData>>,
    /// The beginning of a record whose end has not arrived.
    incoming: Vec<u8>,
    /// The beginning of a KeyUpdate in several records.
    message: Vec<u8>,
    has_ended: bool,
    key_updates_left: u8,
    warnings_left: u8,
}

impl RecordReader {
    /// Reads what comes after `incoming`, from this sequence number on.
    ///
    /// # Errors
    /// [`TlsError::Suite`] for a cipher that is not known here.
    pub(super) fn new(
        (sequence, secrets): &(u64, ConnectionTrafficSecrets),
        schedule: Option<KernelConnection<ServerConnectionData>>,
        incoming: Vec<u8>,
    ) -> Result<Self, TlsError> {
        let (key, iv, is_gcm) = key_of(secrets)?;
        Ok(Self {
            key,
            iv,
            sequence: *sequence,
            is_gcm,
            schedule,
            incoming,
            message: Vec::new(),
            has_ended: false,
            key_updates_left: KEY_UPDATES_MAX,
            warnings_left: WARNINGS_MAX,
        })
    }

    /// New keys for what this side sends.
    ///
    /// # Errors
    /// In TLS 1.2 there are none.
    pub(super) fn next_send_keys(&mut self) -> Result<(u64, ConnectionTrafficSecrets), TlsError> {
        let schedule = self.schedule.as_mut().ok_or(TlsError::NoKeyUpdate)?;
        schedule.update_tx_secret().map_err(TlsError::Protocol)
    }

    /// Whether the connection speaks TLS 1.3.
    pub(super) fn is_1_3(&self) -> bool {
        self.schedule.is_some()
    }

    /// Bytes that wait for the rest of their record.
    pub(super) fn memory_bytes(&self) -> usize {
        self.incoming.capacity() + self.message.capacity()
    }

    /// Keeps bytes until [`process`](Self::process).
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
    }

    /// Bytes that are kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.incoming.len()
    }

    /// Nothing is read any more.
    pub(super) fn stop(&mut self) {
        self.has_ended = true;
        self.incoming = Vec::new();
    }

    /// Decrypts the records that are whole, and appends their data to `plaintext`. Less than one record
    /// is kept. After the end of the peer's stream, the rest is ignored (RFC 8446 6.1).
    ///
    /// # Errors
    /// [`TlsError::Record`] with the alert to send, and [`TlsError::AlertReceived`]; nothing can be read
    /// any more.
    pub(super) fn process(
        &mut self,
        bytes: &mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<Events, TlsError> {
        let mut events = Events::default();
        if self.has_ended {
            return Ok(events);
        }
        if self.incoming.is_empty() {
            let consumed = self.read_records(bytes, plaintext, &mut events)?;
            if !self.has_ended {
                self.incoming.extend_from_slice(&bytes[consumed..]);
            }
        } else {
            self.incoming.extend_from_slice(bytes);
            let mut incoming = std::mem::take(&mut self.incoming);
            let consumed = self.read_records(&mut incoming, plaintext, &mut events)?;
            if consumed < incoming.len() && !self.has_ended {
                incoming.drain(..consumed);
                self.incoming = incoming;
            }
        }
        Ok(events)
    }

    /// How many bytes were whole records.
    fn read_records(
        &mut self,
        bytes: &mut [u8],
        plaintext: &mut Vec<u8>,
        events: &mut Events,
    ) -> Result<usize, TlsError> {
        let mut consumed = 0;
        while !self.has_ended
            && let Some(length) = self.record_bytes(&bytes[consumed..])?
        {
            let (kind, data) = self.decrypt(&mut bytes[consumed..consumed + length])?;
            consumed += length;
            match kind {
                DATA if self.message.is_empty() => {
                    self.key_updates_left = KEY_UPDATES_MAX;
                    self.warnings_left = WARNINGS_MAX;
                    plaintext.extend_from_slice(data);
                }
                ALERT if self.message.is_empty() => self.take_alert(data, events)?,
                HANDSHAKE => self.take_message(data, events)?,
                // RFC 8446 5.1: nothing comes between the records of one message. A change of the cipher
                // spec is part of a handshake only.
                _ => return Err(TlsError::Record(Alert::UnexpectedMessage)),
            }
        }
        Ok(consumed)
    }

    /// The length of the first record, as soon as all of it has arrived.
    fn record_bytes(&self, bytes: &[u8]) -> Result<Option<usize>, TlsError> {
        let [kind, major, minor, high, low, ..] = *bytes else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (is_kind, length_min, length_max) = if self.is_1_3() {
            // RFC 8446 5.2: all of them look like data.
            let length_max = DATA_BYTES_MAX + EXPANSION_MAX;
            (kind == DATA, TAG_BYTES + 1, length_max)
        } else {
            let length_min = TAG_BYTES + self.explicit_nonce_bytes();
            let is_kind = (CHANGE_CIPHER_SPEC..=DATA).contains(&kind);
            (is_kind, length_min, length_min + DATA_BYTES_MAX)
        };
        if !is_kind {
            return Err(TlsError::Record(Alert::UnexpectedMessage));
        }
        // RFC 8446 5.1: TLS 1.3 ignores what was the version.
        if !self.is_1_3() && [major, minor] != [3, 3] {
            return Err(TlsError::Record(Alert::ProtocolVersion));
        }
        if length > length_max {
            return Err(TlsError::Record(Alert::RecordOverflow));
        }
        if length < length_min {
            return Err(TlsError::Record(Alert::BadRecordMac));
        }
        let whole = HEADER_BYTES + length;
        Ok((bytes.len() >= whole).then_some(whole))
    }

    const fn explicit_nonce_bytes(&self) -> usize {
        if self.is_gcm { EXPLICIT_NONCE_BYTES } else { 0 }
    }

    /// The type and the content of a record, decrypted in its place.
    fn decrypt<'record>(
        &mut self,
        record: &'record mut [u8],
    ) -> Result<(u8, &'record [u8]), TlsError> {
        let sequence = self.sequence;
        // No connection gets there; a number that comes twice would be a nonce that comes twice.
        let next = sequence.checked_add(1);
        self.sequence = next.ok_or(TlsError::Record(Alert::InternalError))?;
        let failed = |_| TlsError::Record(Alert::BadRecordMac);
        let (header, body) = record.split_at_mut(HEADER_BYTES);
        if self.is_1_3() {
            let nonce = Nonce::assume_unique_for_key(self.nonce_of(sequence));
            let decrypted = self.key.open_in_place(nonce, Aad::from(&*header), body);
            return split_inner(decrypted.map_err(failed)?);
        }
        let (explicit, body) = body.split_at_mut(self.explicit_nonce_bytes());
        let mut nonce = self.iv;
        if self.is_gcm {
            nonce[NONCE_LEN - EXPLICIT_NONCE_BYTES..].copy_from_slice(explicit);
        } else {
            // RFC 7905 2.
            nonce = self.nonce_of(sequence);
        }
        let length = u16::try_from(body.len() - TAG_BYTES).map_err(failed_length)?;
        let mut additional = [0; 8 + HEADER_BYTES];
        additional[..8].copy_from_slice(&sequence.to_be_bytes());
        additional[8..11].copy_from_slice(&header[..3]);
        additional[11..].copy_from_slice(&length.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let decrypted = self.key.open_in_place(nonce, Aad::from(additional), body);
        Ok((header[0], decrypted.map_err(failed)?))
    }

    /// RFC 8446 5.3.
    fn nonce_of(&self, sequence: u64) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, other) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= other;
        }
        nonce
    }

    fn take_alert(&mut self, alert: &[u8], events: &mut Events) -> Result<(), TlsError> {
        /// Level and descriptions that do not end a connection at once.
        const WARNING: u8 = 1;
        const CLOSE_NOTIFY: u8 = 0;
        const USER_CANCELED: u8 = 90;
        let &[level, description] = alert else {
            return Err(TlsError::Record(Alert::DecodeError));
        };
        // RFC 8446 6: the level means nothing in TLS 1.3.
        let is_warning = match self.is_1_3() {
            true => description == USER_CANCELED,
            false => level == WARNING,
        };
        if description == CLOSE_NOTIFY {
            events.has_ended = true;
            self.stop();
            Ok(())
        } else if is_warning && self.warnings_left > 0 {
            self.warnings_left -= 1;
            Ok(())
        } else {
            Err(TlsError::AlertReceived(description))
        }
    }

    /// A part of a message of a handshake: a client may only change its keys (RFC 8446 4.6.3), and in TLS
    /// 1.2 it may say nothing.
    fn take_message(&mut self, part: &[u8], events: &mut Events) -> Result<(), TlsError> {
        /// The type of the message, and its length.
        const KEY_UPDATE: &[u8] = &[24, 0, 0, 1];
        const NOT_REQUESTED: u8 = 0;
        const REQUESTED: u8 = 1;
        let unexpected = TlsError::Record(Alert::UnexpectedMessage);
        // RFC 8446 5.1: no part is empty, and a record ends where the keys change.
        if part.is_empty() || self.message.len() + part.len() > KEY_UPDATE_BYTES {
            return Err(unexpected);
        }
        self.message.extend_from_slice(part);
        let known = self.message.len().min(KEY_UPDATE.len());
        if !self.is_1_3() || self.message[0] != KEY_UPDATE[0] {
            return Err(unexpected);
        }
        if self.message[..known] != KEY_UPDATE[..known] {
            return Err(TlsError::Record(Alert::DecodeError));
        }
        let Some(request) = self.message.get(KEY_UPDATE.len()) else {
            return Ok(());
        };
        events.wants_key_update |= match *request {
            NOT_REQUESTED => false,
            REQUESTED => true,
            _ => return Err(TlsError::Record(Alert::IllegalParameter)),
        };
        self.message = Vec::new();
        self.change_keys()
    }

    fn change_keys(&mut self) -> Result<(), TlsError> {
        let left = self.key_updates_left.checked_sub(1);
        self.key_updates_left = left.ok_or(TlsError::Record(Alert::UnexpectedMessage))?;
        let schedule = self.schedule.as_mut().ok_or(TlsError::NoKeyUpdate)?;
        let (sequence, secrets) = schedule.update_rx_secret().map_err(TlsError::Protocol)?;
        (self.key, self.iv, self.is_gcm) = key_of(&secrets)?;
        self.sequence = sequence;
        Ok(())
    }
}

fn failed_length(_: std::num::TryFromIntError) -> TlsError {
    TlsError::Record(Alert::RecordOverflow)
}

/// The type and the content of a decrypted record of TLS 1.3: behind the type are zeroes (RFC 8446 5.4).
fn split_inner(inner: &[u8]) -> Result<(u8, &[u8]), TlsError> {
    let end = inner.iter().rposition(|byte| *byte != 0);
    let end = end.ok_or(TlsError::Record(Alert::UnexpectedMessage))?;
    if inner.len() > DATA_BYTES_MAX + 1 {
        return Err(TlsError::Record(Alert::RecordOverflow));
    }
    Ok((inner[end], &inner[..end]))
}

/// A key, its nonce, and whether it is of GCM.
fn key_of(
    secrets: &ConnectionTrafficSecrets,
) -> Result<(LessSafeKey, [u8; NONCE_LEN], bool), TlsError> {
    let (algorithm, key, iv): (&Algorithm, _, _) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
        _ => return Err(TlsError::Suite),
    };
    let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| TlsError::Suite)?;
    let iv = iv.as_ref().try_into().map_err(|_| TlsError::Suite)?;
    let is_gcm = algorithm != &CHACHA20_POLY1305;
    Ok((LessSafeKey::new(key), iv, is_gcm))
}
