//! Files with rings in them: made, found, checked and mapped.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::prelude::v1::*;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::fs::{self, FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{self, MapFlags, ProtFlags};
use rustix::shm;

use super::SharedError;
use super::lock::PeerLocks;
use crate::error::AttachError;
use crate::layout::{Geometry, LINE_BYTES};
use crate::memory::SharedConfig;
use crate::region::Region;
use crate::ring::{Ring, RingConfig};

/// Longest name of a ring in `/dev/shm`.
const NAME_BYTES_MAX: usize = 200;
/// What the size of a file must be protected by: else a peer that shrinks it kills all others.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// A ring in a file that other processes can attach to.
///
/// Each value of this type is a peer of its own: it has a number and a lock, which the kernel drops when
/// the process is gone. The lock is held until this value and all that was made from its ring is
/// dropped.
#[derive(Debug)]
pub struct SharedRing {
    ring: Ring,
    file: Arc<File>,
}

/// A mapping, unmapped when it is dropped.
struct Mapping {
    start: NonNull<u64>,
    bytes: usize,
    /// Its file, where others look for it.
    file: Option<File>,
}

#[expect(unsafe_code, reason = "mappings are made and unmapped by hand")]
mod mapping {
    use super::{
        AsFd, AttachError, Box, File, Geometry, MapFlags, Mapping, NonNull, ProtFlags, Region,
        Ring, SharedError, mm, ptr,
    };

    // SAFETY: a mapping belongs to no thread.
    unsafe impl Send for Mapping {}
    // SAFETY: nothing but the drop touches it.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        pub(super) fn new(
            file: &File,
            bytes: usize,
            is_read_only: bool,
        ) -> Result<Self, SharedError> {
            let protection = if is_read_only {
                ProtFlags::READ
            } else {
                ProtFlags::READ | ProtFlags::WRITE
            };
            // SAFETY: the kernel chooses the address, so no other memory is touched.
            let start = unsafe {
                mm::mmap(
                    ptr::null_mut(),
                    bytes,
                    protection,
                    MapFlags::SHARED,
                    file.as_fd(),
                    0,
                )
            };
            let start = start.map_err(SharedError::system("map the ring"))?;
            let start = NonNull::new(start.cast()).ok_or(AttachError::TooSmall { found: 0 })?;
            Ok(Self {
                start,
                bytes,
                file: None,
            })
        }

        /// The ring in the mapping.
        pub(super) fn region(
            self,
            created: Option<(Geometry, u64)>,
            is_read_only: bool,
        ) -> Result<Region, AttachError> {
            let (start, bytes) = (self.start, self.bytes);
            // SAFETY: `bytes` bytes from `start` are mapped until `self` is dropped, and aligned to a
            // page. The file is at least as long, and cannot be made shorter (seals), or is of
            // peers that trust each other not to (the documentation of the crate says so). It is
            // mapped for writing if it is not read-only. Nobody else in this process has the
            // address.
            unsafe { Ring::region_in(start, bytes, Box::new(self), created, is_read_only) }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: mapped in `new` with this size, and the region that used it is being dropped.
            let unmapped = unsafe { mm::munmap(self.start.as_ptr().cast(), self.bytes) };
            debug_assert!(unmapped.is_ok(), "the range is our own mapping");
        }
    }
}

impl SharedRing {
    /// Makes a ring in a memfd. `name` is for people who look at `/proc`.
    ///
    /// All its memory is taken at once, so that no peer is killed later for want of memory.
    ///
    /// # Errors
    ///
    /// If a number is out of range, or the system does not want to.
    pub fn memfd(name: &str, config: &SharedConfig) -> Result<Self, SharedError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = fs::memfd_create(name, flags).map_err(SharedError::system("make a memfd"))?;
        // Whoever else has a descriptor cannot open a better one through /proc.
        fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(SharedError::system("chmod"))?;
        let ring = Self::make(File::from(fd), config)?;
        fs::fcntl_add_seals(&*ring.file, SEALS).map_err(SharedError::system("seal the memfd"))?;
        Ok(ring)
    }

    /// Makes a ring of this process alone, in a memfd, so that others can observe it: whoever may open
    /// `/proc/PID/fd/N`, which takes the rights of a debugger, attaches for reading
    /// ([`SharedRing::from_fd`]). The kernel lets nobody else map it for writing, and an observer leaves no trace
    /// in it. It costs what [`Ring::new`] costs.
    ///
    /// # Errors
    ///
    /// If a number is out of range, or the system does not want to.
    pub fn observable(name: &str, config: RingConfig) -> Result<Ring, SharedError> {
        let geometry = Geometry::new(config.capacity_bytes, config.readers_max)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = fs::memfd_create(name, flags).map_err(SharedError::system("make a memfd"))?;
        fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(SharedError::system("chmod"))?;
        let (file, bytes) = (File::from(fd), geometry.total_bytes());
        // Memory is taken where it is used, as on the heap.
        fs::ftruncate(&file, bytes as u64).map_err(SharedError::system("size the memfd"))?;
        let mut mapping = Mapping::new(&file, bytes, false)?;
        // With this mapping as the last one that may write.
        let seals = SEALS.union(SealFlags::FUTURE_WRITE);
        fs::fcntl_add_seals(&file, seals).map_err(SharedError::system("seal the memfd"))?;
        mapping.file = Some(file);
        let created = Some((geometry, Ring::random_salt()?));
        Ok(Ring::of(mapping.region(created, false)?))
    }

    /// Makes a ring in `/dev/shm` under a name that is not in use. It stays there until
    /// [`SharedRing::unlink`] is called or the machine is switched off. Only processes of this user can
    /// open it.
    ///
    /// # Errors
    ///
    /// If the name is invalid or in use, a number is out of range, or the system does not want to.
    pub fn create_named(name: &str, config: &SharedConfig) -> Result<Self, SharedError> {
        let path = checked(name)?;
        let flags = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
        let fd = shm::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(SharedError::system("create the ring's file"))?;
        Self::make(File::from(fd), config).inspect_err(|_| {
            // What could not become a ring must not keep its name.
            let _ = shm::unlink(path);
        })
    }

    /// Opens a ring in `/dev/shm`. Its peers must trust each other: see the module's documentation.
    ///
    /// # Errors
    ///
    /// If there is none of this name, or what is there is no ring (yet).
    pub fn open_named(name: &str) -> Result<Self, SharedError> {
        let fd = shm::open(checked(name)?, shm::OFlags::RDWR, Mode::empty())
            .map_err(SharedError::system("open the ring's file"))?;
        Self::attach(File::from(fd), false)
    }

    /// The same for observers alone: the memory is mapped for reading, and nobody sees that it is.
    ///
    /// # Errors
    ///
    /// As [`SharedRing::open_named`].
    pub fn observe_named(name: &str) -> Result<Self, SharedError> {
        let fd = shm::open(checked(name)?, shm::OFlags::RDONLY, Mode::empty())
            .map_err(SharedError::system("open the ring's file"))?;
        Self::attach(File::from(fd), true)
    }

    /// Takes a name away. Who is attached stays so.
    ///
    /// # Errors
    ///
    /// If the name is invalid, or not there.
    pub fn unlink(name: &str) -> Result<(), SharedError> {
        shm::unlink(checked(name)?).map_err(SharedError::system("unlink the ring's file"))
    }

    /// Attaches to the ring in a memfd, wherever it comes from. It is opened again, through
    /// `/proc/self/fd`, because a lock belongs to an open file description, and a descriptor that was
    /// sent or inherited shares the sender's. Where the descriptor is for reading only, only observers
    /// can be made, and it is not opened again.
    ///
    /// # Errors
    ///
    /// If its size is not sealed, or it holds no ring, or this user may not open it again: then ask
    /// a [`RingListener`](super::RingListener), which sends descriptors that nobody shares.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, SharedError> {
        let flags = fs::fcntl_getfl(&fd).map_err(SharedError::system("look at the descriptor"))?;
        if flags & OFlags::ACCMODE == OFlags::RDONLY {
            return Self::from_own_fd(fd);
        }
        Self::from_own_fd(reopen(&fd, OFlags::RDWR)?.into())
    }

    /// The same for a descriptor that shares its description with nobody.
    pub(super) fn from_own_fd(fd: OwnedFd) -> Result<Self, SharedError> {
        let seals = fs::fcntl_get_seals(&fd);
        if !seals.is_ok_and(|seals| seals.contains(SEALS)) {
            return Err(AttachError::NotSealed.into());
        }
        Self::attach(File::from(fd), true)
    }

    fn make(file: File, config: &SharedConfig) -> Result<Self, SharedError> {
        let geometry = config.geometry()?;
        let bytes = geometry.total_bytes();
        let file_bytes = bytes as u64;
        // Not `ftruncate` alone: a page that the system cannot give later is a SIGBUS.
        match fs::fallocate(&file, FallocateFlags::empty(), 0, file_bytes) {
            Err(Errno::OPNOTSUPP) => fs::ftruncate(&file, file_bytes),
            outcome => outcome,
        }
        .map_err(SharedError::system("take the ring's memory"))?;
        let created = Some((geometry, Ring::random_salt()?));
        let region = Mapping::new(&file, bytes, false)?.region(created, false)?;
        Self::join(region, file)
    }

    /// `may_be_read_only`: as the descriptor is, or else it must be for writing.
    fn attach(file: File, may_be_read_only: bool) -> Result<Self, SharedError> {
        let flags =
            fs::fcntl_getfl(&file).map_err(SharedError::system("look at the descriptor"))?;
        let is_read_only = may_be_read_only && flags & OFlags::ACCMODE == OFlags::RDONLY;
        let metadata = file
            .metadata()
            .map_err(SharedError::io("look at the file"))?;
        let found = usize::try_from(metadata.len()).unwrap_or(0);
        if !metadata.is_file() || found < LINE_BYTES {
            return Err(AttachError::TooSmall { found }.into());
        }
        let region = Mapping::new(&file, found, is_read_only)?.region(None, is_read_only)?;
        if is_read_only {
            let (ring, file) = (Ring::of(region), Arc::new(file));
            return Ok(Self { ring, file });
        }
        Self::join(region, file)
    }

    /// Takes a number.
    fn join(mut region: Region, file: File) -> Result<Self, SharedError> {
        let file = Arc::new(file);
        let locks = PeerLocks(Arc::clone(&file));
        let peers_max = region.geometry().peers_max();
        let taken = locks
            .take(peers_max)
            .map_err(SharedError::io("lock the ring's file"))?;
        let number = taken.ok_or(AttachError::PeersFull { peers_max })?;
        region.enlist(number, Box::new(locks));
        Ok(Self {
            ring: Ring::of(region),
            file,
        })
    }

    /// The ring.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Another descriptor of the ring's file, with a description of its own, to be given to one peer.
    pub(super) fn descriptor(&self, is_read_only: bool) -> Result<File, SharedError> {
        let access = if is_read_only {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        reopen(&self.file, access)
    }

    /// Whether only observers can be made.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.ring.region.is_read_only()
    }
}

/// To be sent to a peer, which calls [`SharedRing::from_fd`].
impl AsFd for SharedRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn reopen(fd: &impl AsFd, access: OFlags) -> Result<File, SharedError> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let fd = fs::open(Path::new(&path), access | OFlags::CLOEXEC, Mode::empty());
    Ok(fd
        .map_err(SharedError::system("open the ring's file again"))?
        .into())
}

fn checked(name: &str) -> Result<&str, SharedError> {
    let is_valid = (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    is_valid.then_some(name).ok_or(SharedError::NameInvalid)
}
