//! All sockets of the generator in one io_uring: multishot receive into provided buffers, batched
//! sends.
//!
//! A load generator must cost much less than the server it measures, so an event costs no system
//! call of its own: [`Wire::turn`] submits what is waiting, sleeps until something arrived and
//! hands out all of it.
//!
//! Slots are never used twice, so a late completion cannot reach another connection.

#![expect(
    unsafe_code,
    reason = "io_uring works on raw addresses, and some socket options have no safe wrapper"
)]

mod bare;
mod buffers;
mod send_queue;
mod socket;

pub(crate) use bare::{BareSender, RoundPayload};
pub(crate) use send_queue::SendQueue;
pub(crate) use socket::connect_from;

use crate::tls::TlsSession;
use buffers::BufferRing;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::{
    collections::HashSet,
    io,
    net::TcpStream,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

/// Entries of the submission queue: a full one is submitted and filled again.
const SUBMISSIONS: u32 = 1024;
/// Entries of the completion queue; more wait inside the kernel.
const COMPLETIONS: u32 = 16_384;

/// What an operation was, in the upper half of its user data; the slot is the lower half.
const RECEIVE: u64 = 0;
const SEND: u64 = 1 << 32;

/// What happened on a connection.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// These bytes arrived.
    Received(&'a [u8]),
    /// The connection ended; with an error if it was not the server's orderly end.
    Closed(Option<io::Error>),
}

/// How long [`Wire::turn`] sleeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest {
    /// Until so many completions are there, 1 or more. Being woken for each single one costs both
    /// the server and us more than the receive itself.
    pub(crate) events: u32,
    /// But no longer than this.
    pub(crate) patience: Duration,
}

impl Rest {
    /// Until anything happens.
    pub(crate) fn until_event(patience: Duration) -> Self {
        Self {
            events: 1,
            patience,
        }
    }
}

/// One ring with its own table of sockets: they take no descriptors of the process.
pub(crate) struct Wire {
    ring: IoUring,
    buffers: BufferRing,
    send_queue: SendQueue,
    /// Slots whose multishot receive has to be armed.
    arming: Vec<u32>,
    /// Scratch for [`Wire::turn`]: user data, result, flags.
    completions: Vec<(u64, i32, u32)>,
    /// Scratch for [`Wire::turn`]: what was decrypted.
    plain: Vec<u8>,
    /// Connections that ended because of what was received; more may arrive.
    broken: HashSet<u32>,
    slot_count: u32,
}

impl Wire {
    /// A ring for up to `slot_count` connections; the kernel's limit for it is RLIMIT_NOFILE.
    ///
    /// # Errors
    /// The kernel rejects io_uring, or the table is too large.
    pub(crate) fn new(slot_count: u32) -> io::Result<Self> {
        let ring = build_ring(SUBMISSIONS, COMPLETIONS)?;
        ring.submitter().register_files_sparse(slot_count)?;
        let buffers = BufferRing::new(&ring)?;
        Ok(Self {
            ring,
            buffers,
            send_queue: SendQueue::default(),
            arming: Vec::new(),
            completions: Vec::new(),
            plain: Vec::new(),
            broken: HashSet::new(),
            slot_count,
        })
    }

    /// Takes a connected socket over and gives it the next slot, counted from 0. Its descriptor is
    /// closed. What is sent and received goes through the TLS session, if it has one.
    ///
    /// # Errors
    /// The table is full.
    pub(crate) fn register_socket(
        &mut self,
        stream: TcpStream,
        tls: Option<TlsSession>,
    ) -> io::Result<u32> {
        let slot = self.send_queue.lane_count();
        if slot >= self.slot_count {
            return Err(io::Error::other("the socket table is full"));
        }
        let descriptor = OwnedFd::from(stream);
        self.ring
            .submitter()
            .register_files_update(slot, &[descriptor.as_raw_fd()])?;
        self.send_queue.add_lane(tls);
        self.arming.push(slot);
        Ok(slot)
    }

    /// Queues bytes outside [`Wire::turn`]; they leave with the next turn.
    pub(crate) fn send_queue(&mut self) -> &mut SendQueue {
        &mut self.send_queue
    }

    /// Submits what is queued, rests, hands out all that happened meanwhile.
    ///
    /// # Errors
    /// The ring itself failed; connections' errors are events.
    pub(crate) fn turn(
        &mut self,
        rest: Rest,
        mut handler: impl FnMut(u32, Event<'_>, &mut SendQueue),
    ) -> io::Result<()> {
        self.fill()?;
        let timeout = types::Timespec::from(rest.patience);
        let arguments = types::SubmitArgs::new().timespec(&timeout);
        match self
            .ring
            .submitter()
            .submit_with_args(rest.events as usize, &arguments)
        {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY)
                ) => {}
            Err(error) => return Err(error),
        }
        self.completions.clear();
        self.completions.extend(
            self.ring
                .completion()
                .map(|entry| (entry.user_data(), entry.result(), entry.flags())),
        );
        for &(user_data, result, flags) in &self.completions {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the slot is the lower half by construction"
            )]
            let slot = user_data as u32;
            if user_data & SEND != 0 {
                self.send_queue.sent(slot, result);
                continue;
            }
            if self.broken.contains(&slot) {
                if let Some(buffer) = cqueue::buffer_select(flags) {
                    self.buffers.give_back(buffer);
                }
                continue;
            }
            if !cqueue::more(flags) && (result > 0 || result == -libc::ENOBUFS) {
                self.arming.push(slot);
            }
            match (usize::try_from(result), cqueue::buffer_select(flags)) {
                (Ok(length @ 1..), Some(buffer)) => {
                    // SAFETY: this completion lent us `buffer` with `length` bytes written, and it
                    // is given back only below, after the handler is done with the slice.
                    let bytes = unsafe { self.buffers.bytes(buffer, length) };
                    match self.send_queue.decrypt(slot, bytes, &mut self.plain) {
                        Ok(false) => handler(slot, Event::Received(bytes), &mut self.send_queue),
                        Ok(true) => {
                            handler(slot, Event::Received(&self.plain), &mut self.send_queue);
                        }
                        Err(error) => {
                            handler(slot, Event::Received(&self.plain), &mut self.send_queue);
                            self.broken.insert(slot);
                            self.send_queue.shut(slot);
                            self.ring.submitter().register_files_update(slot, &[-1])?;
                            handler(slot, Event::Closed(Some(error)), &mut self.send_queue);
                        }
                    }
                    self.buffers.give_back(buffer);
                }
                (Err(_), _) if result == -libc::ENOBUFS => {}
                _ => {
                    let error = (result < 0).then(|| io::Error::from_raw_os_error(-result));
                    self.send_queue.shut(slot);
                    self.ring.submitter().register_files_update(slot, &[-1])?;
                    handler(slot, Event::Closed(error), &mut self.send_queue);
                }
            }
        }
        Ok(())
    }

    /// Moves armings and sends into the submission queue, submitting whenever it is full.
    fn fill(&mut self) -> io::Result<()> {
        while let Some(slot) = self.arming.pop() {
            let entry = opcode::RecvMulti::new(types::Fixed(slot), buffers::GROUP)
                .build()
                .user_data(RECEIVE | u64::from(slot));
            // SAFETY: a receive into provided buffers names no memory of ours; the buffers are
            // never freed.
            unsafe { push(&mut self.ring, &entry) }?;
        }
        while let Some((slot, bytes)) = self.send_queue.take_off() {
            // MSG_WAITALL: the kernel finishes a short send by itself instead of bothering us.
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let entry = opcode::Send::new(types::Fixed(slot), bytes.as_ptr(), length)
                .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
                .build()
                .user_data(SEND | u64::from(slot));
            // SAFETY: `take_off` promises that the lane keeps these bytes unmoved and unchanged
            // until `sent` is called for the slot, which happens on this operation's completion; a
            // dropped send queue leaks them.
            unsafe { push(&mut self.ring, &entry) }?;
        }
        Ok(())
    }
}

fn build_ring(submissions: u32, completions: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_cqsize(completions)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(submissions)
        .map_err(|error| io::Error::new(error.kind(), format!("io_uring is refused here: {error}")))
}

/// Puts one entry into the submission queue, submitting first when it is full.
///
/// # Safety
/// Memory named by `entry` must stay valid until its completion.
unsafe fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    loop {
        // SAFETY: the caller promises that memory named by the entry outlives the operation.
        let pushed = unsafe { ring.submission().push(entry) };
        if pushed.is_ok() {
            return Ok(());
        }
        ring.submit()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let suggestion = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (suggestion, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_arrive_sends_leave_in_order_and_an_end_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut wire = Wire::new(8).unwrap();
        let mut far_ends = Vec::new();
        for expected_slot in 0..3 {
            let (suggestion, far) = pair(&listener);
            assert_eq!(
                wire.register_socket(suggestion, None).unwrap(),
                expected_slot
            );
            far_ends.push(far);
        }
        // More than the socket's buffers hold, in many pieces: order must survive short sends.
        let pieces: Vec<Vec<u8>> = (0..200u8).map(|value| vec![value; 40_000]).collect();
        for piece in &pieces {
            wire.send_queue().send(1, piece);
        }
        let mut far = far_ends.remove(1);
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; 200 * 40_000];
            far.read_exact(&mut all).unwrap();
            far.write_all(b"done").unwrap();
            all
        });
        far_ends[1].write_all(b"hello").unwrap();
        let (mut heard, mut closed) = (vec![Vec::new(); 3], Vec::new());
        while closed.is_empty() {
            wire.turn(
                Rest::until_event(Duration::from_millis(50)),
                |slot, event, _| match event {
                    Event::Received(bytes) => heard[slot as usize].extend_from_slice(bytes),
                    Event::Closed(error) => closed.push((slot, error.is_none())),
                },
            )
            .unwrap();
        }
        assert_eq!(reader.join().unwrap(), pieces.concat());
        assert_eq!(heard[1], b"done");
        assert_eq!(heard[2], b"hello");
        assert_eq!(closed, [(1, true)]);
    }

    #[test]
    fn a_full_table_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut wire = Wire::new(1).unwrap();
        wire.register_socket(pair(&listener).0, None).unwrap();
        assert!(wire.register_socket(pair(&listener).0, None).is_err());
    }
}
