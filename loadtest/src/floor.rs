//! `floor`: what the kernel charges for sends alone, here and now. No server can be below it.
//!
//! A sender on one core, a receiver on another that drains as the generator does. The kinds of
//! sends are interleaved round by round, so that a noisy machine is equally unfair to all.

use crate::{
    cli::FloorArgs,
    clock::{now_ns, thread_cpu_ns},
    fail::RunError,
    frames::{TEXT, encode_server},
    pin,
    report::{Report, approximate},
    wire::{BareSender, Event, Rest, RoundPayload, Wire},
};
use std::{
    io::{self, IoSlice, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Rounds before the measured ones, per kind.
const WARM_UP_ROUNDS: u32 = 2;
/// How long the receiver may take to drain one round.
const DRAIN_PATIENCE_NS: u64 = 10_000_000_000;
/// The receiver is woken as seldom as the generator of `fanout` is.
const RECEIVER_REST: Rest = Rest {
    events: 32,
    patience: Duration::from_millis(1),
};
/// Sleep of the sender while the receiver drains.
const DRAIN_NAP: Duration = Duration::from_micros(200);

/// What receiver and sender share.
#[derive(Debug, Default)]
struct Drain {
    received_bytes: AtomicU64,
    is_over: AtomicBool,
}

/// One kind of sending and the CPU it took per frame, in nanoseconds, by round.
struct Kind {
    key: &'static str,
    label: String,
    way: Way,
    samples_ns: Vec<f64>,
}

enum Way {
    /// One send() per socket.
    Call(&'static [u8]),
    /// One operation per socket in batches on an io_uring.
    Ring(RoundPayload),
}

struct Sender {
    sockets: Vec<TcpStream>,
    ring: BareSender,
    rejected: u64,
}

/// Runs the command. The calling thread becomes the sender.
///
/// # Errors
/// Sockets or cores are missing.
pub(crate) fn run(arguments: &FloorArgs, receiver_core: Option<usize>) -> Result<Report, RunError> {
    let receiver_core = receiver_core.or_else(|| other_core(arguments.sender_core));
    let (drain, connections) = (Arc::new(Drain::default()), arguments.connections);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let shared = Arc::clone(&drain);
    let receiver = thread::Builder::new()
        .name("receiver".to_owned())
        .spawn(move || {
            let result = receive(&shared, address, connections, receiver_core);
            // The sender must not wait for a receiver that is gone. Release: pairs with the acquire
            // load in `wait_for`.
            shared.is_over.store(true, Ordering::Release);
            result
        })?;
    pin(arguments.sender_core)?;
    let outcome = send_all(&listener, &drain, arguments);
    // Release: pairs with the acquire load in `receive`.
    drain.is_over.store(true, Ordering::Release);
    let received = receiver
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("it panicked").into()));
    received.map_err(|error| RunError::Failed(format!("the receiver failed: {error}")))?;
    let (kinds, rejected) = outcome?;

    let mut report = Report::new(format!(
        "bare sends to {connections} sockets, {} frame(s) of {} bytes payload each",
        arguments.frames, arguments.size
    ));
    report.count("rounds", "rounds per kind", u64::from(arguments.rounds));
    for kind in kinds {
        let [least, median, most] = spread(kind.samples_ns);
        report.row(
            format!("{}_ns_per_frame", kind.key),
            &kind.label,
            median,
            "ns per frame",
        );
        report.row(
            format!("{}_ns_per_frame_min", kind.key),
            "  least",
            least,
            "ns",
        );
        report.row(
            format!("{}_ns_per_frame_max", kind.key),
            "  most",
            most,
            "ns",
        );
    }
    report.failure_count("rejected_total", "sends short or rejected", rejected);
    Ok(report)
}

fn send_all(
    listener: &TcpListener,
    drain: &Drain,
    arguments: &FloorArgs,
) -> Result<(Vec<Kind>, u64), RunError> {
    let sockets = accept_all(listener, drain, arguments.connections)?;
    let ring = BareSender::new(&sockets)?;
    let mut sender = Sender {
        sockets,
        ring,
        rejected: 0,
    };
    let mut kinds = kinds(arguments.size, arguments.frames);
    let (mut sent_bytes, sockets) = (0, u64::from(arguments.connections));
    for round in 0..arguments.rounds + WARM_UP_ROUNDS {
        for kind in &mut kinds {
            let start_ns = thread_cpu_ns();
            sender.round(&kind.way)?;
            let used_ns = thread_cpu_ns() - start_ns;
            sent_bytes += kind.way.byte_count() * sockets;
            if sender.rejected > 0 {
                return Ok((kinds, sender.rejected));
            }
            wait_for(drain, sent_bytes)?;
            if round >= WARM_UP_ROUNDS {
                let frames = approximate(sockets * u64::from(arguments.frames));
                kind.samples_ns.push(approximate(used_ns) / frames);
            }
        }
    }
    Ok((kinds, sender.rejected))
}

fn kinds(size: u32, frame_count: u32) -> Vec<Kind> {
    let mut frame = Vec::new();
    encode_server(TEXT, &vec![b'x'; size as usize], &mut frame);
    // Leaked, so that the ring may name them whatever happens; once per process.
    let all: &'static [u8] = frame.repeat(frame_count as usize).leak();
    let kind = |key, label, way| Kind {
        key,
        label,
        way,
        samples_ns: Vec::new(),
    };
    let mut kinds = vec![
        kind("call", format!("send() of {frame_count}"), Way::Call(all)),
        kind(
            "ring",
            format!("io_uring SEND of {frame_count}"),
            Way::Ring(RoundPayload::contiguous(all)),
        ),
    ];
    if frame_count > 1 {
        let parts: Vec<IoSlice<'static>> = (0..frame_count)
            .map(|_| IoSlice::new(&all[..frame.len()]))
            .collect();
        let way = Way::Ring(RoundPayload::vectored(parts.leak()));
        kinds.push(kind(
            "ring_vector",
            format!("io_uring SENDMSG of {frame_count}"),
            way,
        ));
    }
    kinds
}

impl Way {
    fn byte_count(&self) -> u64 {
        match self {
            Self::Call(bytes) => bytes.len() as u64,
            Self::Ring(shape) => shape.byte_count() as u64,
        }
    }
}

impl Sender {
    fn round(&mut self, way: &Way) -> io::Result<()> {
        match way {
            Way::Call(bytes) => {
                for socket in &mut self.sockets {
                    // The socket does not block: a full one is an error like a short send.
                    let is_whole = matches!(socket.write(bytes), Ok(count) if count == bytes.len());
                    self.rejected += u64::from(!is_whole);
                }
            }
            Way::Ring(shape) => self.rejected += u64::from(self.ring.round(shape)?),
        }
        Ok(())
    }
}

/// Takes the receiver's connections, all from this machine.
fn accept_all(
    listener: &TcpListener,
    drain: &Drain,
    count: u32,
) -> Result<Vec<TcpStream>, RunError> {
    listener.set_nonblocking(true)?;
    let mut sockets = Vec::new();
    while sockets.len() < count as usize {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nodelay(true)?;
                socket.set_nonblocking(true)?;
                sockets.push(socket);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Acquire: pairs with the release store when the receiver ends.
                if drain.is_over.load(Ordering::Acquire) {
                    return Err(RunError::Failed("the receiver ended".to_owned()));
                }
                thread::sleep(DRAIN_NAP);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sockets)
}

/// Returns when the receiver has got so many bytes in all.
fn wait_for(drain: &Drain, sent_bytes: u64) -> Result<(), RunError> {
    let end_ns = now_ns() + DRAIN_PATIENCE_NS;
    // Relaxed: a count and nothing else. Acquire: pairs with the receiver's release store.
    while drain.received_bytes.load(Ordering::Relaxed) < sent_bytes {
        if drain.is_over.load(Ordering::Acquire) || now_ns() > end_ns {
            return Err(RunError::Failed("the receiver does not drain".to_owned()));
        }
        thread::sleep(DRAIN_NAP);
    }
    Ok(())
}

/// The receiver's thread: connects, then counts bytes until the run is over.
fn receive(
    drain: &Drain,
    address: std::net::SocketAddr,
    count: u32,
    core: Option<usize>,
) -> Result<(), RunError> {
    core.map(pin).transpose()?;
    let mut wire = Wire::new(count)?;
    for _ in 0..count {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        wire.register_socket(stream, None)?;
    }
    // Acquire: pairs with the release store of the sender when it is done.
    while !drain.is_over.load(Ordering::Acquire) {
        wire.turn(RECEIVER_REST, |_, event, _| {
            if let Event::Received(bytes) = event {
                // Relaxed: a count and nothing else.
                drain
                    .received_bytes
                    .fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
        })?;
    }
    Ok(())
}

fn other_core(core: usize) -> Option<usize> {
    core_affinity::get_core_ids()?
        .into_iter()
        .map(|found| found.id)
        .find(|&found| found != core)
}

/// Least, median and most; zeroes of nothing.
fn spread(mut samples: Vec<f64>) -> [f64; 3] {
    samples.sort_by(f64::total_cmp);
    match samples.as_slice() {
        [] => [0.0; 3],
        sorted => [
            sorted[0],
            sorted[sorted.len() / 2],
            sorted[sorted.len() - 1],
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_least_median_and_most() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
        assert_eq!(spread(Vec::new()), [0.0; 3]);
    }

    #[test]
    fn a_small_floor_is_measured_in_every_kind() {
        for (frames, kinds) in [(1, 2), (8, 3)] {
            let arguments = FloorArgs {
                connections: 20,
                size: 128,
                frames,
                rounds: 3,
                sender_core: 0,
            };
            let report = run(&arguments, None).unwrap();
            assert!(report.is_clean(), "{}", report.to_table());
            let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
            for key in ["call", "ring", "ring_vector"].iter().take(kinds) {
                assert!(
                    json[format!("{key}_ns_per_frame")].as_f64().unwrap() > 0.0,
                    "{key}"
                );
            }
        }
    }
}
