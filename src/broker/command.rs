//! What a session asks for, in the broker's words.

use super::event::Refusal;
use crate::base::DialectId;
use std::net::SocketAddr;

/// A message to all subscribers of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication<'a> {
    /// The channel's name, in the one namespace of all dialects.
    pub channel: &'a str,
    /// What the message is, for clients to tell apart.
    pub kind: &'a str,
    /// Valid JSON, as the publisher wrote it.
    pub data: &'a str,
}

/// Something that happened to a session or that its client asked for.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// The connection was upgraded.
    Connect {
        /// The protocol it speaks.
        dialect: DialectId,
        /// The far address.
        peer: SocketAddr,
        /// The token that came with the handshake.
        token: Option<&'a str>,
    },
    /// The client shows a token.
    Authenticate {
        /// A JSON Web Token.
        token: &'a str,
    },
    /// The client wants what is published on a channel.
    Subscribe {
        /// The channel's name.
        channel: &'a str,
    },
    /// The client no longer wants it.
    Unsubscribe {
        /// The channel's name.
        channel: &'a str,
    },
    /// The client publishes.
    Publish(Publication<'a>),
    /// The client asks whether we are there.
    Ping,
    /// The client asks what we know of it.
    Status,
    /// The client sent something that its dialect cannot read.
    Malformed(Refusal),
    /// Bytes came from the client.
    Heard,
    /// The time that an earlier `Effect::WakeAt` named has come.
    Wake,
    /// The connection is gone.
    Disconnect,
}

impl Command<'_> {
    /// Whether the command comes from the server itself and is no sign of life.
    #[must_use]
    pub const fn is_internal(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Wake | Self::Disconnect)
    }
}
