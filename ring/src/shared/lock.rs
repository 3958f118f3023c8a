//! Locks on bytes of the ring's file: who has which number, and who lives.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::prelude::v1::*;
use std::sync::Arc;

use crate::peers::Liveness;

/// The file of a ring. Its open file description is this attachment's alone, as its lock is.
pub(super) struct PeerLocks(pub(super) Arc<File>);

impl PeerLocks {
    /// Locks the first number that nobody has.
    pub(super) fn take(&self, peers_max: u32) -> io::Result<Option<u32>> {
        for number in 0..peers_max {
            match self.request(libc::F_OFD_SETLK, number) {
                Ok(_) => return Ok(Some(number)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.raw_os_error() == Some(libc::EACCES) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    #[expect(unsafe_code, reason = "rustix has no locks of open file descriptions")]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "constants of the system that fit by its own definition"
    )]
    fn request(&self, command: i32, number: u32) -> io::Result<libc::flock> {
        let mut lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: libc::off_t::from(number),
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: the descriptor is open while `self` lives; both commands take a pointer to a lock,
        // which is valid and ours.
        let answer = unsafe { libc::fcntl(self.0.as_raw_fd(), command, &raw mut lock) };
        if answer == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(lock)
    }
}

impl Liveness for PeerLocks {
    fn is_alive(&self, number: u32) -> bool {
        // A conflicting lock is answered, and none as F_UNLCK. In doubt it is alive.
        self.request(libc::F_OFD_GETLK, number)
            .map_or(true, |lock| i32::from(lock.l_type) != libc::F_UNLCK)
    }
}
