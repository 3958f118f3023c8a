//! What the wire keeps of each socket: which operations the kernel still has.

/// A socket in the file table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Socket {
    /// Operations whose last completion has not come. The slot is free only when none is left: so no
    /// completion ever meets another connection's memory.
    pub(super) operations: u8,
    /// A multishot receive is armed.
    pub(super) is_receiving: bool,
    /// A wait for writability is armed.
    pub(super) is_polling: bool,
    /// The shard has given the connection up.
    pub(super) is_closing: bool,
    /// The close is on its way.
    pub(super) close_sent: bool,
    /// Bytes that the send under way should write.
    pub(super) send_bytes: u32,
}
