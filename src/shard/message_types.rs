//! The types of messages in metrics, which are the same in all dialects.

use crate::base::client_counters::{ReceivedType, SentType};
use crate::broker::{Command, Event, Rejection};
use crate::dialect::Decoded;

/// The type of a message of a client, as its dialect has decoded it.
pub(super) fn received_type(decoded: &Result<Decoded<'_>, Rejection>) -> ReceivedType {
    let command = match decoded {
        Ok(Decoded::Command(command)) => command,
        Ok(Decoded::Custom { .. }) => return ReceivedType::Custom,
        Err(_) => return ReceivedType::Malformed,
    };
    match command {
        Command::Authenticate { .. } => ReceivedType::Authenticate,
        Command::Subscribe(_) | Command::SubscribePerUser { .. } => ReceivedType::Subscribe,
        Command::Unsubscribe { .. }
        | Command::UnsubscribeById { .. }
        | Command::UnsubscribePerUser { .. } => ReceivedType::Unsubscribe,
        Command::Publish(_) | Command::PublishWithRole { .. } => ReceivedType::Publish,
        Command::GetRetained { .. } => ReceivedType::Retained,
        Command::GetHistory(_) => ReceivedType::History,
        Command::Restore => ReceivedType::Restore,
        Command::GetPresence(_) => ReceivedType::Presence,
        Command::Ping => ReceivedType::Ping,
        Command::Status => ReceivedType::Status,
        // No dialect decodes a message to one of the others.
        _ => ReceivedType::Malformed,
    }
}

/// The type of a message to a client.
pub(super) const fn sent_type(event: &Event<'_>) -> SentType {
    match event {
        Event::Welcome { .. } => SentType::Welcome,
        Event::Authenticated { .. } => SentType::Authenticated,
        Event::AuthenticationFailed { .. } => SentType::AuthenticationFailed,
        Event::Subscribed(_) => SentType::Subscribed,
        Event::Unsubscribed(_) => SentType::Unsubscribed,
        Event::Published { .. } => SentType::Published,
        Event::Retained { .. } => SentType::Retained,
        Event::Pong { .. } => SentType::Pong,
        Event::Status { .. } => SentType::Status,
        Event::Message { .. } => SentType::Custom,
        Event::History { .. } => SentType::History,
        Event::Restored { .. } | Event::NotRestored { .. } => SentType::Restored,
        Event::Present { .. } => SentType::Presence,
        Event::ShuttingDown { .. } => SentType::Shutdown,
        Event::Error { .. } | Event::Denied { .. } => SentType::Error,
    }
}
