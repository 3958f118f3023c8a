//! Load generator and checker for WebSocket fan-out servers: one thread, io_uring, every frame
//! checked.
//!
//! ```text
//!  cli ─▶ connect (TCP, upgrade, token, subscription) ─▶ wire (all sockets in one io_uring)
//!                                                          │ bytes
//!            report ◀─ measure, process (/proc) ◀─ frames ─▶ deliveries ─▶ ledger, publications
//!                                                  sample (async-tungstenite, the second opinion)
//! ```

mod accept;
mod cli;
mod clock;
mod conformance;
mod connect;
mod deliveries;
mod dialect;
mod echo;
mod fail;
mod fanout;
mod floor;
mod frames;
mod idle;
mod inflated;
mod ledger;
mod measure;
mod neighbours;
mod placeholders;
mod process;
mod publications;
mod realtime;
mod recovery;
mod report;
mod sample;
mod tls;
mod wire;

use clap::Parser;
use cli::{Cli, Command};
use fail::RunError;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::{num::NonZeroU64, process::ExitCode};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(report) => {
            if cli.run.json {
                println!("{}", report.to_json());
            } else {
                print!("{}", report.to_table());
            }
            if report.is_clean() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(1)
            }
        }
        Err(error) => {
            eprintln!("fanwire-loadtest: {error}");
            match error {
                RunError::Usage(_) => ExitCode::from(2),
                RunError::Failed(_) => ExitCode::from(1),
            }
        }
    }
}

fn run(cli: &Cli) -> Result<report::Report, RunError> {
    raise_descriptor_limit();
    // Without this the kernel may add 50 µs to every sleep of a fixed rate. A refusal costs only
    // precision.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    if let Some(core) = cli.run.core {
        pin(core)?;
    }
    match &cli.command {
        Command::FanOut { server, load } => fanout::run(server, load),
        Command::Echo { server, load } => echo::run(server, load),
        Command::Connect { server, load } => accept::run(server, load),
        Command::Idle { server, load } => idle::run(server, load),
        Command::Neighbours { server, load } => neighbours::run(server, load),
        Command::Recovery { server, load } => recovery::run(server, load),
        Command::Conformance(suite) => conformance::run(suite),
        Command::Floor(load) => floor::run(load, cli.run.core),
    }
}

/// Pins the calling thread, and with it the threads that it starts later.
fn pin(core: usize) -> Result<(), RunError> {
    if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        Ok(())
    } else {
        Err(RunError::Usage(format!(
            "there is no core {core} for this process"
        )))
    }
}

/// The soft limit bounds a ring's socket table, so it goes up to the hard one.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // A refusal shows later, with the number that did not fit.
    let _ = setrlimit(Resource::Nofile, limit);
}
