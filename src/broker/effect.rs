//! The effects of a step.

use super::command::{HistoryRequest, PresenceRequest, Publication, Subscription, TokenSource};
use super::event::{Event, Presence, SessionView};
use super::known_tokens::Attempt;
use crate::auth::Identity;
use crate::base::counters::{CloseReason, TokenError};
use crate::base::{ChannelTag, UserArrival};
use crate::ws::CloseCode;

/// One effect of a step, for the session of the step.
#[derive(Debug)]
pub enum Effect<'a> {
    /// Send this event to the client, in its dialect.
    Reply(Event<'a>),
    /// The session counts against the limits of its dialect from now on: it has authenticated, or
    /// need not.
    Admitted,
    /// The session has this identity from now on.
    Identified {
        /// The session.
        session: &'a SessionView<'a>,
        /// Its identity.
        identity: &'a Identity,
    },
    /// A token of the session was rejected.
    TokenRejected(TokenError),
    /// Publish to all shards.
    Publish(Publication<'a>),
    /// Send `Event::History` to the client.
    ReadHistory(HistoryRequest<'a>),
    /// Publish that users came or went, in the form of the dialect of the channel.
    Announce(Presence<'a>),
    /// Ask others whose token this is, and send `Command::TokenVerified` with the answer; no message
    /// of the session is handled until then.
    AskAboutToken {
        /// The token.
        token: &'a str,
        /// How the client has shown it.
        source: TokenSource,
        /// Counts it until the answer is there.
        attempt: Attempt,
    },
    /// Wait until what other nodes know of a user is here, then send `Command::TokenVerified` again; no
    /// message of the session is handled until then.
    AwaitUser {
        /// Whose the token is.
        identity: &'a Identity,
        /// How the client has shown it.
        source: TokenSource,
        /// The user, and what is to be known of it.
        arrival: UserArrival,
    },
    /// Ask the callback about subscriptions, and send `Command::Subscribe` again when it allows this one;
    /// no message of the session is handled until then.
    AskAboutSubscription(Subscription<'a>),
    /// Wait until the publications of other nodes on the channel come in, then send
    /// `Command::Subscribe` again; no message of the session is handled until then.
    AwaitChannel(Subscription<'a>),
    /// The same for `Command::GetHistory`.
    AwaitHistory(HistoryRequest<'a>),
    /// The same for `Command::GetPresence`.
    AwaitPresence(PresenceRequest<'a>),
    /// The same for `Command::GetRetained`, with the channel.
    AwaitRetained(&'a str),
    /// Send a ping frame.
    Ping,
    /// The session has ended, and its user will be sent what it was not sent of these channels: drop
    /// that, so that nothing comes twice.
    Remembered(&'a [ChannelTag]),
    /// Close the connection after its queued frames.
    Close {
        /// The code of the close frame.
        code: CloseCode,
        /// Why, for the counters; its label is the frame's reason text.
        reason: CloseReason,
    },
    /// Send `Command::TimerExpired` at this time, monotonic milliseconds, in place of any earlier
    /// timer.
    SetTimer(u64),
    /// Drop the message that `Command::Message` counted: it exceeds the rate limit.
    DropMessage,
}
