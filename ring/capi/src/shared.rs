//! Rings between processes.

use core_ring::RingConfig;
use core_ring::SharedConfig;
use core_ring::shared::{Access, RingListener, SharedRing};
use std::ffi::{c_char, c_int};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::pointer::{answer, give, path, shared, take, text};
use crate::ring::{Attached, FanwireRing};
use crate::status::{Failure, FanwireRingStatus, call, check_abi};

/// The size of a ring between processes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FanwireRingSharedConfig {
    /// Bytes of records the ring holds: a power of two, at least 4096.
    pub capacity_bytes: u32,
    /// Readers that can be attached at a time, 1 to 1023.
    pub readers_max: u32,
    /// Processes that can be attached at a time, observers not counted: 1 to 1023, or 0 for 64.
    pub peers_max: u32,
    /// Writers at a time, in all processes: 1 to 1023, or 0 for 64.
    pub writers_max: u32,
}

fn config_of(config: *const FanwireRingSharedConfig) -> Result<SharedConfig, Failure> {
    // SAFETY: the caller's promise: null, or a configuration.
    let config = unsafe { shared(config) }?;
    let mut made = SharedConfig::new(RingConfig {
        capacity_bytes: config.capacity_bytes,
        readers_max: config.readers_max,
    });
    if config.peers_max > 0 {
        made.peers_max = config.peers_max;
    }
    if config.writers_max > 0 {
        made.writers_max = config.writers_max;
    }
    Ok(made)
}

/// Gives the ring that `make` makes or finds.
fn give_shared(
    abi_version: u32,
    ring: *mut *mut FanwireRing,
    make: impl FnOnce() -> Result<SharedRing, Failure>,
) -> FanwireRingStatus {
    call(|| {
        check_abi(abi_version)?;
        let made = FanwireRing(Attached::Shared(make()?));
        // SAFETY: the caller's promise.
        unsafe { give(ring, made) }
    })
}

/// The same for one of a name.
fn give_named(
    abi_version: u32,
    ring: *mut *mut FanwireRing,
    name: *const c_char,
    make: impl FnOnce(&str) -> Result<SharedRing, Failure>,
) -> FanwireRingStatus {
    // SAFETY: the caller's promise.
    give_shared(abi_version, ring, || make(unsafe { text(name) }?))
}

/// Makes a ring in a memfd, which others get from `fanwire_ring_listener_serve`, or inherit. Its size is
/// sealed, so a peer can spoil what is in it and nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_new_memfd(
    abi_version: u32,
    name: *const c_char,
    config: *const FanwireRingSharedConfig,
    ring: *mut *mut FanwireRing,
) -> FanwireRingStatus {
    give_named(abi_version, ring, name, |name| {
        Ok(SharedRing::memfd(name, &config_of(config)?)?)
    })
}

/// Makes a ring in /dev/shm under a name that is not in use, for processes of this user that trust each other.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_new_named(
    abi_version: u32,
    name: *const c_char,
    config: *const FanwireRingSharedConfig,
    ring: *mut *mut FanwireRing,
) -> FanwireRingStatus {
    give_named(abi_version, ring, name, |name| {
        Ok(SharedRing::create_named(name, &config_of(config)?)?)
    })
}

/// Attaches to a ring in /dev/shm.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_open_named(
    abi_version: u32,
    name: *const c_char,
    ring: *mut *mut FanwireRing,
) -> FanwireRingStatus {
    give_named(abi_version, ring, name, |name| {
        Ok(SharedRing::open_named(name)?)
    })
}

/// Attaches to a ring in /dev/shm for observers alone: nothing is written to its memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_observe_named(
    abi_version: u32,
    name: *const c_char,
    ring: *mut *mut FanwireRing,
) -> FanwireRingStatus {
    give_named(abi_version, ring, name, |name| {
        Ok(SharedRing::observe_named(name)?)
    })
}

/// Takes a name in /dev/shm away. Who is attached stays so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_unlink(name: *const c_char) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { text(name) }?;
        Ok(SharedRing::unlink(name)?)
    })
}

/// Attaches to the ring that a listener gives at the path of its Unix socket.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_connect(
    abi_version: u32,
    socket_path: *const c_char,
    ring: *mut *mut FanwireRing,
) -> FanwireRingStatus {
    give_shared(abi_version, ring, || {
        // SAFETY: the caller's promise.
        let socket_path = unsafe { path(socket_path) }?;
        Ok(SharedRing::connect(socket_path)?)
    })
}

/// Attaches to the ring in a memfd that this process has inherited or been sent. The descriptor stays the
/// caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_from_fd(
    abi_version: u32,
    fd: c_int,
    ring: *mut *mut FanwireRing,
) -> FanwireRingStatus {
    give_shared(abi_version, ring, || {
        if fd < 0 {
            return Err(Failure::argument("the descriptor is negative"));
        }
        // SAFETY: the caller's promise: it is open during the call.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        Ok(SharedRing::from_fd(fd.try_clone_to_owned()?)?)
    })
}

/// The descriptor of a shared ring's file, which stays the library's and is valid while the handle is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_fd(
    ring: *const FanwireRing,
    fd: *mut c_int,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let Attached::Shared(ring) = &unsafe { shared(ring) }?.0 else {
            return Err(Failure::argument("the ring is this process's alone"));
        };
        // SAFETY: the caller's promise.
        unsafe { answer(fd, ring.as_fd().as_raw_fd()) };
        Ok(())
    })
}

/// A Unix socket that gives a ring to everybody who may connect to it.
pub struct FanwireRingListener(RingListener);

/// Listens at a path, with mode 0600. With `observers_only`, those who connect cannot write the memory.
/// `fanwire_ring_listener_serve` does not wait.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_listener_new(
    socket_path: *const c_char,
    observers_only: bool,
    listener: *mut *mut FanwireRingListener,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let socket_path = unsafe { path(socket_path) }?;
        let access = match observers_only {
            true => Access::Observe,
            false => Access::ReadWrite,
        };
        let made = RingListener::bind(socket_path, access, None)?;
        made.set_nonblocking(true)?;
        // SAFETY: the caller's promise.
        unsafe { give(listener, FanwireRingListener(made)) }
    })
}

/// The descriptor to wait at (poll, epoll): it is readable when somebody wants the ring.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_listener_fd(
    listener: *const FanwireRingListener,
    fd: *mut c_int,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let value = unsafe { shared(listener) }?.0.as_fd().as_raw_fd();
        // SAFETY: the caller's promise.
        unsafe { answer(fd, value) };
        Ok(())
    })
}

/// Gives a shared ring to one process that has connected; `FANWIRE_RING_STATUS_TIMEOUT` if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_listener_serve(
    listener: *const FanwireRingListener,
    ring: *const FanwireRing,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let listener = unsafe { shared(listener) }?;
        // SAFETY: the caller's promise.
        let Attached::Shared(ring) = &unsafe { shared(ring) }?.0 else {
            return Err(Failure::argument("the ring is this process's alone"));
        };
        Ok(listener.0.serve_one(ring)?)
    })
}

/// Gives the listener back, and takes its socket away.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_listener_free(listener: *mut FanwireRingListener) {
    call(|| {
        // SAFETY: the caller's promise.
        drop(unsafe { take(listener) });
        Ok(())
    });
}
