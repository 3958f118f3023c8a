//! Connections for which the kernel encrypts (`tls_kernel`): how they get there, and the records that are
//! no data.
//!
//! ```text
//!   accepted ─▶ TCP_ULP ─▶ handshake by rustls, all of it sent ─▶ TLS_TX ─▶ sends as without TLS
//! ```
//!
//! The kernel may hold a record that the socket had no room for, although the send is complete, and drops
//! it at a shutdown or close. So a `close_notify` waits until there is room, and leaves together with that
//! record; a shutdown or close waits for the `close_notify`.

use super::event_loop::{EventLoop, HttpHandler};
use super::kernel::Kernel;
use crate::base::counters::{KernelTlsError, TlsSender};
use crate::base::{ConnectionId, Now};
use crate::net::tls::{Alert, Control, KernelOffer, Sending, TlsError};
use rustls::CipherSuite;
use std::sync::Once;

/// Longest time that a close waits for room in the socket, milliseconds. Without the kernel's TLS, the
/// kernel would send on without the server for longer.
const CLOSE_LATE_MS: u64 = 10_000;

/// What the kernel answers if it does not have what it was asked for.
const NOT_THERE: [i32; 4] = [
    libc::ENOENT,
    libc::ENOPROTOOPT,
    libc::EOPNOTSUPP,
    libc::EINVAL,
];

/// What the kernel was found not to have.
#[derive(Debug, Default)]
pub(super) struct KernelSupport {
    /// TLS.
    pub(super) has_no_tls: bool,
    /// Other keys for a connection that has keys (Linux 6.14).
    pub(super) has_no_key_update: bool,
    /// These suites.
    without: Vec<CipherSuite>,
}

impl<K: Kernel, H: HttpHandler> EventLoop<K, H> {
    /// Asks the kernel, if it is to encrypt, whether it can. Until it has keys, it changes nothing.
    pub(super) fn offer_to_kernel(&mut self, id: ConnectionId) {
        let stream = self.secure.streams.get(id);
        let is_wanted = stream.is_some_and(|stream| stream.kernel == KernelOffer::Pending);
        if is_wanted && self.begin_operation(id) {
            self.kernel.attach_tls(id);
        }
    }

    /// The kernel has said whether it can.
    pub(super) fn attached_tls(&mut self, id: ConnectionId, result: i32, now: Now) {
        self.finish_operation(id);
        if NOT_THERE.contains(&-result) {
            self.secure.kernel_support.has_no_tls = true;
            note_no_tls(-result);
        }
        let Some(stream) = self.secure.streams.get_mut(id) else {
            return;
        };
        if result == 0 && stream.kernel == KernelOffer::Pending {
            stream.kernel = KernelOffer::Accepted;
            self.leave_to_kernel(id, now);
        } else {
            self.stay(id, now);
        }
    }

    /// rustls goes on with a connection, beginning with what has waited.
    fn stay(&mut self, id: ConnectionId, now: Now) {
        let Some(stream) = self.secure.streams.get_mut(id) else {
            return;
        };
        let was_waiting = stream.is_waiting_for_kernel();
        stream.kernel = KernelOffer::None;
        let has_ended = std::mem::take(&mut stream.has_socket_ended);
        if was_waiting && let Some(result) = self.secure.receive(id, &mut []) {
            self.take_plaintext(id, result, now);
        }
        if has_ended {
            self.shard.on_eof(id, now);
        }
    }

    /// Gives the keys of a connection to the kernel, if it is to have them and all that rustls has
    /// encrypted is sent.
    pub(super) fn leave_to_kernel(&mut self, id: ConnectionId, now: Now) {
        let stream = self.secure.streams.get(id);
        let Some(stream) = stream.filter(|stream| stream.may_leave_to_kernel()) else {
            return;
        };
        let suite = stream.suite();
        if suite.is_none_or(|suite| self.secure.kernel_support.without.contains(&suite)) {
            return self.stay(id, now);
        }
        let Some(stream) = self.secure.streams.remove(id) else {
            return;
        };
        match stream.into_kernel() {
            Ok((stream, keys)) => {
                self.secure.kernel_streams.insert(id, Box::new(stream));
                if self.begin_operation(id) {
                    self.kernel.set_send_keys(id, keys);
                }
            }
            Err(error) => {
                self.shard.note_tls_error(id, &error, now);
                self.shard.abort(id, now);
            }
        }
    }

    /// The kernel has taken the keys, or not.
    pub(super) fn set_send_keys(&mut self, id: ConnectionId, result: i32, now: Now) {
        self.finish_operation(id);
        let Some(stream) = self.secure.kernel_streams.get_mut(id) else {
            return;
        };
        let is_first = !stream.is_attached;
        if result < 0 {
            let suite = stream.suite();
            let support = &mut self.secure.kernel_support;
            // Anything else, such as a want of memory, is the misfortune of one connection.
            let is_for_good = NOT_THERE.contains(&-result) || result == -libc::EBUSY;
            if is_first {
                if is_for_good && !support.without.contains(&suite) {
                    support.without.push(suite);
                }
                return self.fail_with(id, &TlsError::SendKeys(-result), None, now);
            }
            support.has_no_key_update |= is_for_good;
            // The peer has its new keys already and could not read an alert.
            return self.fail_with(id, &TlsError::NoKeyUpdate, None, now);
        }
        stream.sending = Sending::Open;
        if is_first {
            stream.is_attached = true;
            let has_ended = std::mem::take(&mut stream.has_socket_ended);
            let connections = &self.counters.tls_connections;
            connections.of(TlsSender::Kernel).add(1);
            if let Some(result) = self.secure.receive(id, &mut []) {
                self.take_plaintext(id, result, now);
            }
            if has_ended {
                self.shard.on_eof(id, now);
            }
        }
        self.send_control(id);
        self.requeue(id);
    }

    /// The kernel has encrypted and taken `result` bytes of the shard's, or nothing.
    pub(super) fn sent_by_kernel(&mut self, id: ConnectionId, result: i32, now: Now) {
        let Some(stream) = self.secure.kernel_streams.get_mut(id) else {
            return;
        };
        let needs_key = stream.count_sent(u32::try_from(result).unwrap_or(0));
        let can_change = stream.is_1_3() && !self.secure.kernel_support.has_no_key_update;
        if needs_key && can_change {
            stream.queue(Control::KeyUpdate);
        } else if needs_key && !stream.has_failed {
            return self.fail_without_rustls(id, &TlsError::KeyLimit, now);
        }
        self.send_control(id);
    }

    /// Ends a connection for which the kernel encrypts, because of what it has received.
    pub(super) fn fail_without_rustls(&mut self, id: ConnectionId, error: &TlsError, now: Now) {
        let alert = match error {
            TlsError::Record(alert) => Some(*alert),
            // The peer has said the last word.
            TlsError::AlertReceived(_) => None,
            _ => Some(Alert::InternalError),
        };
        self.fail_with(id, error, alert, now);
    }

    /// Ends a connection, after an alert if it can be sent.
    fn fail_with(&mut self, id: ConnectionId, error: &TlsError, alert: Option<Alert>, now: Now) {
        let Some(stream) = self.secure.kernel_streams.get_mut(id) else {
            return;
        };
        stream.has_failed = true;
        let cause = match error {
            TlsError::SendKeys(_) => Some(KernelTlsError::SendKeys),
            TlsError::NoKeyUpdate => Some(KernelTlsError::KeyUpdate),
            TlsError::KeyLimit => Some(KernelTlsError::KeyLimit),
            _ => None,
        };
        if let Some(cause) = cause {
            self.counters.kernel_tls_errors.of(cause).add(1);
            tracing::debug!(target: "fanwire::tls", %error, "a connection was closed");
        }
        self.shard.note_tls_error(id, error, now);
        let is_blocked = self.sockets.get(id).is_some_and(|socket| socket.is_polling);
        match alert {
            Some(alert) if stream.is_attached && !is_blocked => {
                stream.queue(Control::Alert(alert));
                self.send_control(id);
            }
            _ => self.close_failed(id, now),
        }
    }

    /// Closes a connection that cannot go on, also while it waits for its `close_notify`.
    fn close_failed(&mut self, id: ConnectionId, now: Now) {
        let stream = self.secure.kernel_streams.get(id);
        match stream.is_some_and(|stream| stream.is_closing) {
            true => self.closing.push_back(id),
            false => self.shard.abort(id, now),
        }
    }

    /// Sends the record of a connection that is no data, if there is one and nothing is in flight.
    pub(super) fn send_control(&mut self, id: ConnectionId) {
        let Some(stream) = self.secure.kernel_streams.get_mut(id) else {
            return;
        };
        let Some(control) = stream.control() else {
            return;
        };
        let socket = self.sockets.get(id);
        let is_free = socket.is_some_and(|socket| !socket.is_sending && !socket.is_polling);
        if !is_free || stream.sending != Sending::Open {
            return;
        }
        if control == Control::CloseNotify && !stream.has_room {
            return self.arm_poll(id);
        }
        if self.begin_operation(id)
            && let Some(stream) = self.secure.kernel_streams.get_mut(id)
            && let Some(control) = stream.begin_control()
        {
            self.kernel.send_control(id, control);
        }
    }

    /// The socket of a connection is writable.
    pub(super) fn writable_for_control(&mut self, id: ConnectionId) {
        if let Some(stream) = self.secure.kernel_streams.get_mut(id) {
            // Later there may be none again.
            stream.has_room = stream.control() == Some(Control::CloseNotify);
            self.send_control(id);
        }
    }

    /// A record that is no data is sent, or not.
    pub(super) fn sent_control(&mut self, id: ConnectionId, result: i32, now: Now) {
        self.finish_operation(id);
        let Some(stream) = self.secure.kernel_streams.get_mut(id) else {
            return;
        };
        let Sending::Control(control) = stream.sending else {
            return;
        };
        stream.sending = Sending::Open;
        stream.has_room = false;
        let is_sent = usize::try_from(result) == Ok(control.bytes().len());
        let is_full = result == -libc::EAGAIN || result == -libc::EINTR;
        match control {
            Control::KeyUpdate if is_sent => self.change_send_keys(id, now),
            Control::CloseNotify if is_sent => {
                if stream.is_closing {
                    return self.closing.push_back(id);
                }
                if self.begin_operation(id) {
                    self.kernel.shutdown_write(id);
                }
                self.abort_after_end(id, now);
            }
            Control::KeyUpdate | Control::CloseNotify if is_full => {
                stream.queue(control);
                self.arm_poll(id);
            }
            _ => self.close_failed(id, now),
        }
    }

    /// Leaves the close of a connection to its `close_notify`; false if there is none to come.
    pub(super) fn closes_late(&mut self, id: ConnectionId, now: Now) -> bool {
        let Some(stream) = self.secure.kernel_streams.get_mut(id) else {
            return false;
        };
        // What was shut down before has waited for its `close_notify` already, and a drain waits for
        // nobody who does not read.
        let is_blocked = self.sockets.get(id).is_some_and(|socket| socket.is_polling);
        let has_waited = stream.is_ending || (is_blocked && self.is_draining);
        if !stream.is_attached || stream.has_failed || has_waited {
            return false;
        }
        stream.is_closing = true;
        stream.notify_close();
        let close_ms = now.monotonic_ms + CLOSE_LATE_MS;
        self.secure.late_closes.push_back((id, close_ms));
        self.send_control(id);
        true
    }

    /// Closes the connections that had no room for their `close_notify` for too long.
    pub(super) fn close_late(&mut self, now: Now) {
        while let Some((id, close_ms)) = self.secure.late_closes.front()
            && *close_ms <= now.monotonic_ms
        {
            self.closing.push_back(*id);
            self.secure.late_closes.pop_front();
        }
    }

    /// The peer knows that new keys follow.
    fn change_send_keys(&mut self, id: ConnectionId, now: Now) {
        let Some(stream) = self.secure.kernel_streams.get_mut(id) else {
            return;
        };
        match stream.next_keys() {
            Ok(keys) => {
                if self.begin_operation(id) {
                    self.kernel.set_send_keys(id, keys);
                }
            }
            Err(error) => self.fail_with(id, &error, None, now),
        }
    }

    /// Queues what waits for a connection again, unless its socket has no room.
    pub(super) fn requeue(&mut self, id: ConnectionId) {
        let socket = self.sockets.get(id);
        if socket.is_some_and(|socket| !socket.is_polling) {
            self.shard.writable(id);
        }
    }
}

/// Says once in the life of the process that the server encrypts itself.
fn note_no_tls(errno: i32) {
    static NOTED: Once = Once::new();
    NOTED.call_once(|| {
        let error = std::io::Error::from_raw_os_error(errno);
        tracing::warn!(
            target: "fanwire::tls",
            %error,
            "the kernel offers no TLS (module `tls`), so the server encrypts what it sends itself"
        );
    });
}
