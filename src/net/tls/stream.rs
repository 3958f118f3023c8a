//! One connection's TLS, between the socket and the shard: records in, plaintext out, and back.
//!
//! ```text
//!   received ─▶ incoming, if a record is not whole ─▶ plaintext ─▶ Shard
//!   Shard's send queue ─▶ plaintext of one send ─▶ outgoing ─▶ sent
//! ```
//!
//! `outgoing` is what one send in flight reads from: nothing touches it until the kernel has taken all of
//! it, and then its memory is given back; what is encrypted meanwhile waits in `next`. An idle connection
//! has none of the buffers.
//!
//! If the kernel is to encrypt, rustls is shown no record that follows the handshake: they wait in
//! `incoming` until the kernel has the keys, and the stream is a [`KernelStream`] from then on.

use super::{Alert, KernelStream, SendKeys};
use crate::base::memory::Waiting;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus,
};
use rustls::{CipherSuite, ServerConfig};
use std::fmt;
use std::sync::Arc;

/// Bytes that may wait for the rest of a record or of a message of the handshake. A message of 64 KiB is
/// the largest that rustls takes, in records of any size.
pub(super) const INCOMING_BYTES_MAX: usize = 80 * 1024;
/// What a record adds at most to its 16 KiB of plaintext (RFC 8446 5.2).
const RECORD_OVERHEAD: usize = 256;
const RECORD_BYTES: usize = 16 * 1024;
/// A record's type, version and length.
const RECORD_HEADER_BYTES: usize = 5;
/// A `close_notify`, encrypted, is smaller.
const CLOSE_NOTIFY_BYTES: usize = 128;
/// The answer to an HTTP request without TLS.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 23\r\n\r\nThis port speaks TLS.\r\n";

/// Why a connection cannot go on.
#[derive(Debug)]
pub enum TlsError {
    /// The peer, or what came instead of it.
    Protocol(rustls::Error),
    /// An HTTP request without TLS; the answer to it is in the output.
    PlainHttp,
    /// It has failed before.
    Failed,
    /// More arrived for one message of the handshake than may wait.
    TooLarge,
    /// A record that is wrong; the peer gets this alert.
    Record(Alert),
    /// The peer has ended the connection by an alert with this description.
    AlertReceived(u8),
    /// A cipher or version that the kernel does not have.
    Suite,
    /// The kernel did not take the keys; its error.
    SendKeys(i32),
    /// New keys are needed for sending, which the version or the kernel does not have.
    NoKeyUpdate,
    /// So much was encrypted with a key that another is needed, which cannot be had.
    KeyLimit,
}

impl fmt::Display for TlsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(error) => error.fmt(formatter),
            Self::PlainHttp => formatter.write_str("an HTTP request without TLS"),
            Self::Failed => formatter.write_str("the connection has failed"),
            Self::TooLarge => formatter.write_str("a message of the handshake is too large"),
            Self::Record(alert) => write!(formatter, "a wrong record: {alert:?}"),
            Self::AlertReceived(number) => write!(formatter, "the peer has sent alert {number}"),
            Self::Suite => formatter.write_str("the kernel has no such cipher"),
            Self::SendKeys(number) => {
                let error = std::io::Error::from_raw_os_error(*number);
                write!(formatter, "the kernel did not take the keys: {error}")
            }
            Self::KeyLimit => formatter.write_str("too much was encrypted with one key"),
            Self::NoKeyUpdate => {
                formatter.write_str("the keys for sending cannot be changed on this kernel")
            }
        }
    }
}

/// Whether the kernel is to encrypt for a connection after its handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelOffer {
    /// It is not.
    #[default]
    None,
    /// It has yet to say whether it can.
    Pending,
    /// It can.
    Accepted,
}

/// The TLS state of one connection.
pub struct TlsStream {
    connection: UnbufferedServerConnection,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// How much of `outgoing` the kernel has taken.
    written: usize,
    next: Vec<u8>,
    /// Bytes of the shard's send queue that are in `outgoing`, or in `next` before they are sent.
    plaintext: u32,
    /// A send reads from `outgoing`.
    pub(crate) is_sending: bool,
    /// It waits in the queue of handshakes.
    pub(crate) is_queued: bool,
    /// The handshake is done.
    pub(crate) is_open: bool,
    is_open_noted: bool,
    is_sender_noted: bool,
    /// The socket's sending side is to be shut down when all is sent.
    pub(crate) is_ending: bool,
    /// The connection is to be closed, when the alert is sent.
    pub(crate) has_failed: bool,
    has_notified: bool,
    /// What looks like TLS has arrived.
    has_begun: bool,
    /// Whether the kernel is to encrypt.
    pub kernel: KernelOffer,
    /// The peer's end of the socket came while what arrived ahead of it waits.
    pub(crate) has_socket_ended: bool,
    /// Where the first record begins, in what is not handled, that rustls has not been shown whole. It may have
    /// moved what is in front of it.
    next_record: usize,
    memory: Waiting,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TlsStream")
            .field("is_open", &self.is_open)
            .field("outgoing", &self.outgoing.len())
            .finish_non_exhaustive()
    }
}

/// What the kernel has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A part.
    Partly,
    /// All of it, with so many bytes of the shard's send queue.
    Whole(u32),
}

impl TlsStream {
    /// A connection that begins with its handshake.
    ///
    /// # Errors
    /// The error of rustls, when the configuration has no cipher suites.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            written: 0,
            next: Vec::new(),
            plaintext: 0,
            is_sending: false,
            is_queued: false,
            is_open: false,
            is_open_noted: false,
            is_sender_noted: false,
            is_ending: false,
            has_failed: false,
            has_notified: false,
            has_begun: false,
            kernel: KernelOffer::None,
            next_record: 0,
            has_socket_ended: false,
            memory: Waiting::default(),
        })
    }

    /// Whether the handshake is done and the server encrypts itself, once.
    pub fn has_just_stayed(&mut self) -> bool {
        let stays = self.is_open && self.kernel == KernelOffer::None;
        stays && !std::mem::replace(&mut self.is_sender_noted, true)
    }

    /// The cipher suite, once it is agreed upon.
    pub fn suite(&self) -> Option<CipherSuite> {
        let suite = self.connection.negotiated_cipher_suite();
        suite.map(|suite| suite.suite())
    }

    #[cfg(test)]
    pub(super) fn into_secrets(
        self,
    ) -> (
        rustls::ExtractedSecrets,
        rustls::kernel::KernelConnection<rustls::server::ServerConnectionData>,
    ) {
        self.connection.dangerous_into_kernel_connection().unwrap()
    }

    /// Whether what arrives after the handshake waits until the kernel has the keys.
    pub fn is_waiting_for_kernel(&self) -> bool {
        self.is_open && self.kernel != KernelOffer::None
    }

    /// Whether the kernel may get the keys: all that the handshake has said is sent.
    pub fn may_leave_to_kernel(&self) -> bool {
        self.is_open
            && self.kernel == KernelOffer::Accepted
            && !self.is_sending
            && !self.has_output()
            && !self.is_ending
            && !self.has_notified
            && !self.has_failed
    }

    /// The connection without rustls, and the keys for the kernel. Nothing may be sent before the kernel
    /// has them.
    ///
    /// # Errors
    /// [`TlsError`]; the connection cannot go on.
    pub fn into_kernel(self) -> Result<(KernelStream, SendKeys), TlsError> {
        let extracted = self.connection.dangerous_into_kernel_connection();
        let (secrets, schedule) = extracted.map_err(TlsError::Protocol)?;
        let (mut stream, keys) = KernelStream::new(&secrets, schedule, self.incoming)?;
        stream.has_socket_ended = self.has_socket_ended;
        Ok((stream, keys))
    }

    /// Whether so many bytes more may be kept.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.incoming.len() + bytes <= INCOMING_BYTES_MAX
    }

    /// Whether the handshake is done, once.
    pub fn has_just_opened(&mut self) -> bool {
        self.is_open && !std::mem::replace(&mut self.is_open_noted, true)
    }

    /// Keeps bytes until [`process`](Self::process).
    ///
    /// # Errors
    /// [`TlsError::TooLarge`], and what begins like an HTTP request is [`TlsError::PlainHttp`].
    pub fn keep(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        let first = self.incoming.first().or(bytes.first());
        if !self.has_begun && first.is_some_and(u8::is_ascii_uppercase) {
            self.next = PLAIN_HTTP.to_vec();
            self.has_failed = true;
            return Err(TlsError::PlainHttp);
        }
        self.has_begun = true;
        if !self.has_room_for(bytes.len()) {
            return Err(TlsError::TooLarge);
        }
        self.incoming.extend_from_slice(bytes);
        self.count_memory();
        Ok(())
    }

    /// Handles what has arrived, and appends what the peer has sent to `plaintext`; true when the peer
    /// has ended its stream (`close_notify`). An answer may be in `outgoing` then, also after an error.
    ///
    /// # Errors
    /// [`TlsError`]; the connection cannot go on.
    pub fn process(&mut self, bytes: &mut [u8], plaintext: &mut Vec<u8>) -> Result<bool, TlsError> {
        // rustls asserts that nothing follows a fatal alert.
        if self.has_failed {
            return Err(TlsError::Failed);
        }
        // After its own end nothing is wanted but the end of the socket, and rustls asserts, in debug
        // builds, that no alert follows.
        if self.has_notified {
            return Ok(false);
        }
        if self.is_waiting_for_kernel() {
            if self.has_room_for(bytes.len()) {
                return self.keep(bytes).map(|()| false);
            }
            // The client does not take what the handshake has to say, so rustls goes on.
            self.kernel = KernelOffer::None;
        }
        let result = self.process_with_incoming(bytes, plaintext);
        self.has_failed = result.is_err();
        self.count_memory();
        result
    }

    fn process_with_incoming(
        &mut self,
        bytes: &mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<bool, TlsError> {
        if self.incoming.is_empty() {
            let (consumed, result) = self.process_records(bytes, plaintext);
            let rest = &bytes[consumed..];
            match result {
                Ok(has_ended) if rest.is_empty() => Ok(has_ended),
                Ok(has_ended) => self.keep(rest).map(|()| has_ended),
                error => error,
            }
        } else {
            self.keep(bytes)?;
            let mut incoming = std::mem::take(&mut self.incoming);
            let (consumed, result) = self.process_records(&mut incoming, plaintext);
            if consumed < incoming.len() {
                incoming.drain(..consumed);
                self.incoming = incoming;
            }
            result
        }
    }

    /// How much of `bytes` was handled, and whether the peer has ended its stream.
    ///
    /// rustls remembers places in the bytes that it has looked at: what is not handled must come again
    /// with the next call, at the beginning.
    fn process_records(
        &mut self,
        bytes: &mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> (usize, Result<bool, TlsError>) {
        let (mut consumed, mut has_ended) = (0, false);
        // What rustls is shown: one record more at a time if it may not see what follows the handshake,
        // and never less than before.
        let (mut shown, mut next) = match self.kernel {
            KernelOffer::None => (bytes.len(), bytes.len()),
            _ => record_end(bytes, self.next_record),
        };
        loop {
            let ahead = (shown < bytes.len()).then(|| record_end(bytes, next));
            let rest = &mut bytes[consumed..shown];
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(rest);
            consumed += discard;
            self.next_record = next.saturating_sub(consumed);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                consumed += record.discard;
                                plaintext.extend_from_slice(record.payload);
                            }
                            Err(error) => return (consumed, Err(TlsError::Protocol(error))),
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.next),
                // It is sent as soon as nothing else is in flight.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => has_ended = true,
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.is_open = true;
                    return (consumed, Ok(has_ended));
                }
                Ok(_) => match ahead {
                    Some(ahead) => (shown, next) = ahead,
                    None => return (consumed, Ok(has_ended)),
                },
                Err(error) => {
                    let rest = &mut bytes[consumed..shown];
                    let status = self.connection.process_tls_records(rest);
                    if let Ok(ConnectionState::EncodeTlsData(mut alert)) = status.state {
                        encode(&mut alert, &mut self.next);
                    }
                    return (consumed, Err(TlsError::Protocol(error)));
                }
            }
        }
    }

    /// Encrypts the bytes of one send. Only while nothing of an earlier one is left.
    ///
    /// # Errors
    /// [`TlsError`] if the connection cannot send.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.write(Write::Data(plaintext))?;
        self.plaintext = u32::try_from(plaintext.len()).expect("a send is smaller");
        Ok(())
    }

    /// Tells the peer that nothing follows, once.
    pub fn notify_close(&mut self) {
        if !self.has_notified && self.is_open && !self.has_failed {
            self.has_notified = true;
            if std::mem::take(&mut self.kernel) != KernelOffer::None {
                // rustls would stop at the data in it.
                self.incoming = Vec::new();
            }
            // Without it the peer notices the end of the socket.
            let _ = self.write(Write::CloseNotify);
            // The rest of a record would not be read.
            self.incoming = Vec::new();
            self.count_memory();
        }
    }

    fn write(&mut self, write: Write<'_>) -> Result<(), TlsError> {
        if self.has_failed {
            return Err(TlsError::Failed);
        }
        let Self {
            connection,
            incoming,
            next,
            ..
        } = self;
        let mut consumed = 0;
        let written = loop {
            let rest = &mut incoming[consumed..];
            let UnbufferedStatus { discard, state } = connection.process_tls_records(rest);
            consumed += discard;
            match state {
                // What the handshake has left to say goes first.
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, next),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let end = next.len();
                    next.resize(end + write.size(), 0);
                    let mut encrypt = |output: &mut [u8]| match write {
                        Write::Data(plaintext) => traffic.encrypt(plaintext, output),
                        Write::CloseNotify => traffic.queue_close_notify(output),
                    };
                    let written = match encrypt(&mut next[end..]) {
                        Err(EncryptError::InsufficientSize(size)) => {
                            next.resize(end + size.required_size, 0);
                            encrypt(&mut next[end..])
                        }
                        result => result,
                    };
                    next.truncate(end + written.as_ref().map_or(0, |it| *it));
                    break written.map(|_| ()).map_err(|error| error.to_string());
                }
                Ok(_) => break Err("the connection cannot send".to_owned()),
                Err(error) => break Err(error.to_string()),
            }
        };
        incoming.drain(..consumed);
        if incoming.is_empty() {
            *incoming = Vec::new();
        }
        self.has_failed = written.is_err();
        self.count_memory();
        written.map_err(|error| TlsError::Protocol(rustls::Error::General(error)))
    }

    /// Whether there is something to send, or to send on.
    pub fn has_output(&self) -> bool {
        self.written < self.outgoing.len() || !self.next.is_empty()
    }

    /// What is to be sent next; it stays in place until `sent`.
    pub fn begin_send(&mut self) -> &[u8] {
        if self.outgoing.is_empty() {
            self.outgoing = std::mem::take(&mut self.next);
        }
        self.is_sending = true;
        &self.outgoing[self.written..]
    }

    /// Whether the shard's bytes may be encrypted: none are left of an earlier send.
    pub fn takes_plaintext(&self) -> bool {
        self.is_open
            && self.kernel == KernelOffer::None
            && !self.is_ending
            && !self.has_failed
            && !self.is_sending
            && !self.has_output()
    }

    /// The kernel has taken so many bytes of the output.
    pub fn sent(&mut self, bytes: usize) -> Sent {
        self.is_sending = false;
        self.written += bytes;
        if self.written < self.outgoing.len() {
            return Sent::Partly;
        }
        self.outgoing = Vec::new();
        self.written = 0;
        self.count_memory();
        Sent::Whole(std::mem::take(&mut self.plaintext))
    }

    fn memory_bytes(&self) -> usize {
        let buffers = [&self.incoming, &self.outgoing, &self.next];
        buffers.iter().map(|it| it.capacity()).sum()
    }

    fn count_memory(&mut self) {
        self.memory.set(self.memory_bytes());
    }
}

/// Where the record ends that begins at `start`, or the bytes; and where the first one begins that does not
/// end before that.
fn record_end(bytes: &[u8], start: usize) -> (usize, usize) {
    if let [_, _, _, high, low, ..] = bytes[start..] {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let end = start + RECORD_HEADER_BYTES + length;
        if end <= bytes.len() {
            return (end, end);
        }
    }
    (bytes.len(), start)
}

/// Appends what the handshake has to say.
fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, output: &mut Vec<u8>) {
    let end = output.len();
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        output.resize(end + size.required_size, 0);
        let encoded = data.encode(&mut output[end..]);
        output.truncate(end + encoded.unwrap_or(0));
    }
}

/// What is encrypted.
#[derive(Clone, Copy)]
enum Write<'a> {
    Data(&'a [u8]),
    CloseNotify,
}

impl Write<'_> {
    /// Bytes that suffice for it.
    fn size(self) -> usize {
        match self {
            Self::Data(plaintext) => {
                let records = plaintext.len().div_ceil(RECORD_BYTES);
                plaintext.len() + records * RECORD_OVERHEAD
            }
            Self::CloseNotify => CLOSE_NOTIFY_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls::fixtures::{SUITES, client, next, server_config};
    use rustls::ClientConnection;
    use std::io::{Read as _, Write as _};

    /// A client and a server of this version.
    fn pair(config: &Arc<ServerConfig>, is_old: bool) -> (ClientConnection, TlsStream) {
        let suites = if is_old { &SUITES[3..] } else { &SUITES[..3] };
        let client = client(suites);
        (client, TlsStream::new(Arc::clone(config)).unwrap())
    }

    /// Moves bytes both ways, cut anywhere, the client's changed by `change`, until nothing is left to
    /// move; what the server has read, or its error.
    fn exchange(
        client: &mut ClientConnection,
        server: &mut TlsStream,
        seed: &mut u64,
        mut change: impl FnMut(&mut [u8], &mut u64),
    ) -> Result<Vec<u8>, TlsError> {
        let mut plaintext = Vec::new();
        loop {
            let mut sent = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut sent).unwrap();
            }
            change(&mut sent, seed);
            let is_quiet = sent.is_empty() && !server.has_output();
            let mut rest = &mut sent[..];
            while !rest.is_empty() {
                let length = 1 + usize::try_from(next(seed)).unwrap() % rest.len().min(700);
                let (now, later) = rest.split_at_mut(length);
                server.process(now, &mut plaintext)?;
                rest = later;
            }
            let output = server.begin_send().to_vec();
            let mut unread = &output[..];
            while !unread.is_empty() {
                if client.read_tls(&mut unread).is_err() || client.process_new_packets().is_err() {
                    break;
                }
            }
            server.sent(output.len());
            if is_quiet {
                return Ok(plaintext);
            }
        }
    }

    #[test]
    fn bytes_arrive_as_they_were_sent_however_they_are_cut() {
        let config = server_config(false);
        for round in 1..60_u64 {
            let mut seed = round;
            let (mut client, mut server) = pair(&config, round % 2 == 0);
            exchange(&mut client, &mut server, &mut seed, |_, _| {}).unwrap();
            assert!(server.is_open && server.takes_plaintext());
            let suite = client.negotiated_cipher_suite().unwrap().suite();
            assert!(format!("{suite:?}").contains("AES_128_GCM"), "{suite:?}");
            let length = usize::try_from(next(&mut seed) % 60_000).unwrap();
            let data: Vec<u8> = (0..=250).cycle().take(length).collect();
            client.writer().write_all(&data).unwrap();
            if round % 3 == 0 && round % 2 == 1 {
                client.refresh_traffic_keys().unwrap();
            }
            let read = exchange(&mut client, &mut server, &mut seed, |_, _| {}).unwrap();
            assert!(read == data, "round {round}");
            server.encrypt(&data[..length.min(65_536)]).unwrap();
            let mut received = Vec::new();
            while server.has_output() {
                let output = server.begin_send();
                let taken = output.len().min(1_000);
                client.read_tls(&mut &output[..taken]).unwrap();
                client.process_new_packets().unwrap();
                // Would block: there is no more.
                let _ = client.reader().read_to_end(&mut received);
                let sent = server.sent(taken);
                let is_whole = !server.has_output();
                let expected = u32::try_from(length).unwrap();
                assert_eq!(sent == Sent::Whole(expected), is_whole);
            }
            assert!(received == data, "round {round}");
            assert_eq!(server.memory_bytes(), 0, "an idle connection has no buffer");
            server.notify_close();
            let output = server.begin_send().to_vec();
            client.read_tls(&mut &output[..]).unwrap();
            let state = client.process_new_packets().unwrap();
            assert!(state.peer_has_closed());
        }
    }

    #[test]
    fn part_of_a_record_is_forgotten_when_the_server_ends() {
        let (mut client, mut server) = pair(&server_config(false), false);
        exchange(&mut client, &mut server, &mut 1, |_, _| {}).unwrap();
        client.writer().write_all(b"data").unwrap();
        let mut record = Vec::new();
        client.write_tls(&mut record).unwrap();
        let (part, rest) = record.split_at_mut(9);
        let mut plaintext = Vec::new();
        server.process(part, &mut plaintext).unwrap();
        assert!(server.memory_bytes() >= 9);
        server.notify_close();
        let length = server.begin_send().len();
        server.sent(length);
        assert_eq!(server.memory_bytes(), 0);
        assert!(!server.process(rest, &mut plaintext).unwrap());
        assert_eq!(server.memory_bytes(), 0);
        assert!(plaintext.is_empty());
    }

    #[test]
    fn damaged_bytes_are_an_error_and_never_a_panic() {
        let config = server_config(false);
        let mut errors = 0;
        for round in 1..600_u64 {
            let mut seed = round;
            let (mut client, mut server) = pair(&config, round % 2 == 0);
            let damage = |bytes: &mut [u8], seed: &mut u64| {
                if let (Ok(length @ 1..), 0) = (u64::try_from(bytes.len()), next(seed) % 2) {
                    let at = usize::try_from(next(seed) % length).unwrap();
                    bytes[at] ^= 1 << (next(seed) % 8);
                }
            };
            let result = exchange(&mut client, &mut server, &mut seed, damage);
            let _ = client.writer().write_all(&[7; 5_000]);
            let result = result.and_then(|_| exchange(&mut client, &mut server, &mut seed, damage));
            errors += u32::from(result.is_err());
            // Whatever has happened, it may be asked to go on.
            let _ = server.encrypt(b"more");
            server.notify_close();
            let _ = server.process(&mut [22, 3, 3, 0, 1, 0], &mut Vec::new());
        }
        assert!(errors > 300, "{errors}");
    }
}
