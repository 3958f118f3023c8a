//! The clients that note where they stop, and come back to recover what they missed.

use super::{
    faults::Faults,
    messages::{Message, Messages, Position, Subscribed},
};
use crate::{
    clock::now_ns,
    connect::Dialer,
    dialect::shorten,
    fail::RunError,
    frames::{self, Reader},
    ledger::Ledger,
    report::latency_histogram,
    wire::{Event, Rest, SendQueue, Wire},
};
use hdrhistogram::Histogram;
use std::{io, time::Duration};

/// Connections that are set up together: below what servers allow an address before authentication.
const TOGETHER: u32 = 200;
/// Requests that the kernel is given together. Each takes it about ten microseconds, and meanwhile the
/// live channel does not get the core. Then the answers to others are read.
const SUBSCRIBED_TOGETHER: usize = 2;
/// While much arrives, the thread wakes up for so many completions or after this time.
const EVENTS: u32 = 32;
const NAP: Duration = Duration::from_millis(1);

/// Sessions that are authenticated, each for one channel.
pub(super) struct Clients<'a> {
    messages: &'a Messages,
    wire: Wire,
    all: Vec<Client>,
    pub(super) state: State,
}

/// What they have together.
#[derive(Debug)]
pub(super) struct State {
    pub(super) subscribed: u64,
    /// Those that were told that they recover nothing.
    pub(super) not_recovered: u64,
    /// Publications that arrived, in whatever order.
    pub(super) received: u64,
    /// Those that have all that they missed.
    pub(super) completed: u64,
    /// Those, and the ones that will not get it.
    pub(super) finished: u64,
    /// From the request of all to the last missed publication of each.
    pub(super) latency_ns: Histogram<u64>,
    pub(super) faults: Faults,
    started_ns: u64,
    /// Publications that each of them has missed.
    missed: u64,
}

#[derive(Debug)]
struct Client {
    reader: Reader,
    channel: u32,
    ledger: Ledger,
    position: Option<Position>,
    answer: Option<Subscribed>,
    is_finished: bool,
    has_ended: bool,
}

impl<'a> Clients<'a> {
    /// Connects, and shows the dialer's token.
    ///
    /// # Errors
    /// A connection could not be set up.
    pub(super) fn open(
        dialer: &mut Dialer,
        messages: &'a Messages,
        (count, channels, missed): (u32, u32, u32),
    ) -> Result<Self, RunError> {
        let mut clients = Self {
            messages,
            wire: Wire::new(count)?,
            all: Vec::new(),
            state: State::new(missed.into()),
        };
        for first in (0..count).step_by(TOGETHER as usize) {
            let ready = dialer.open_together(TOGETHER.min(count - first), false)?;
            for (dialed, number) in ready.into_iter().zip(first..) {
                let slot = clients.wire.register_socket(dialed.stream, dialed.tls)?;
                clients.all.push(Client {
                    reader: Reader::default(),
                    channel: number % channels,
                    ledger: Ledger::default(),
                    position: None,
                    answer: None,
                    is_finished: false,
                    has_ended: false,
                });
                let Self {
                    wire, all, state, ..
                } = &mut clients;
                let client = &mut all[slot as usize];
                client.received(messages, slot, &dialed.leftover, wire.send_queue(), state);
            }
        }
        Ok(clients)
    }

    /// Subscribes all of them, as fast as the kernel takes it; those with a position recover from it.
    ///
    /// # Errors
    /// The ring failed.
    pub(super) fn subscribe(&mut self, positions: &[Option<Position>]) -> io::Result<()> {
        self.state.started_ns = now_ns();
        for first in (0..self.all.len()).step_by(SUBSCRIBED_TOGETHER) {
            let last = self.all.len().min(first + SUBSCRIBED_TOGETHER);
            for index in first..last {
                let client = &mut self.all[index];
                client.position = positions.get(index).copied().flatten();
                let (channel, position) = (client.channel, client.position);
                let slot = u32::try_from(index).expect("a ring's table is far below u32");
                self.wire.send_queue().send_with(slot, |out| {
                    Messages::subscribe(channel, position.as_ref(), out);
                });
            }
            self.turn(Duration::ZERO)?;
        }
        Ok(())
    }

    /// Where they were told that they are.
    pub(super) fn positions(&self) -> Vec<Option<Position>> {
        let position = |it: &Client| it.answer.and_then(|answer| answer.position);
        self.all.iter().map(position).collect()
    }

    /// Looks after them until a condition holds; false if before that nothing happened for
    /// `patience`.
    ///
    /// # Errors
    /// The ring failed.
    pub(super) fn wait_until(
        &mut self,
        patience: Duration,
        condition: impl Fn(&State) -> bool,
    ) -> io::Result<bool> {
        let patience_ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let progress = |state: &State| (state.subscribed, state.received);
        let (mut last, mut last_ns) = (progress(&self.state), now_ns());
        while !condition(&self.state) {
            self.turn(NAP)?;
            if progress(&self.state) != last {
                (last, last_ns) = (progress(&self.state), now_ns());
            } else if now_ns() - last_ns > patience_ns {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks after them for this time.
    ///
    /// # Errors
    /// The ring failed.
    pub(super) fn hold(&mut self, time: Duration) -> io::Result<()> {
        let end_ns = now_ns() + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        while now_ns() < end_ns {
            self.turn(NAP)?;
        }
        Ok(())
    }

    /// Counts what has not arrived; `published` counts the publications since they were gone.
    pub(super) fn count_missing(&mut self, published: u64) {
        let recovered = self.all.iter().filter(|it| it.has_recovered());
        let missing = recovered.map(|it| published.saturating_sub(it.ledger.next()));
        self.state.faults.lost += missing.sum::<u64>();
    }

    fn turn(&mut self, patience: Duration) -> io::Result<()> {
        let Self {
            messages,
            wire,
            all,
            state,
        } = self;
        let rest = Rest {
            events: EVENTS,
            patience,
        };
        wire.turn(rest, |slot, event, queue| {
            let client = &mut all[slot as usize];
            match event {
                Event::Received(bytes) => client.received(messages, slot, bytes, queue, state),
                Event::Closed(error) => {
                    let words = error.map(|error| error.to_string());
                    client.end(
                        state,
                        words.as_deref().unwrap_or("the connection was closed"),
                    );
                }
            }
        })
    }
}

impl State {
    fn new(missed: u64) -> Self {
        Self {
            subscribed: 0,
            not_recovered: 0,
            received: 0,
            completed: 0,
            finished: 0,
            latency_ns: latency_histogram(),
            faults: Faults::default(),
            started_ns: 0,
            missed,
        }
    }
}

impl Client {
    fn has_recovered(&self) -> bool {
        self.answer.is_some_and(|it| it.recovered == Some(true))
    }

    /// Whether nothing is awaited from it any more.
    fn finish(&mut self, state: &mut State) -> bool {
        let is_new = !std::mem::replace(&mut self.is_finished, true);
        state.finished += u64::from(is_new);
        is_new
    }

    fn end(&mut self, state: &mut State, words: &str) {
        if !std::mem::replace(&mut self.has_ended, true) {
            state.faults.disconnected(words);
            self.finish(state);
        }
    }

    fn received(
        &mut self,
        messages: &Messages,
        slot: u32,
        mut bytes: &[u8],
        queue: &mut SendQueue,
        state: &mut State,
    ) {
        while !self.has_ended {
            let frame = match self.reader.next(&mut bytes) {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(fault) => return self.end(state, &fault.to_string()),
            };
            match frame.opcode {
                frames::PING => queue.send_with(slot, |out| {
                    frames::encode_client(frames::PONG, frame.payload, out);
                }),
                frames::CLOSE => {
                    let words = shorten(frame.payload.get(2..).unwrap_or_default());
                    self.end(state, &format!("the server closed: {words}"));
                }
                frames::TEXT => {
                    let message = messages.read(self.channel, frame.payload);
                    self.take(message, state);
                }
                _ => {}
            }
        }
    }

    fn take(&mut self, message: Message, state: &mut State) {
        match message {
            Message::Subscribed(told) => {
                state.subscribed += 1;
                self.answer = Some(told);
                if told.recovered == Some(false) {
                    state.not_recovered += 1;
                    self.finish(state);
                }
            }
            Message::Delivery(sequence, position) => {
                let is_new = sequence >= self.ledger.next();
                if is_new && self.position.is_some_and(|last| position <= last) {
                    let position = shorten(&position);
                    let words = format!("{position}, the position of {sequence}, is too low");
                    state.faults.altered(words);
                }
                self.position = Some(position);
                self.arrived(sequence, state);
            }
            Message::Altered(sequence, words) => {
                state.faults.altered(words);
                if let Some(sequence) = sequence {
                    self.arrived(sequence, state);
                }
            }
            Message::Rejected(words) => state.faults.altered(words),
            Message::Other => {}
        }
    }

    fn arrived(&mut self, sequence: u64, state: &mut State) {
        state.received += 1;
        // Who recovers nothing is owed only what follows, and before the answer nothing may come.
        if !self.has_recovered() {
            return;
        }
        state.faults.arrived(&mut self.ledger, sequence);
        if self.ledger.next() >= state.missed && self.finish(state) {
            let latency_ns = now_ns().saturating_sub(state.started_ns);
            state.latency_ns.saturating_record(latency_ns);
            state.completed += 1;
        }
    }
}
