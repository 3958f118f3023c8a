//! The state of each socket on the wire: which operations are pending in the kernel.

/// Input of an admitted session after which its receive buffer may grow, bytes: less than the buffer
/// holds, so it never limits a sender, and more than a subscriber sends, whose socket is spared the
/// system call.
const BYTES_BEFORE_GROWTH: u16 = 16 * 1024;

/// A socket in the file table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Socket {
    /// Operations whose last completion is outstanding. The slot is freed only when none is left,
    /// so no completion ever refers to the memory of another connection.
    pub(super) operations: u8,
    /// A receive is armed.
    pub(super) is_receiving: bool,
    /// Nothing is to be received until the shard asks for it.
    pub(super) is_paused: bool,
    /// A send of the shard's own bytes is in flight.
    pub(super) is_sending: bool,
    /// A wait for writability is armed.
    pub(super) is_polling: bool,
    /// The shard has asked to close the connection.
    pub(super) is_closing: bool,
    /// The close has been submitted.
    pub(super) close_sent: bool,
    /// Bytes that the send in flight should write.
    pub(super) send_bytes: u32,
    /// Bytes to be received until the receive buffer may grow; zero: it may already, or it may not
    /// before the session is admitted.
    bytes_until_growth: u16,
}

impl Socket {
    /// The session is admitted: from now on its input counts.
    pub(super) fn admit(&mut self) {
        self.bytes_until_growth = BYTES_BEFORE_GROWTH;
    }

    /// Counts received bytes; true, once, when the receive buffer may grow.
    pub(super) fn count_received(&mut self, length: usize) -> bool {
        if self.bytes_until_growth == 0 {
            return false;
        }
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.bytes_until_growth = self.bytes_until_growth.saturating_sub(length);
        self.bytes_until_growth == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receive_buffer_may_grow_once_after_some_input_of_an_admitted_session() {
        let mut socket = Socket::default();
        assert!(!socket.count_received(1 << 20), "not admitted");
        socket.admit();
        assert!(!socket.count_received(usize::from(BYTES_BEFORE_GROWTH) - 1));
        assert!(socket.count_received(1));
        assert!(!socket.count_received(1 << 20), "once");
        socket.admit();
        assert!(socket.count_received(1 << 20));
    }
}
