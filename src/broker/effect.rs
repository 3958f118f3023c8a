//! The effects of a step.

use super::command::Publication;
use super::event::{Event, Presence};
use crate::base::DialectId;
use crate::base::counters::CloseReason;
use crate::ws::CloseCode;

/// One consequence of a step, for the session that took it.
#[derive(Debug)]
pub enum Effect<'a> {
    /// Send the client this event, in its dialect.
    Reply(Event<'a>),
    /// Carry the publication to every shard.
    Publish(Publication<'a>),
    /// Tell others about a user, in the words of the dialect.
    Announce(DialectId, Presence<'a>),
    /// Send a protocol ping.
    Ping,
    /// Close the connection after what is queued for it.
    Close {
        /// The code of the close frame.
        code: CloseCode,
        /// Why, for the counters; its label is the frame's reason text.
        reason: CloseReason,
    },
    /// Send `Command::TimerExpired` at this time, monotonic milliseconds, in place of any earlier timer.
    SetTimer(u64),
    /// Do not read the message that `Command::Message` counted: it is over the rate limit.
    DropMessage,
}
