//! Which shard's listener gets a new connection.
//!
//! The kernel chooses among the sockets of a `SO_REUSEPORT` group by a hash of the addresses. A
//! classic BPF program replaces that choice while a shard is stalled, so that no new connection
//! waits in the backlog of its listener (socket(7), `SO_ATTACH_REUSEPORT_CBPF`, Linux 4.5).

#![expect(
    unsafe_code,
    reason = "the option takes a pointer to the program, and no library wraps it"
)]

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

/// The listeners of all shards on one address.
#[derive(Debug)]
pub(crate) struct ReuseportGroup {
    /// One of them: the program belongs to the group.
    member: TcpListener,
}

impl ReuseportGroup {
    /// The group of a listener.
    ///
    /// # Errors
    /// The error of the kernel: out of descriptors.
    pub(crate) fn of(member: &TcpListener) -> io::Result<Self> {
        let member = member.try_clone()?;
        Ok(Self { member })
    }

    /// New connections go to these shards only, evenly. Connections that wait in a backlog stay
    /// there.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(crate) fn steer_to(&self, shards: &[u16]) -> io::Result<()> {
        let mut program = program(shards);
        let length = u16::try_from(program.len()).map_err(io::Error::other)?;
        let program = libc::sock_fprog {
            len: length,
            filter: program.as_mut_ptr(),
        };
        self.set(libc::SO_ATTACH_REUSEPORT_CBPF, &program)
    }

    /// The kernel chooses by its hash again.
    ///
    /// # Errors
    /// The error of the kernel, also if there was no program.
    pub(crate) fn steer_to_all(&self) -> io::Result<()> {
        self.set(libc::SO_DETACH_REUSEPORT_BPF, &0_i32)
    }

    fn set<T>(&self, option: i32, value: &T) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
        // SAFETY: `value` is valid for reads of its size; a program that it points to is alive in
        // the caller, and the kernel copies it.
        let result = unsafe {
            libc::setsockopt(
                self.member.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                std::ptr::from_ref(value).cast(),
                length,
            )
        };
        if result == 0 {
            return Ok(());
        }
        Err(io::Error::last_os_error())
    }
}

/// A program that returns the index of one of `shards`, at random. The sockets of a group are
/// numbered in the order in which they began to listen, which is the order of the shards.
fn program(shards: &[u16]) -> Vec<libc::sock_filter> {
    const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned();
    let instruction = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).expect("codes have sixteen bits"),
        jt,
        jf,
        k,
    };
    let count = u32::try_from(shards.len()).expect("at most SHARDS_MAX");
    let return_index =
        |shard: u16| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::from(shard));
    let mut program = vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, RANDOM),
        instruction(
            libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K,
            0,
            0,
            count.max(1),
        ),
    ];
    for (at, shard) in (0_u32..).zip(shards) {
        program.push(instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            at,
        ));
        program.push(return_index(*shard));
    }
    // Not reached; a program must end with a return.
    program.push(return_index(0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::bind_shards;
    use std::net::TcpStream;
    use std::time::Duration;

    /// How many of `count` new connections each listener gets.
    fn accepted(listeners: &[TcpListener], count: usize) -> Vec<usize> {
        let address = listeners[0].local_addr().unwrap();
        let mut clients = Vec::new();
        let mut accepted = vec![0; listeners.len()];
        for _ in 0..count {
            let client = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
            clients.push(client);
        }
        for (listener, accepted) in listeners.iter().zip(&mut accepted) {
            listener.set_nonblocking(true).unwrap();
            while listener.accept().is_ok() {
                *accepted += 1;
            }
        }
        accepted
    }

    #[test]
    fn new_connections_go_to_the_chosen_shards_only() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listeners) = bind_shards(any.parse().unwrap(), 4) else {
                assert!(any.starts_with('['), "a host may have no IPv6");
                continue;
            };
            let group = ReuseportGroup::of(&listeners[2]).unwrap();
            group.steer_to(&[1, 3]).unwrap();
            let steered = accepted(&listeners, 60);
            assert_eq!((steered[0], steered[2]), (0, 0), "{steered:?}");
            assert!(steered[1] > 5 && steered[3] > 5, "{steered:?}");
            group.steer_to(&[0]).unwrap();
            assert_eq!(accepted(&listeners, 20), [20, 0, 0, 0]);
            group.steer_to_all().unwrap();
            let all = accepted(&listeners, 200);
            assert!(all.iter().all(|count| *count > 5), "{all:?}");
        }
    }
}
