//! Who is at the other end of a Unix socket.

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// The process and the user that have connected. The process is 0 where it is in none of this process's
/// process namespaces.
#[expect(
    unsafe_code,
    reason = "rustix has no value for a process that cannot be seen from here"
)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a structure of twelve bytes"
)]
pub(super) fn peer_credentials(stream: &UnixStream) -> io::Result<(i32, u32)> {
    let mut found = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut bytes = mem::size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open while `stream` is borrowed; the two pointers are to our own values,
    // and `bytes` is the size of the first.
    let outcome = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut bytes,
        )
    };
    match outcome {
        0 => Ok((found.pid, found.uid)),
        _ => Err(io::Error::last_os_error()),
    }
}
