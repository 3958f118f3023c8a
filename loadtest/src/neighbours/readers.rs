//! Publications to subscribers: large ones to readers that keep up, and a steady stream to sessions
//! that never read.

use super::{
    load::{Tally, is_timeout},
    wait_until,
};
use crate::{
    connect::{Dialed, Dialer},
    dialect::{Dialect, find_stamp},
    fail::RunError,
    frames::{self, Reader},
};
use std::{
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Scope},
    time::Duration,
};

/// Subscribers of the large publications.
pub(super) const READERS: usize = 8;
/// Length of a large publication, bytes: two of them exceed the usual limit of a send queue.
pub(super) const PUBLICATION_BYTES: usize = 600_000;
/// Large publications that are under way at any time.
const IN_FLIGHT: u64 = 2;
/// Time for a publication to reach all readers.
const PATIENCE: Duration = Duration::from_secs(3);
/// Length of the publications to those who never read, bytes, and the time between two.
const STEADY_BYTES: usize = 16 * 1024;
const STEADY_INTERVAL: Duration = Duration::from_millis(5);
/// How soon a reader notices the end.
const NOTICE: Duration = Duration::from_millis(100);

/// How far a reader is.
#[derive(Debug, Default)]
struct Progress {
    received: AtomicU64,
    has_ended: AtomicBool,
}

/// Starts the readers and the publisher of large messages.
///
/// # Errors
/// A session could not be set up.
pub(super) fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    dialer: &Dialer,
    dialect: Dialect,
    tally: &'scope Tally,
) -> Result<(), RunError> {
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let dialed = dialer.clone().open(true)?;
        dialed.stream.set_read_timeout(Some(NOTICE))?;
        let progress = Arc::new(Progress::default());
        readers.push(Arc::clone(&progress));
        scope.spawn(move || {
            read(dialed, &progress, tally);
            if !tally.is_over() {
                tally.ended.fetch_add(1, Ordering::Relaxed);
            }
            progress.has_ended.store(true, Ordering::Relaxed);
        });
    }
    let mut publisher = dialer.clone().open(false)?;
    publisher.stream.set_write_timeout(Some(PATIENCE))?;
    scope.spawn(move || {
        let mut frame = Vec::new();
        for sequence in 0.. {
            let all_have = |count: u64| {
                readers.iter().all(|it| {
                    it.received.load(Ordering::Relaxed) >= count
                        || it.has_ended.load(Ordering::Relaxed)
                })
            };
            let expected = (sequence + 1_u64).saturating_sub(IN_FLIGHT);
            if !wait_until(tally, PATIENCE, || all_have(expected)) {
                let missing = readers
                    .iter()
                    .filter(|it| it.received.load(Ordering::Relaxed) < expected);
                if !tally.is_over() {
                    tally
                        .lost
                        .fetch_add(missing.count() as u64, Ordering::Relaxed);
                }
                return;
            }
            tally.done.store(expected, Ordering::Relaxed);
            publication(dialect, sequence, PUBLICATION_BYTES, &mut frame);
            if tally.is_over() || publisher.stream.write_all(&frame).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Starts a publisher of a steady stream.
///
/// # Errors
/// The session could not be set up.
pub(super) fn publish_on_and_on<'scope>(
    scope: &'scope Scope<'scope, '_>,
    mut dialer: Dialer,
    dialect: Dialect,
    tally: &'scope Tally,
) -> Result<(), RunError> {
    let mut publisher = dialer.open(false)?;
    publisher.stream.set_write_timeout(Some(NOTICE))?;
    scope.spawn(move || {
        let mut frame = Vec::new();
        for sequence in 0.. {
            publication(dialect, sequence, STEADY_BYTES, &mut frame);
            let mut rest = frame.as_slice();
            while !rest.is_empty() && !tally.is_over() {
                match publisher.stream.write(rest) {
                    Ok(count) => rest = &rest[count..],
                    Err(error) if is_timeout(&error) => {}
                    Err(_) => return,
                }
            }
            if tally.is_over() {
                return;
            }
            thread::sleep(STEADY_INTERVAL);
        }
    });
    Ok(())
}

fn publication(dialect: Dialect, sequence: u64, bytes: usize, frame: &mut Vec<u8>) {
    let mut text = Vec::new();
    dialect.publication(sequence, 0, bytes, &mut text);
    frame.clear();
    frames::encode_client(frames::TEXT, &text, frame);
}

/// Reads until the load is over or the connection ends; each publication must be the next one.
fn read(mut dialed: Dialed, progress: &Progress, tally: &Tally) {
    let mut reader = Reader::default();
    let mut chunk = vec![0; 256 * 1024];
    let mut bytes = std::mem::take(&mut dialed.leftover);
    while !tally.is_over() {
        let mut rest = bytes.as_slice();
        loop {
            match reader.next(&mut rest) {
                Ok(Some(frame)) if frame.opcode == frames::PING => {
                    let mut pong = Vec::new();
                    frames::encode_client(frames::PONG, frame.payload, &mut pong);
                    if dialed.stream.write_all(&pong).is_err() {
                        return;
                    }
                }
                Ok(Some(frame)) if frame.opcode == frames::TEXT => {
                    let received = progress.received.load(Ordering::Relaxed);
                    let front = &frame.payload[..frame.payload.len().min(256)];
                    if find_stamp(front).is_some_and(|(sequence, _)| sequence == received) {
                        progress.received.store(received + 1, Ordering::Relaxed);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        bytes.clear();
        match dialed.stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if is_timeout(&error) => {}
            Err(_) => return,
        }
    }
}
