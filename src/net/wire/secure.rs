//! Connections with TLS on the wire: what arrives for them, and what is sent to them.
//!
//! Handshakes wait in a queue of their own and are handled a few per turn, because each costs as much as
//! hundreds of messages.

#![expect(
    unsafe_code,
    reason = "the safety conditions of `Kernel` are met here: the call says how"
)]

use super::event_loop::{EventLoop, HttpHandler};
use super::kernel::Kernel;
use super::kernel_tls::KernelSupport;
use crate::base::counters::{TlsHandshake, TlsSender};
use crate::base::{ConnectionId, Now, SlotMap};
use crate::http::proxy_protocol::{self, ProxyHeader};
use crate::net::tls::{Control, KernelOffer, KernelStream, Sent, TlsError, TlsStream};
use rustls::ServerConfig;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Time for handshakes in one turn of the event loop, nanoseconds; one is always handled. An ECDSA
/// signature takes about 40 µs, one with an RSA key of 2,048 bits ten times as long.
const HANDSHAKE_NANOS_PER_TURN: u64 = 250_000;
/// Bytes of a send queue that are encrypted for one send.
const PLAINTEXT_PER_SEND: usize = 64 * 1024;
/// Slices of them.
const SLICES_PER_SEND: usize = 256;

/// The connections with TLS.
#[derive(Debug, Default)]
pub struct SecureConnections {
    /// By listener; `None` where it speaks no TLS.
    configs: Vec<Option<Arc<ServerConfig>>>,
    pub(super) streams: SlotMap<Box<TlsStream>>,
    /// Those for which the kernel encrypts.
    pub(super) kernel_streams: SlotMap<Box<KernelStream>>,
    pub(super) kernel_support: KernelSupport,
    /// Connections that are closed when their last record has left the kernel, at the latest at this
    /// time, monotonic milliseconds; in the order of the times.
    pub(super) late_closes: VecDeque<(ConnectionId, u64)>,
    /// What has arrived of the header of the PROXY protocol that comes ahead of TLS, until it is whole.
    proxy_headers: HashMap<ConnectionId, Vec<u8>>,
    /// Those with input for their handshake.
    handshakes: VecDeque<ConnectionId>,
    /// What was decrypted, or is to be encrypted, at the moment.
    plaintext: Vec<u8>,
}

impl SecureConnections {
    /// With the configurations of the listeners, in their order.
    #[must_use]
    pub fn new(configs: Vec<Option<Arc<ServerConfig>>>) -> Self {
        Self {
            configs,
            ..Self::default()
        }
    }

    /// Begins a connection of a listener, which may begin with a header of the PROXY protocol.
    ///
    /// # Errors
    /// When rustls cannot.
    pub fn begin(
        &mut self,
        id: ConnectionId,
        listener: u8,
        has_proxy_header: bool,
    ) -> Result<(), TlsError> {
        if let Some(Some(config)) = self.configs.get(usize::from(listener)) {
            let mut stream = TlsStream::new(Arc::clone(config)).map_err(TlsError::Protocol)?;
            if config.enable_secret_extraction && !self.kernel_support.has_no_tls {
                stream.kernel = KernelOffer::Pending;
            }
            self.streams.insert(id, Box::new(stream));
            if has_proxy_header {
                self.proxy_headers.insert(id, Vec::new());
            }
        }
        Ok(())
    }

    /// Ends a connection.
    pub fn end(&mut self, id: ConnectionId) {
        self.streams.remove(id);
        self.kernel_streams.remove(id);
        self.proxy_headers.remove(&id);
    }

    /// Takes the header of the PROXY protocol from what has arrived; `None` once that is behind the
    /// connection.
    pub fn receive_ahead(&mut self, id: ConnectionId, bytes: &[u8]) -> Option<Ahead> {
        let waiting = self.proxy_headers.get_mut(&id)?;
        waiting.extend_from_slice(bytes);
        let header = proxy_protocol::read(waiting);
        if header == ProxyHeader::Incomplete {
            return Some(Ahead::Incomplete);
        }
        let waiting = self.proxy_headers.remove(&id)?;
        Some(match header {
            ProxyHeader::Incomplete | ProxyHeader::Absent => Ahead::Absent(waiting),
            // The shard reads it once more, and says what is wrong.
            ProxyHeader::Malformed => Ahead::Header(waiting, Vec::new()),
            ProxyHeader::Complete { header_bytes, .. } => {
                let mut header = waiting;
                let rest = header.split_off(header_bytes);
                Ahead::Header(header, rest)
            }
        })
    }

    /// There is no handshake for whom the shard has rejected before it; nothing is received any more.
    pub(super) fn fail(&mut self, id: ConnectionId) {
        if let Some(stream) = self.streams.get_mut(id) {
            stream.has_failed = true;
        }
    }

    /// Whether rustls encrypts for a connection.
    pub(super) fn has(&self, id: ConnectionId) -> bool {
        self.streams.get(id).is_some()
    }

    /// Whether the kernel encrypts for a connection, and nothing of the shard's may be sent now.
    pub(super) fn is_shut(&self, id: ConnectionId) -> bool {
        let stream = self.kernel_streams.get(id);
        stream.is_some_and(|stream| !stream.takes_plaintext())
    }

    /// Whether a `close_notify` by the kernel is still to come.
    pub(super) fn has_control(&self, id: ConnectionId) -> bool {
        let stream = self.kernel_streams.get(id);
        stream.is_some_and(|stream| stream.is_ending)
    }

    /// When the next of the connections that close late is closed at the latest.
    pub(super) fn next_close_ms(&self) -> Option<u64> {
        self.late_closes.front().map(|(_, close_ms)| *close_ms)
    }

    /// Keeps the end of a socket until what came ahead of it is decrypted; false if nothing waits.
    pub(super) fn keeps_end(&mut self, id: ConnectionId) -> bool {
        if let Some(stream) = self.streams.get_mut(id)
            && stream.is_waiting_for_kernel()
        {
            stream.has_socket_ended = true;
        } else if let Some(stream) = self.kernel_streams.get_mut(id)
            && !stream.is_attached
        {
            stream.has_socket_ended = true;
        } else {
            return false;
        }
        true
    }

    pub(super) fn has_handshakes(&self) -> bool {
        !self.handshakes.is_empty()
    }

    /// Takes what has arrived, or leaves it to the queue of handshakes; `None` for a connection without
    /// TLS. Otherwise whether the peer has ended its stream, with its bytes in `plaintext`.
    pub fn receive(
        &mut self,
        id: ConnectionId,
        bytes: &mut [u8],
    ) -> Option<Result<bool, TlsError>> {
        if self.kernel_streams.get(id).is_some() {
            return self.receive_without_rustls(id, bytes);
        }
        let stream = self.streams.get_mut(id)?;
        self.plaintext.clear();
        if stream.has_failed {
            return Some(Ok(false));
        }
        if stream.is_open {
            return Some(stream.process(bytes, &mut self.plaintext));
        }
        if stream.is_queued && !stream.has_room_for(bytes.len()) {
            // What follows the client's last message of the handshake may be any length, so it waits no
            // longer. Whoever wants to be handled ahead of others has to send that much.
            stream.is_queued = false;
            let plaintext = &mut self.plaintext;
            let waiting = stream.process(&mut [], plaintext);
            return Some(match waiting {
                Ok(false) => stream.process(bytes, plaintext),
                result => result,
            });
        }
        let kept = stream.keep(bytes);
        if kept.is_ok() && !std::mem::replace(&mut stream.is_queued, true) {
            self.handshakes.push_back(id);
        }
        Some(kept.map(|()| false))
    }

    fn receive_without_rustls(
        &mut self,
        id: ConnectionId,
        bytes: &mut [u8],
    ) -> Option<Result<bool, TlsError>> {
        let stream = self.kernel_streams.get_mut(id)?;
        self.plaintext.clear();
        let events = match stream.process(bytes, &mut self.plaintext) {
            Ok(events) => events,
            Err(error) => return Some(Err(error)),
        };
        if events.wants_key_update && self.kernel_support.has_no_key_update {
            return Some(Err(TlsError::NoKeyUpdate));
        }
        if events.wants_key_update {
            stream.queue(Control::KeyUpdate);
        }
        Some(Ok(events.has_ended))
    }

    /// Handles what has arrived for the handshake that has waited longest; `None` if none waits. As for
    /// [`receive`](Self::receive), the peer's bytes are in `plaintext`.
    pub fn process_handshake(&mut self) -> Option<(ConnectionId, Result<bool, TlsError>)> {
        loop {
            let id = self.handshakes.pop_front()?;
            if let Some(stream) = self.streams.get_mut(id)
                && std::mem::replace(&mut stream.is_queued, false)
            {
                self.plaintext.clear();
                return Some((id, stream.process(&mut [], &mut self.plaintext)));
            }
        }
    }

    /// What the last input was decrypted to.
    #[must_use]
    pub fn plaintext(&self) -> &[u8] {
        &self.plaintext
    }

    /// The TLS state of a connection.
    pub fn stream(&mut self, id: ConnectionId) -> Option<&mut TlsStream> {
        self.streams.get_mut(id).map(|stream| &mut **stream)
    }
}

/// What comes ahead of TLS.
#[derive(Debug)]
pub enum Ahead {
    /// More is needed to tell.
    Incomplete,
    /// No header: this is TLS.
    Absent(Vec<u8>),
    /// A header, and what follows it.
    Header(Vec<u8>, Vec<u8>),
}

impl<K: Kernel, H: HttpHandler> EventLoop<K, H> {
    /// Takes what comes ahead of TLS, and what follows it.
    pub(super) fn take_ahead(&mut self, id: ConnectionId, ahead: Ahead, now: Now) {
        let mut records = match ahead {
            Ahead::Incomplete => return,
            Ahead::Absent(records) => {
                self.shard.skip_proxy_header(id, now);
                records
            }
            Ahead::Header(mut header, records) => {
                self.shard.receive(id, &mut header, now);
                records
            }
        };
        if !self.shard.awaits_request(id) {
            return self.secure.fail(id);
        }
        if !records.is_empty()
            && let Some(result) = self.secure.receive(id, &mut records)
        {
            self.take_plaintext(id, result, now);
        }
    }

    /// The same, with TLS on the listeners that have a configuration.
    pub(crate) fn with_tls(mut self, configs: Vec<Option<Arc<ServerConfig>>>) -> Self {
        self.secure = SecureConnections::new(configs);
        self
    }

    /// Handles input for handshakes that waits, some of it.
    pub(super) fn shake_hands(&mut self, now: Now) {
        let began = self.stopwatch.nanos();
        while let Some((id, result)) = self.secure.process_handshake() {
            self.take_plaintext(id, result, now);
            if self.stopwatch.nanos() - began >= HANDSHAKE_NANOS_PER_TURN {
                return;
            }
        }
    }

    /// Hands what was decrypted to the shard, and sends what TLS has to answer.
    pub(super) fn take_plaintext(
        &mut self,
        id: ConnectionId,
        result: Result<bool, TlsError>,
        now: Now,
    ) {
        let stream = self.secure.streams.get_mut(id);
        let (has_opened, has_stayed) = stream.map_or((false, false), |stream| {
            (stream.has_just_opened(), stream.has_just_stayed())
        });
        if has_opened {
            let handshakes = &self.counters.tls_handshakes;
            handshakes.of(TlsHandshake::Done).add(1);
        }
        if has_stayed {
            let connections = &self.counters.tls_connections;
            connections.of(TlsSender::Process).add(1);
            // What waited for the kernel meanwhile is queued again.
            self.requeue(id);
        }
        if !self.secure.plaintext.is_empty() {
            self.shard.receive(id, &mut self.secure.plaintext, now);
        }
        match result {
            Ok(false) => {}
            Ok(true) => self.shard.on_eof(id, now),
            Err(error) => {
                if let Some(stream) = self.secure.streams.get_mut(id) {
                    stream.has_failed = true;
                    let is_handshake = !stream.is_open;
                    let has_alert = stream.has_output() && !stream.is_sending;
                    if is_handshake {
                        let handshakes = &self.counters.tls_handshakes;
                        handshakes.of(TlsHandshake::Failed).add(1);
                    }
                    self.shard.note_tls_error(id, &error, now);
                    if !has_alert {
                        self.shard.abort(id, now);
                    }
                } else {
                    self.fail_without_rustls(id, &error, now);
                }
            }
        }
        self.send_records(id);
        self.send_control(id);
        self.leave_to_kernel(id, now);
    }

    /// Sends what is encrypted for a connection, if nothing is in flight.
    pub(super) fn send_records(&mut self, id: ConnectionId) -> usize {
        let is_ready = |stream: &TlsStream| stream.has_output() && !stream.is_sending;
        if !self.secure.streams.get(id).is_some_and(|it| is_ready(it)) || !self.begin_operation(id)
        {
            return 0;
        }
        self.begin_records(id)
    }

    /// The same; the operation is counted already.
    fn begin_records(&mut self, id: ConnectionId) -> usize {
        let Some(stream) = self.secure.streams.get_mut(id) else {
            return 0;
        };
        // SAFETY: the slice lies in the stream's `outgoing`, which nothing changes between its
        // `begin_send` and its `sent`, which is called for this send's completion. The stream is dropped
        // after the completion of the close, which is queued only when no operation of the connection is
        // left.
        let bytes = unsafe { self.kernel.send(id, std::iter::once(stream.begin_send())) };
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.send_bytes = bytes;
        }
        bytes as usize
    }

    /// Encrypts what waits for a connection and sends it; the operation is counted already.
    pub(super) fn encrypt(&mut self, id: ConnectionId, now: Now) -> usize {
        let Some(stream) = self.secure.streams.get_mut(id) else {
            return 0;
        };
        if !stream.takes_plaintext() {
            // It is queued again when what is in flight is written. Before the handshake there is only
            // the rejection of a client that was too slow, who cannot read it.
            if !stream.is_open {
                self.shard.abort(id, now);
            }
            self.finish_operation(id);
            return 0;
        }
        let plaintext = &mut self.secure.plaintext;
        plaintext.clear();
        for slice in self.shard.begin_send(id, SLICES_PER_SEND) {
            let left = PLAINTEXT_PER_SEND - plaintext.len();
            plaintext.extend_from_slice(&slice[..slice.len().min(left)]);
            if plaintext.len() == PLAINTEXT_PER_SEND {
                break;
            }
        }
        if stream.encrypt(plaintext).is_err() {
            self.shard.sent(id, 0);
            self.shard.abort(id, now);
            self.finish_operation(id);
            return 0;
        }
        self.begin_records(id)
    }

    /// The kernel has taken `written` bytes of what was encrypted, or nothing; `result` is its answer.
    pub(super) fn sent_records(&mut self, id: ConnectionId, result: i32, now: Now) {
        self.finish_operation(id);
        let written = usize::try_from(result).unwrap_or(0);
        let Some(stream) = self.secure.streams.get_mut(id) else {
            return;
        };
        match stream.sent(written) {
            Sent::Whole(plaintext) => {
                let has_failed = stream.has_failed;
                let is_ending = stream.is_ending && !stream.has_output();
                match plaintext {
                    // What waited meanwhile is queued again.
                    0 => self.shard.writable(id),
                    _ => self.shard.sent(id, plaintext),
                }
                if has_failed {
                    self.shard.abort(id, now);
                } else if is_ending && self.begin_operation(id) {
                    self.kernel.shutdown_write(id);
                } else {
                    self.send_records(id);
                    self.leave_to_kernel(id, now);
                }
            }
            Sent::Partly if result >= 0 || result == -libc::EAGAIN || result == -libc::EINTR => {
                self.counters.short_sends.add(1);
                if written > 0 {
                    self.shard.gets_on(id);
                }
                self.shard.would_block(id, now);
                self.arm_poll(id);
            }
            Sent::Partly => self.shard.abort(id, now),
        }
    }

    /// Says to the peer of a connection with TLS that nothing follows; false for one without TLS, or if
    /// it is sent already. Its sending side is shut down when that is sent.
    pub(super) fn end_records(&mut self, id: ConnectionId) -> bool {
        if let Some(stream) = self.secure.kernel_streams.get_mut(id) {
            stream.notify_close();
            self.send_control(id);
            return true;
        }
        let Some(stream) = self.secure.streams.get_mut(id) else {
            return false;
        };
        stream.notify_close();
        stream.is_ending = true;
        if !stream.has_output() && !stream.is_sending {
            return false;
        }
        self.send_records(id);
        true
    }
}
