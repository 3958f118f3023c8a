//! Pointers of the caller, checked as far as they can be.

use std::ffi::{CStr, c_char};
use std::path::Path;
use std::slice;

use crate::status::Failure;

/// What a handle points to.
///
/// # Safety
/// The pointer is null, or was made by [`give`] for this type and not given back.
pub(crate) unsafe fn shared<'a, T>(handle: *const T) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise: it is null, or points to a value that lives.
    unsafe { handle.as_ref() }.ok_or_else(|| Failure::argument("a handle is null"))
}

/// The same, for a handle that one thread uses at a time.
///
/// # Safety
/// As [`shared`], and nobody else uses the handle during the call.
pub(crate) unsafe fn exclusive<'a, T>(handle: *mut T) -> Result<&'a mut T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { handle.as_mut() }.ok_or_else(|| Failure::argument("a handle is null"))
}

/// Gives a value to the caller, as a handle.
///
/// # Safety
/// `out` is null, or can be written.
pub(crate) unsafe fn give<T>(out: *mut *mut T, value: T) -> Result<(), Failure> {
    if out.is_null() {
        return Err(Failure::argument("the pointer for the handle is null"));
    }
    // SAFETY: it is not null, and the caller promises the rest.
    unsafe { out.write(Box::into_raw(Box::new(value))) };
    Ok(())
}

/// Takes a handle back; null is nothing.
///
/// # Safety
/// As [`exclusive`], and the handle is not used again.
pub(crate) unsafe fn take<T>(handle: *mut T) -> Option<T> {
    if handle.is_null() {
        return None;
    }
    // SAFETY: `give` made it from a box.
    Some(*unsafe { Box::from_raw(handle) })
}

/// Writes an answer where the caller wants one.
///
/// # Safety
/// `out` is null, which is no error, or can be written.
pub(crate) unsafe fn answer<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: it is not null, and the caller promises the rest.
        unsafe { out.write(value) };
    }
}

/// Bytes or structs of the caller; of none, the pointer may be null.
///
/// # Safety
/// `items` is null, or so many can be read there during the call.
pub(crate) unsafe fn items<'a, T>(items: *const T, count: usize) -> Result<&'a [T], Failure> {
    let bytes = count.saturating_mul(size_of::<T>());
    match (items.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Failure::argument("the pointer to the bytes is null")),
        (false, _) if isize::try_from(bytes).is_err() => Err(Failure::argument(
            "the length is more than half of the address space",
        )),
        // SAFETY: it is not null, and the caller promises the rest.
        (false, _) => Ok(unsafe { slice::from_raw_parts(items, count) }),
    }
}

/// A string of the caller.
///
/// # Safety
/// `text` is null, or ends with a zero.
pub(crate) unsafe fn text<'a>(text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::argument("a string is null"));
    }
    // SAFETY: it is not null, and the caller promises the rest.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map_err(|_| Failure::argument("a string is not UTF-8"))
}

/// The same as a path.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn path<'a>(path: *const c_char) -> Result<&'a Path, Failure> {
    // SAFETY: the caller's promise.
    unsafe { text(path) }.map(Path::new)
}
