//! Publishing into a running server.

use core_ring::publication::{Content, Publication, PublicationError, Scope, Target};
use core_ring::shared::{PublishError, Publisher};
use std::ffi::c_char;
use std::time::Duration;

use crate::pointer::{give, items, path, shared, take};
use crate::status::{Failure, FanwireRingStatus, call, check_abi};

/// Publishes through a ring that a server gives to this process alone: the setting `ingest.shared_memory` of
/// fanwire. May be used by several threads at a time.
pub struct FanwireRingPublisher(Publisher);

/// What is published.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FanwireRingContent {
    /// A message of a type; the data are one JSON value in UTF-8.
    Json = 0,
    /// Bytes, for clients that take binary messages; there is no type.
    Binary = 1,
}

/// Which subscribers of the channel receive a publication.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FanwireRingTarget {
    /// All.
    All = 0,
    /// The sessions of a user.
    User = 1,
    /// The sessions with a role.
    Role = 2,
    /// The sessions with a permission.
    Permission = 3,
    /// All but the session with an id.
    ExceptSession = 4,
}

/// The tenant whose channel is meant.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FanwireRingScope {
    /// None.
    WithoutTenant = 0,
    /// That of `tenant`.
    Tenant = 1,
    /// All; only for channels that the server subscribes sessions to.
    AllTenants = 2,
}

/// A text in UTF-8, without a zero at its end. Of no bytes, the pointer may be null.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FanwireRingText {
    /// Its first byte.
    pub text: *const c_char,
    /// Its length, bytes.
    pub bytes: usize,
}

/// A publication. Zeros are JSON for all subscribers, without a tenant.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FanwireRingPublication {
    /// The channel.
    pub channel: FanwireRingText,
    /// The type of the message.
    pub kind: FanwireRingText,
    /// What is published.
    pub data: *const u8,
    /// Its length, bytes.
    pub data_bytes: usize,
    /// What `data` are: a `FanwireRingContent`.
    pub content: u32,
    /// Who receives it: a `FanwireRingTarget`.
    pub target_kind: u32,
    /// The user, role, permission or session.
    pub target: FanwireRingText,
    /// Whose channel it is: a `FanwireRingScope`.
    pub scope: u32,
    /// The tenant.
    pub tenant: FanwireRingText,
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Full => Self::plain(FanwireRingStatus::Full),
            PublishError::TooLarge => Self::plain(FanwireRingStatus::TooLarge),
            PublishError::Disconnected => Self::plain(FanwireRingStatus::Disconnected),
            PublishError::Damaged => Self::plain(FanwireRingStatus::Damaged),
            error => Self::argument(&error.to_string()),
        }
    }
}

/// # Safety
/// As [`items`].
unsafe fn text<'a>(text: FanwireRingText) -> Result<&'a str, Failure> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { items(text.text.cast::<u8>(), text.bytes) }?;
    let text = str::from_utf8(bytes);
    text.map_err(|_| Failure::argument(&PublicationError::NotUtf8.to_string()))
}

/// The publication of the caller. Numbers are not enums there: a value that none of them has would be none of
/// Rust's.
///
/// # Safety
/// All pointers of it are null, or so much can be read there during the call.
unsafe fn publication_of<'a>(given: &FanwireRingPublication) -> Result<Publication<'a>, Failure> {
    let texts = [given.channel, given.kind, given.target, given.tenant];
    let mut read = [""; 4];
    for (read, given) in read.iter_mut().zip(texts) {
        // SAFETY: the caller's promise.
        *read = unsafe { text(given) }?;
    }
    let [channel, kind, target, tenant] = read;
    // SAFETY: the caller's promise.
    let data = unsafe { items(given.data, given.data_bytes) }?;
    let unknown = |name| Failure::argument(&format!("unknown value of `{name}`"));
    Ok(Publication {
        channel,
        content: match given.content {
            0 => Content::Json { kind, data },
            1 if kind.is_empty() => Content::Binary(data),
            1 => return Err(Failure::argument("a binary publication has no type")),
            _ => return Err(unknown("content")),
        },
        target: match given.target_kind {
            0 => Target::All,
            1 => Target::User(target),
            2 => Target::Role(target),
            3 => Target::Permission(target),
            4 => Target::ExceptSession(target),
            _ => return Err(unknown("target_kind")),
        },
        scope: match given.scope {
            0 => Scope::WithoutTenant,
            1 => Scope::Tenant(tenant),
            2 => Scope::AllTenants,
            _ => return Err(unknown("scope")),
        },
    })
}

fn time(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Connects to the server whose socket is at a path.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_publisher_connect(
    abi_version: u32,
    socket_path: *const c_char,
    publisher: *mut *mut FanwireRingPublisher,
) -> FanwireRingStatus {
    call(|| {
        check_abi(abi_version)?;
        // SAFETY: the caller's promise.
        let made = Publisher::connect(unsafe { path(socket_path) }?)?;
        // SAFETY: the caller's promise.
        unsafe { give(publisher, FanwireRingPublisher(made)) }
    })
}

/// Publishes. Waits up to `timeout_ms` while the server is behind, and answers `FANWIRE_RING_STATUS_FULL` then; with 0
/// it does not wait. Nothing is published unless the answer is `FANWIRE_RING_STATUS_SUCCESS`;
/// `FANWIRE_RING_STATUS_DISCONNECTED` means that the server is gone, so connect again. What the server finds wrong with a
/// publication (no JSON, say) is in its metrics and log, not here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_publisher_publish(
    publisher: *const FanwireRingPublisher,
    publication: *const FanwireRingPublication,
    timeout_ms: u64,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let publisher = &unsafe { shared(publisher) }?.0;
        // SAFETY: the caller's promise.
        let given = unsafe { publication.as_ref() };
        let given = given.ok_or_else(|| Failure::argument("the publication is null"))?;
        // SAFETY: the caller's promise.
        let publication = unsafe { publication_of(given) }?;
        match timeout_ms {
            0 => publisher.try_publish(&publication)?,
            timeout_ms => publisher.publish(&publication, time(timeout_ms))?,
        }
        Ok(())
    })
}

/// Waits up to `timeout_ms` until the server has read all that was published before; `FANWIRE_RING_STATUS_TIMEOUT` if it
/// has not by then, `FANWIRE_RING_STATUS_DISCONNECTED` if it is gone and may not have.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_publisher_flush(
    publisher: *const FanwireRingPublisher,
    timeout_ms: u64,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let publisher = &unsafe { shared(publisher) }?.0;
        publisher
            .flush(time(timeout_ms))
            .map_err(|error| match error {
                PublishError::Full => Failure::plain(FanwireRingStatus::Timeout),
                error => error.into(),
            })
    })
}

/// Gives a publisher back, and ends its connection.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_publisher_free(publisher: *mut FanwireRingPublisher) {
    call(|| {
        // SAFETY: the caller's promise.
        drop(unsafe { take(publisher) });
        Ok(())
    });
}
