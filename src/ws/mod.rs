//! RFC 6455: frames, masks, messages, close codes and the opening handshake, as pure functions; and
//! permessage-deflate (RFC 7692).

pub mod close;
pub mod decoder;
pub mod deflater;
pub mod extension;
pub mod frame;
pub mod handshake;
pub mod inflater;
pub mod utf8;

pub use close::CloseCode;
pub use decoder::{Decoder, Incoming, MessageLimits};
pub use deflater::Deflater;
pub use frame::Opcode;
pub use inflater::{InflateError, Inflater};
