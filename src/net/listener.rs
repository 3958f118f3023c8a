//! Listening sockets: one per shard on the same address, so that the kernel distributes
//! connections.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Connections that may wait for `accept` in one shard; the kernel limits it to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;

/// Bytes that the kernel takes for a connection beyond those it has sent (`TCP_NOTSENT_LOWAT`,
/// tcp(7)).
const NOTSENT_BYTES_MAX: u32 = 128 * 1024;
/// Time for which a peer may acknowledge nothing of what is sent to it (`TCP_USER_TIMEOUT`, RFC
/// 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why an address cannot be listened on.
///
/// ```no_run
/// use fanwire::{BindError, Server, StartError};
///
/// match Server::builder().dev().start() {
///     Err(StartError::Bind(BindError::InUse(address))) => println!("{address} is in use"),
///     _ => {}
/// }
/// ```
#[derive(Debug)]
pub enum BindError {
    /// Another program listens on the address.
    InUse(SocketAddr),
    /// Any other error of the kernel.
    Io(SocketAddr, io::Error),
}

impl std::fmt::Display for BindError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InUse(address) => write!(
                formatter,
                "{address} is in use by another program; stop it or choose another --listen address"
            ),
            Self::Io(address, error) => write!(formatter, "cannot listen on {address}: {error}"),
        }
    }
}

impl std::error::Error for BindError {}

/// Listeners for `shard_count` shards. With port 0 the kernel chooses one port for all.
///
/// # Errors
/// [`BindError`]; no listener stays open then.
pub fn bind_shards(address: SocketAddr, shard_count: usize) -> Result<Vec<TcpListener>, BindError> {
    let fail = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address),
        _ => BindError::Io(address, error),
    };
    // First without SO_REUSEPORT: with it, a second server of the same user would silently receive
    // half of the first one's connections.
    let probe = open(address, false).map_err(fail)?;
    let address = probe.local_addr().map_err(fail)?;
    drop(probe);
    (0..shard_count)
        .map(|_| {
            let socket = open(address, true)?;
            socket.listen(BACKLOG)?;
            Ok(TcpListener::from(socket))
        })
        .collect::<io::Result<_>>()
        .map_err(fail)
}

fn open(address: SocketAddr, reuse_port: bool) -> io::Result<BoundSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    // Accepted sockets inherit it: frames are complete when they are sent, so waiting for more data
    // gains nothing.
    socket.set_tcp_nodelay(true)?;
    // So do these. What is not sent yet waits with the server, where it is counted and where control
    // frames can pass it; and a peer that acknowledges nothing is given up.
    socket.set_tcp_notsent_lowat(NOTSENT_BYTES_MAX)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.bind(&address.into())?;
    Ok(BoundSocket(socket))
}

struct BoundSocket(Socket);

impl BoundSocket {
    fn listen(&self, backlog: i32) -> io::Result<()> {
        self.0.listen(backlog)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = self.0.local_addr()?;
        address
            .as_socket()
            .ok_or_else(|| io::Error::other("not an internet address"))
    }
}

impl From<BoundSocket> for TcpListener {
    fn from(socket: BoundSocket) -> Self {
        socket.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_a_port_and_a_second_server_is_refused() {
        let any = "127.0.0.1:0".parse().unwrap();
        let listeners = bind_shards(any, 2).unwrap();
        let address = listeners[0].local_addr().unwrap();
        assert_eq!(address, listeners[1].local_addr().unwrap());
        let second = bind_shards(address, 2);
        assert!(matches!(second, Err(BindError::InUse(used)) if used == address));
    }
}
