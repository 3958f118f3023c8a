//! TLS between the sockets and the shard: certificates, and the state of each connection.

mod certificates;
mod stream;

pub use certificates::{Certificates, TlsFileError};
pub use stream::{Sent, TlsError, TlsStream};
