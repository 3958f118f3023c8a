//! One connection for which the kernel encrypts: what it receives is decrypted here, and what is to be
//! sent is the shard's own bytes, but for the few records that are no data.
//!
//! ```text
//!   rustls ─▶ keys on their way to the kernel ─▶ open ◀──▶ a record that is no data is sent
//!                          ▲                                │
//!                          └────── new keys (TLS 1.3) ◀─────┘
//! ```
//!
//! Nothing of the shard's is sent but while it is open.

use super::TlsError;
use super::records::{Alert, Events, RecordReader};
use super::send_keys::SendKeys;
use super::stream::INCOMING_BYTES_MAX;
use crate::base::memory::Waiting;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{CipherSuite, ExtractedSecrets, ProtocolVersion};
use std::fmt;

/// Blocks of 16 bytes that are encrypted with one key of AES-GCM. RFC 8446 5.5 allows 2^24.5 records of
/// 2^14 bytes; so much smaller ones are no risk, so this counts what the risk depends on.
const BLOCKS_PER_KEY: u64 = 1 << 34;
const BLOCK_BYTES: u64 = 16;
const RECORD_BYTES: u64 = 1 << 14;
/// Type, tag and lengths of a record.
const BLOCKS_PER_RECORD: u64 = 3;

/// Types of records (RFC 8446 5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// A record that is no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// This side changes its keys, after this record.
    KeyUpdate,
    /// Nothing follows.
    CloseNotify,
    /// The peer is at fault, or the connection cannot go on.
    Alert(Alert),
}

impl Control {
    /// Its type.
    #[must_use]
    pub const fn record_type(self) -> u8 {
        match self {
            Self::KeyUpdate => HANDSHAKE,
            Self::CloseNotify | Self::Alert(_) => ALERT,
        }
    }

    /// Its content.
    #[must_use]
    pub const fn bytes(self) -> &'static [u8] {
        match self {
            // RFC 8446 4.6.3: `update_not_requested`.
            Self::KeyUpdate => &[24, 0, 0, 1, 0],
            Self::CloseNotify => &[1, 0],
            Self::Alert(alert) => alert.bytes(),
        }
    }
}

/// What the kernel is doing for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// It gets keys.
    Keys,
    /// It encrypts what is sent.
    Open,
    /// It sends a record that is no data.
    Control(Control),
}

/// The state of a connection for which the kernel encrypts.
pub struct KernelStream {
    reader: RecordReader,
    version: ProtocolVersion,
    suite: CipherSuite,
    /// What the kernel is doing.
    pub sending: Sending,
    /// What is to be sent before anything else.
    control: Option<Control>,
    /// The kernel has had keys; before that, nothing is decrypted.
    pub is_attached: bool,
    /// The socket's sending side is to be shut down when all is sent.
    pub is_ending: bool,
    /// Its socket is to be closed then.
    pub is_closing: bool,
    /// Nothing is received or sent any more.
    pub has_failed: bool,
    /// The peer's end of the socket came before what arrived ahead of it was decrypted.
    pub has_socket_ended: bool,
    /// There was room for a whole record, so that a `close_notify` leaves the kernel before the end.
    pub has_room: bool,
    /// Blocks that were encrypted with the key.
    blocks: u64,
    memory: Waiting,
}

impl fmt::Debug for KernelStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KernelStream")
            .field("sending", &self.sending)
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

impl KernelStream {
    /// A connection that goes on with these secrets and these bytes, and the keys for the kernel.
    pub(super) fn new(
        secrets: &ExtractedSecrets,
        schedule: KernelConnection<ServerConnectionData>,
        incoming: Vec<u8>,
    ) -> Result<(Self, SendKeys), TlsError> {
        let version = schedule.protocol_version();
        let suite = schedule.negotiated_cipher_suite().suite();
        let keys = SendKeys::new(version, &secrets.tx)?;
        let schedule = (version == ProtocolVersion::TLSv1_3).then_some(schedule);
        let mut stream = Self {
            reader: RecordReader::new(&secrets.rx, schedule, incoming)?,
            version,
            suite,
            sending: Sending::Keys,
            control: None,
            is_attached: false,
            is_ending: false,
            is_closing: false,
            has_failed: false,
            has_socket_ended: false,
            has_room: false,
            blocks: 0,
            memory: Waiting::default(),
        };
        stream.count_memory();
        Ok((stream, keys))
    }

    /// The cipher suite.
    #[must_use]
    pub const fn suite(&self) -> CipherSuite {
        self.suite
    }

    /// Whether the connection speaks TLS 1.3.
    #[must_use]
    pub fn is_1_3(&self) -> bool {
        self.reader.is_1_3()
    }

    /// Handles what has arrived, and appends what the peer has sent to `plaintext`. Before the kernel has
    /// its keys it is only kept, and so it is with an error that needs an alert.
    ///
    /// # Errors
    /// [`TlsError`]; nothing is received any more.
    pub fn process(
        &mut self,
        bytes: &mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<Events, TlsError> {
        if self.has_failed {
            return Ok(Events::default());
        }
        let result = if self.is_attached {
            self.reader.process(bytes, plaintext)
        } else if self.reader.kept_bytes() + bytes.len() > INCOMING_BYTES_MAX {
            Err(TlsError::TooLarge)
        } else {
            self.reader.keep(bytes);
            Ok(Events::default())
        };
        if result.is_err() {
            self.has_failed = true;
            self.reader.stop();
        }
        self.count_memory();
        result
    }

    /// Puts a record that is no data ahead of the data. An alert takes the place of anything else, and
    /// nothing that of an alert.
    pub fn queue(&mut self, control: Control) {
        let is_alert = matches!(self.control, Some(Control::Alert(_)));
        let is_end = self.control == Some(Control::CloseNotify);
        if !is_alert && (!is_end || matches!(control, Control::Alert(_))) {
            self.control = Some(control);
        }
    }

    /// Tells the peer that nothing follows; nothing is received any more.
    pub fn notify_close(&mut self) {
        self.is_ending = true;
        self.reader.stop();
        self.count_memory();
        self.queue(Control::CloseNotify);
    }

    /// What is to be sent before anything else.
    #[must_use]
    pub const fn control(&self) -> Option<Control> {
        self.control
    }

    /// Begins to send it.
    pub fn begin_control(&mut self) -> Option<Control> {
        let control = self.control.take()?;
        self.sending = Sending::Control(control);
        Some(control)
    }

    /// Whether the shard's bytes may be sent.
    #[must_use]
    pub fn takes_plaintext(&self) -> bool {
        self.sending == Sending::Open
            && self.control.is_none()
            && !self.is_ending
            && !self.has_failed
    }

    /// New keys for the kernel, which gets them next.
    ///
    /// # Errors
    /// [`TlsError`]; the connection cannot go on.
    pub fn next_keys(&mut self) -> Result<SendKeys, TlsError> {
        let keys = SendKeys::new(self.version, &self.reader.next_send_keys()?)?;
        self.sending = Sending::Keys;
        self.blocks = 0;
        Ok(keys)
    }

    /// Counts bytes that were encrypted; true when another key is needed.
    pub fn count_sent(&mut self, bytes: u32) -> bool {
        let bytes = u64::from(bytes);
        let records = bytes / RECORD_BYTES + 1;
        self.blocks += bytes / BLOCK_BYTES + records * BLOCKS_PER_RECORD;
        self.blocks >= BLOCKS_PER_KEY && self.control != Some(Control::KeyUpdate)
    }

    fn count_memory(&mut self) {
        self.memory.set(self.reader.memory_bytes());
    }
}

#[cfg(test)]
mod tests;
