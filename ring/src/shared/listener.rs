//! Handing a ring to others: a Unix socket at a path, and a descriptor for each one who connects.

use std::fs;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::prelude::v1::*;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::SharedError;
use super::credentials::peer_credentials;
use super::file::SharedRing;

/// The byte that comes with a descriptor; a message needs one.
const GREETING: u8 = b'R';

/// What those who connect may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Make observers. They cannot write the memory.
    Observe,
    /// Everything.
    ReadWrite,
}

/// A Unix socket that gives a ring to everybody who may connect to it. The caller waits for the
/// descriptor to become readable, or blocks in [`RingListener::serve_one`].
///
/// The socket has mode 0600, or 0660 and the group that was named. When the listener is dropped it takes
/// the socket's path away; those who are attached stay so.
#[derive(Debug)]
pub struct RingListener {
    listener: UnixListener,
    path: PathBuf,
    /// Of the socket at the path.
    identity: (u64, u64),
    access: Access,
}

/// The file system and the number of the file at a path.
fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl RingListener {
    /// Listens at `path`. A socket that is there already is replaced if nobody listens behind it; an
    /// empty file beside it, named like it with `.lock` behind, keeps two of us from doing so at the
    /// same time.
    ///
    /// # Errors
    ///
    /// If somebody listens there (`AddrInUse`), if what is there is no socket, or if the system does
    /// not want to.
    pub fn bind(path: &Path, access: Access, group: Option<u32>) -> io::Result<Self> {
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(lock_path)?;
        // Until the end of this function.
        lock.lock()?;
        if let Ok(found) = fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path)?;
                }
                _ => return Err(io::ErrorKind::AddrInUse.into()),
            }
        }
        // Bound where nobody looks, and renamed when its mode is right.
        let mut new_path = path.as_os_str().to_owned();
        new_path.push(".new");
        let new_path = PathBuf::from(new_path);
        let _ = fs::remove_file(&new_path);
        let listener = UnixListener::bind(&new_path)?;
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        let prepared = fs::set_permissions(&new_path, fs::Permissions::from_mode(mode))
            .and_then(|()| match group {
                Some(group) => chown(&new_path, None, Some(group)),
                None => Ok(()),
            })
            .and_then(|()| identity_of(&new_path))
            .and_then(|identity| fs::rename(&new_path, path).map(|()| identity));
        let identity = prepared.inspect_err(|_| {
            let _ = fs::remove_file(&new_path);
        })?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity,
            access,
        })
    }

    /// Waits for one peer and gives it the ring. Does not wait for the peer after that: it has connected
    /// and the message fits its buffer.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the listener was made not to block and nobody is there. An error of one peer, that
    /// it is gone, say, is no reason to stop.
    pub fn serve_one(&self, shared: &SharedRing) -> io::Result<()> {
        self.accept()?.give(shared)
    }

    /// Waits for one peer, which may then be given a ring of its own.
    ///
    /// # Errors
    ///
    /// As [`RingListener::serve_one`].
    pub fn accept(&self) -> io::Result<RingPeer> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        let (process_id, user_id) = peer_credentials(&stream)?;
        Ok(RingPeer {
            access: self.access,
            process_id,
            user_id,
            stream,
        })
    }

    /// Makes [`RingListener::serve_one`] return instead of waiting.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        self.listener.set_nonblocking(is_nonblocking)
    }
}

/// Somebody who has connected to a [`RingListener`].
#[derive(Debug)]
pub struct RingPeer {
    stream: UnixStream,
    access: Access,
    process_id: i32,
    user_id: u32,
}

impl RingPeer {
    /// Gives it a ring. Does not wait.
    ///
    /// # Errors
    ///
    /// If the peer is gone, or has been given a ring that it has not taken.
    pub fn give(&self, shared: &SharedRing) -> io::Result<()> {
        let descriptor = shared
            .descriptor(self.access == Access::Observe)
            .map_err(io::Error::other)?;
        send(&self.stream, &descriptor)
    }

    /// Whether it still holds its end, as a [`Publisher`](super::Publisher) does while it lives. What
    /// [`SharedRing::connect`] makes does not.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        is_connected(&self.stream)
    }

    /// The process that has connected, as this process sees it; 0 if it does not, from outside of its
    /// container.
    #[must_use]
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    /// The user of that process.
    #[must_use]
    pub fn user_id(&self) -> u32 {
        self.user_id
    }
}

/// Whether the other end of a connection is open. Nothing is sent on it once a ring was given, so who does is
/// not what it should be.
pub(super) fn is_connected(stream: &UnixStream) -> bool {
    let mut events = [PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP)];
    let now = Timespec::default();
    // An error, such as a signal in between, says nothing.
    poll(&mut events, Some(&now)).map_or(true, |count| count == 0)
}

impl AsFd for RingListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for RingListener {
    fn drop(&mut self) {
        // Where somebody has taken it away, it may be another one's by now.
        if identity_of(&self.path).ok() == Some(self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn send(stream: &UnixStream, file: &File) -> io::Result<()> {
    let descriptors = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let has_room = control.push(SendAncillaryMessage::ScmRights(&descriptors));
    assert!(has_room, "the space is made for one descriptor");
    let sent = sendmsg(
        stream,
        &[IoSlice::new(&[GREETING])],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent == 1 {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let message = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptor = descriptors.flatten().next();
    match descriptor {
        Some(descriptor) if message.bytes == 1 && byte == [GREETING] => Ok(descriptor),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no descriptor came from the ring's listener",
        )),
    }
}

/// Attaches to the ring that a listener gives, and keeps the connection.
pub(super) fn connect(path: &Path) -> Result<(SharedRing, UnixStream), SharedError> {
    let step = SharedError::io;
    let stream = UnixStream::connect(path).map_err(step("connect to the ring's listener"))?;
    let descriptor = receive(&stream).map_err(step("receive the ring"))?;
    Ok((SharedRing::from_own_fd(descriptor)?, stream))
}

impl SharedRing {
    /// Attaches to the ring that a [`RingListener`] gives at `path`. The listener is trusted to send a
    /// descriptor that it has opened for us alone, as this crate's does.
    ///
    /// # Errors
    ///
    /// If nobody listens there, or what comes is not a ring of which the size is sealed.
    pub fn connect(path: &Path) -> Result<Self, SharedError> {
        connect(path).map(|(ring, _)| ring)
    }
}
