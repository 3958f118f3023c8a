//! Checks what the kernel supports, before anything else starts.

use super::locked_memory;
use crate::net::wire::SetupError;
use io_uring::{IoUring, Probe, opcode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;

/// Why the server cannot run on this kernel, and the remedy.
///
/// ```no_run
/// use fanwire::{Server, StartError};
///
/// if let Err(StartError::Kernel(error)) = Server::builder().dev().start() {
///     println!("{error}");
/// }
/// ```
#[derive(Debug)]
pub struct KernelError {
    cause: String,
    remedy: String,
}

impl KernelError {
    pub(super) fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }
}

impl std::fmt::Display for KernelError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}. {}", self.cause, self.remedy)
    }
}

impl std::error::Error for KernelError {}

/// Creates a small ring and checks that it has every operation that the wire uses.
///
/// # Errors
/// [`KernelError`] names what is missing and the remedy.
pub(super) fn probe() -> Result<(), KernelError> {
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8)
        .map_err(|error| explain_setup(&error))?;
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe);
    probed.map_err(|error| explain_setup(&error))?;
    let needed = [
        ("accept", opcode::Accept::CODE),
        ("recv", opcode::Recv::CODE),
        ("send", opcode::Send::CODE),
        ("sendmsg", opcode::SendMsg::CODE),
        ("shutdown", opcode::Shutdown::CODE),
        ("close", opcode::Close::CODE),
        ("poll", opcode::PollAdd::CODE),
    ];
    match needed.iter().find(|(_, code)| !probe.is_supported(*code)) {
        Some((name, _)) => Err(KernelError::new(
            format!("this kernel's io_uring has no operation `{name}`"),
            "fanwire needs Linux 6.1 or newer.",
        )),
        None => Ok(()),
    }
}

/// The cause and remedy of a failed setup of the wire ring of one of so many shards.
#[must_use]
pub(super) fn explain(error: &SetupError, shards: usize) -> KernelError {
    let (SetupError::Ring(cause) | SetupError::FileTable(cause) | SetupError::Buffers(cause)) =
        error;
    match error {
        SetupError::Ring(_) | SetupError::Buffers(_)
            if cause.raw_os_error() == Some(libc::ENOMEM) =>
        {
            locked_memory::rejected(cause, shards)
        }
        SetupError::Ring(error) => explain_setup(error),
        SetupError::FileTable(error) => KernelError::new(
            format!("the kernel rejected the file table: {error}"),
            "Raise the hard limit of open files (`ulimit -Hn`, systemd: LimitNOFILE=).",
        ),
        SetupError::Buffers(error) => KernelError::new(
            format!("the kernel rejected the ring of receive buffers: {error}"),
            "The kernel must be Linux 6.1 or newer.",
        ),
    }
}

fn explain_setup(error: &io::Error) -> KernelError {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let disabled = disabled.map(|text| text.trim().to_owned());
    let (cause, remedy) = match (error.raw_os_error(), disabled.as_deref()) {
        (Some(libc::EPERM), Ok("1" | "2")) => (
            "io_uring is disabled on this host (kernel.io_uring_disabled)",
            "Allow it: sysctl -w kernel.io_uring_disabled=0.",
        ),
        (Some(libc::EPERM), _) => (
            "io_uring is forbidden for this process, most likely by a container's seccomp profile",
            "Allow the system calls io_uring_setup, io_uring_enter and io_uring_register \
             (docker run --security-opt seccomp=…).",
        ),
        (Some(libc::ENOSYS), _) => (
            "this kernel has no io_uring, or a seccomp profile hides it",
            "fanwire needs Linux 6.1 or newer and a profile that allows io_uring.",
        ),
        (Some(libc::ENOMEM), _) => (
            "the limit of locked memory is too low for io_uring",
            "Raise the limit of locked memory (`ulimit -l`, systemd: LimitMEMLOCK=).",
        ),
        (Some(libc::EINVAL), _) => (
            "this kernel's io_uring is too old",
            "fanwire needs Linux 6.1 or newer.",
        ),
        _ => (
            "io_uring cannot be set up",
            "See io_uring_setup(2) for the error.",
        ),
    };
    KernelError::new(format!("{cause} ({error})"), remedy)
}

/// Raises the limit of open files to the hard limit and returns it.
#[must_use]
pub(super) fn raise_files_limit() -> u32 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    // Without a limit, the kernel still bounds the file table.
    let files = now.unwrap_or(u64::MAX).min(FILE_TABLE_MAX);
    u32::try_from(files).expect("bounded by a u32 constant")
}

/// Most files in one table (`IORING_MAX_FIXED_FILES`).
const FILE_TABLE_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(errno: i32, expected: &str) {
        let text = explain_setup(&io::Error::from_raw_os_error(errno)).to_string();
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn each_refusal_names_its_cause_and_remedy() {
        check(libc::EPERM, "io_uring");
        check(libc::ENOSYS, "Linux 6.1");
        check(libc::ENOMEM, "LimitMEMLOCK");
        check(libc::EINVAL, "too old");
    }

    #[test]
    fn the_files_limit_is_the_hard_one_afterwards() {
        let raised = u64::from(raise_files_limit());
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(
            limit.current.unwrap_or(u64::MAX).min(FILE_TABLE_MAX),
            raised
        );
        assert_eq!(limit.current, limit.maximum);
    }
}
