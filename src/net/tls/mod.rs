//! TLS between the sockets and the shard: certificates, and the state of each connection.

mod certificates;
#[cfg(test)]
pub(crate) mod fixtures;
mod kernel_stream;
mod records;
mod send_keys;
mod stream;

pub use certificates::{Certificates, TlsFileError};
pub use kernel_stream::{Control, KernelStream, Sending};
pub use records::{Alert, Events};
pub use send_keys::SendKeys;
pub use stream::{KernelOffer, Sent, TlsError, TlsStream};
