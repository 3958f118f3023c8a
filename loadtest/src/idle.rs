//! `idle`: how much memory a connection costs that does nothing, and whether it stays.

use crate::{
    cli::{IdleArgs, ServerArgs},
    clock::now_ns,
    connect::{Dialer, Target},
    fail::RunError,
    frames::{self, Reader},
    measure::Meter,
    process::Memory,
    report::{Report, approximate},
    wire::{Event, Rest, SendQueue, Wire},
};
use std::{io, time::Duration};

/// Connections per ring: the kernel's limit for a ring's table is RLIMIT_NOFILE, commonly 20,000 or
/// more.
const RING_CONNECTIONS: u32 = 16_000;
/// Time for the server to finish what the last connection started.
const SETTLE_NS: u64 = 1_000_000_000;
/// Sleep per ring; all rings are looked at in turn.
const TURN_PATIENCE: Duration = Duration::from_millis(10);
/// After so many connections the open ones are looked after: a server pings those it has had for
/// long.
const CARE_INTERVAL: u32 = 500;

/// The connections of one ring.
struct Ward {
    wire: Wire,
    readers: Vec<Reader>,
}

#[derive(Debug, Default)]
struct Care {
    pings: u64,
    disconnects: u64,
    first_fault: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// The server's process cannot be read, or no connection could be made at all.
pub(crate) fn run(server: &ServerArgs, arguments: &IdleArgs) -> Result<Report, RunError> {
    let mut dialer = Dialer::new(
        Target::parse(&server.url)?,
        server.dialect,
        server.token.clone(),
    )
    .with_deflate(arguments.deflate);
    let memory = || server.pid.map(Memory::take).transpose();
    let (mut wards, mut care) = (Vec::<Ward>::new(), Care::default());
    let before = memory()?;
    let start_ns = now_ns();
    let (mut permissive, mut failed) = (0, None);
    while permissive < arguments.connections {
        if permissive % RING_CONNECTIONS == 0 {
            wards.push(Ward::new(
                RING_CONNECTIONS.min(arguments.connections - permissive),
            )?);
        }
        match dialer.open(arguments.subscribe) {
            Ok(dialed) => {
                let ward = wards.last_mut().expect("a ward was made for connection 0");
                let slot = ward.wire.register_socket(dialed.stream, dialed.tls)?;
                ward.readers.push(Reader::new(arguments.deflate));
                care.received(
                    &mut ward.readers[slot as usize],
                    slot,
                    &dialed.leftover,
                    ward.wire.send_queue(),
                );
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
        permissive += 1;
        if permissive % CARE_INTERVAL == 0 {
            care.round(&mut wards, Duration::ZERO)?;
        }
    }
    let open_seconds = approximate(now_ns() - start_ns) / 1e9;
    care.rounds_until(&mut wards, now_ns() + SETTLE_NS)?;
    let after = memory()?;
    let meter = Meter::start(server.pid)?;
    care.rounds_until(&mut wards, now_ns() + arguments.hold * 1_000_000_000)?;
    let usage = meter.stop()?;
    let with_connections = memory()?;

    let mut report = Report::new(format!("{} idle connections", arguments.connections));
    report.count("connections", "connections opened", u64::from(permissive));
    report.row("open_seconds", "time to open them", open_seconds, "s");
    if let (Some(before), Some(after), Some(with_connections)) = (before, after, with_connections) {
        let per_connection = |later: u64, earlier: u64| {
            (approximate(later) - approximate(earlier)) / f64::from(permissive.max(1))
        };
        let anonymous = per_connection(after.anonymous_bytes, before.anonymous_bytes);
        report.row(
            "server_bytes_per_connection",
            "server user memory per connection",
            anonymous,
            "bytes",
        );
        let anonymous = per_connection(with_connections.anonymous_bytes, before.anonymous_bytes);
        report.row(
            "server_bytes_per_connection_held",
            "the same after holding",
            anonymous,
            "bytes",
        );
        let resident = per_connection(after.resident_bytes, before.resident_bytes);
        report.row(
            "server_rss_bytes_per_connection",
            "all resident memory per connection",
            resident,
            "bytes",
        );
        report.row(
            "server_anonymous_mib",
            "server anonymous memory",
            approximate(with_connections.anonymous_bytes) / f64::from(1 << 20),
            "MiB",
        );
    }
    report.row("hold_seconds", "held for", approximate(arguments.hold), "s");
    if let Some(server_cpu_ns) = usage.server_cpu_ns {
        let percent = 100.0 * approximate(server_cpu_ns) / approximate(usage.wall_ns.max(1));
        report.row(
            "server_busy_percent",
            "server busy while holding",
            percent,
            "% of a core",
        );
    }
    report.count("pings", "pings answered", care.pings);
    report.failure_count(
        "disconnects_total",
        "connections ended by the server",
        care.disconnects,
    );
    if let Some(error) = failed {
        report.failure(format!("{error} (with {permissive} connections open)"));
    }
    if let Some(words) = care.first_fault {
        report.note(format!("first fault: {words}"));
    }
    Ok(report)
}

impl Ward {
    fn new(connection_count: u32) -> io::Result<Self> {
        Ok(Self {
            wire: Wire::new(connection_count)?,
            readers: Vec::new(),
        })
    }
}

impl Care {
    fn rounds_until(&mut self, wards: &mut [Ward], end_ns: u64) -> io::Result<()> {
        while now_ns() < end_ns {
            self.round(wards, TURN_PATIENCE)?;
        }
        Ok(())
    }

    /// Looks once at every ring, waiting up to `patience` at each.
    fn round(&mut self, wards: &mut [Ward], patience: Duration) -> io::Result<()> {
        for Ward { wire, readers } in wards {
            wire.turn(
                Rest::until_event(patience),
                |slot, event, send_queue| match event {
                    Event::Received(bytes) => {
                        self.received(&mut readers[slot as usize], slot, bytes, send_queue)
                    }
                    Event::Closed(_) => self.disconnects += 1,
                },
            )?;
        }
        Ok(())
    }

    fn received(
        &mut self,
        reader: &mut Reader,
        slot: u32,
        mut bytes: &[u8],
        send_queue: &mut SendQueue,
    ) {
        loop {
            match reader.next(&mut bytes) {
                Ok(Some(frame)) if frame.opcode == frames::PING => {
                    self.pings += 1;
                    send_queue.send_with(slot, |out| {
                        frames::encode_client(frames::PONG, frame.payload, out)
                    });
                }
                Ok(Some(frame)) if frame.opcode == frames::CLOSE => {
                    self.first_fault
                        .get_or_insert_with(|| format!("a close frame: {:?}", frame.payload));
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(fault) => {
                    self.first_fault.get_or_insert_with(|| fault.to_string());
                    return;
                }
            }
        }
    }
}
