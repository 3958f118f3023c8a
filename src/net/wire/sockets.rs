//! The state of each socket on the wire: which operations are pending in the kernel.

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
    /// A wait for writability is armed.
    pub(super) is_polling: bool,
    /// The shard has asked to close the connection.
    pub(super) is_closing: bool,
    /// The close has been submitted.
    pub(super) close_sent: bool,
    /// Bytes that the send in flight should write.
    pub(super) send_bytes: u32,
}
