//! Sessions that vanish at once, again and again: with many subscriptions, or to come back.

use super::load::{Tally, is_timeout};
use crate::{
    connect::{Dialed, Dialer},
    dialect::Dialect,
    fail::RunError,
    frames::{self, Reader},
};
use std::{
    io::{Read, Write},
    sync::atomic::Ordering,
    thread::Scope,
};

/// Starts the thread of the load, when all sessions of the first round are there.
///
/// # Errors
/// A session could not be set up.
pub(super) fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    mut dialer: Dialer,
    dialect: Dialect,
    (sessions, channels): (u32, u32),
    tally: &'scope Tally,
) -> Result<(), RunError> {
    let mut leavers = arrive(&mut dialer, dialect, (sessions, channels), tally)?;
    scope.spawn(move || {
        while !tally.is_over() {
            let count = leavers.len() as u64;
            leavers.clear();
            tally.done.fetch_add(count, Ordering::Relaxed);
            match arrive(&mut dialer, dialect, (sessions, channels), tally) {
                Ok(next) => leavers = next,
                Err(_) => {
                    tally.ended.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    Ok(())
}

/// Sessions that are set up together: below what servers allow an address before authentication.
const TOGETHER: u32 = 200;

/// Starts a thread that cuts all sessions and brings them back, subscribed, on and on.
///
/// # Errors
/// A session could not be set up.
pub(super) fn reconnect<'scope>(
    scope: &'scope Scope<'scope, '_>,
    mut dialer: Dialer,
    sessions: u32,
    tally: &'scope Tally,
) -> Result<(), RunError> {
    let mut all = come_back(&mut dialer, sessions, tally)?;
    scope.spawn(move || {
        while !tally.is_over() {
            all.clear();
            match come_back(&mut dialer, sessions, tally) {
                Ok(next) => all = next,
                Err(_) => {
                    tally.ended.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    Ok(())
}

fn come_back(dialer: &mut Dialer, sessions: u32, tally: &Tally) -> Result<Vec<Dialed>, RunError> {
    let mut back = Vec::new();
    for at in (0..sessions).step_by(TOGETHER as usize) {
        if tally.is_over() {
            break;
        }
        let next = dialer.open_together(TOGETHER.min(sessions - at), true)?;
        tally.done.fetch_add(next.len() as u64, Ordering::Relaxed);
        back.extend(next);
    }
    Ok(back)
}

/// Opens the sessions one after the other, each with channels of its own.
fn arrive(
    dialer: &mut Dialer,
    dialect: Dialect,
    (sessions, channels): (u32, u32),
    tally: &Tally,
) -> Result<Vec<Dialed>, RunError> {
    let mut arrived = Vec::new();
    for session in 0..sessions {
        if tally.is_over() {
            break;
        }
        let mut leaver = dialer.open(false)?;
        let mut bytes = Vec::new();
        for channel in 0..channels {
            let text = dialect.subscribe_to(&format!("leavers-{session}-{channel}"));
            frames::encode_client(frames::TEXT, text.as_bytes(), &mut bytes);
        }
        // Its answer comes after those to the subscriptions.
        frames::encode_client(frames::TEXT, dialect.request().as_bytes(), &mut bytes);
        leaver.stream.write_all(&bytes)?;
        await_answer(&mut leaver, dialect)?;
        arrived.push(leaver);
    }
    Ok(arrived)
}

fn await_answer(leaver: &mut Dialed, dialect: Dialect) -> Result<(), RunError> {
    let mut reader = Reader::default();
    let mut chunk = vec![0; 64 * 1024];
    let mut bytes = std::mem::take(&mut leaver.leftover);
    loop {
        let mut rest = bytes.as_slice();
        loop {
            match reader.next(&mut rest) {
                Ok(Some(frame)) if dialect.answers_request(frame.payload) => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(fault) => return Err(RunError::Failed(fault.to_string())),
            }
        }
        let count = match leaver.stream.read(&mut chunk) {
            Ok(0) => return Err(RunError::Failed("the server closed a leaver".to_owned())),
            Ok(count) => count,
            Err(error) if is_timeout(&error) => {
                return Err(RunError::Failed("a leaver got no answer".to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        bytes.clear();
        bytes.extend_from_slice(&chunk[..count]);
    }
}
