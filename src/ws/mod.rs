//! RFC 6455: frames, masks, messages, close codes and the opening handshake, as pure functions.

pub mod close;
pub mod decoder;
pub mod frame;
pub mod handshake;
pub mod utf8;

pub use close::CloseCode;
pub use decoder::{Decoder, Incoming, MessageLimits};
pub use frame::Opcode;
