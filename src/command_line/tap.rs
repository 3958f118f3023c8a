//! `fanwire tap`: what is published in a server on this host, seen in its memory.

use super::{CommandError, print};
use clap::Args;
use fanwire::observe::tap::{Seen, TapError, TapOptions, tap};
use std::io::Write as _;

/// Print what is published in a server on this host, whoever publishes it and for whomever, one JSON object per
/// line, until it is interrupted or the server ends.
///
/// Reads the memory of the ring between the shards, which the server does not notice: for the server's user and
/// root only. What is overwritten before it is seen is counted on standard error.
#[derive(Args)]
pub(crate) struct Tap {
    /// The channels; all if there are none. `*` at the end stands for any rest.
    channels: Vec<String>,
    /// The server's process; needed if there are several.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Begin with the oldest publication that is still in the ring.
    #[arg(long)]
    oldest: bool,
    /// End after so many publications.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl Tap {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let options = TapOptions {
            process_id: self.pid,
            channels: self.channels,
            from_oldest: self.oldest,
        };
        let mut shown = 0;
        let tapped = tap(&options, |seen| {
            match seen {
                Seen::Publication(line) => {
                    print(&format!("{line}\n")).map_err(|error| match error {
                        CommandError::Output(error) => error,
                        CommandError::Server(text) => std::io::Error::other(text),
                    })?;
                    shown += 1;
                }
                Seen::Missed(records) => {
                    // Nobody may be there to read it.
                    let _ = writeln!(std::io::stderr(), "fanwire: missed {records} records");
                }
            }
            Ok(self.count.is_none_or(|count| shown < count))
        });
        tapped.map_err(|error| match error {
            TapError::Output(error) => CommandError::Output(error),
            error => CommandError::Server(error.to_string()),
        })
    }
}
