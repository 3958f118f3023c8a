//! Connecting from a chosen source address: one source has some 28,000 ports towards one server.

use std::{
    io, mem,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

#[expect(
    clippy::cast_possible_truncation,
    reason = "the constant is 2; libc gives it as a C int"
)]
const FAMILY: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;

/// Connects to `target` from `source`, giving up after `patience`.
///
/// # Errors
/// What the kernel says; `AddrNotAvailable` means that the source has no port left.
pub(crate) fn connect_from(
    source: Ipv4Addr,
    target: SocketAddrV4,
    patience: Duration,
) -> io::Result<TcpStream> {
    // SAFETY: plain system call without pointers.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else has it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(raw) };
    // The port is chosen at connect, when the target is known: else a port is taken for all targets
    // at once.
    let yes: libc::c_int = 1;
    // SAFETY: the option's value is a c_int, and its address and size are those of `yes`, alive
    // over the call.
    check(unsafe {
        libc::setsockopt(
            raw,
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const yes).cast(),
            length_of(&yes),
        )
    })?;
    let from = address_of(SocketAddrV4::new(source, 0));
    // SAFETY: address and size are those of `from`, a sockaddr_in, alive over the call.
    check(unsafe { libc::bind(raw, (&raw const from).cast(), length_of(&from)) })?;
    let stream = TcpStream::from(descriptor);
    // socket(7): the send timeout bounds connect too.
    stream.set_write_timeout(Some(patience))?;
    let to = address_of(target);
    // SAFETY: address and size are those of `to`, a sockaddr_in, alive over the call.
    check(unsafe { libc::connect(stream.as_raw_fd(), (&raw const to).cast(), length_of(&to)) })?;
    Ok(stream)
}

fn address_of(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: FAMILY,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(address.ip().octets()),
        },
        sin_zero: [0; 8],
    }
}

fn length_of<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(mem::size_of_val(value)).expect("socket structures are small")
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
