//! The command line.

use crate::dialect::Dialect;
use clap::{ArgGroup, Args, Parser, Subcommand, value_parser};

/// Measures WebSocket servers: fan-out, request/response, neighbours, recovery, accept, idle memory,
/// and the kernel's own floor.
///
/// Every frame on every connection is checked. Exit code: 0 all arrived, 1 something was lost,
/// reordered, repeated, altered or could not be done, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "fanwire-loadtest", version)]
pub(crate) struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Where it runs and how it reports.
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Pin the generator to this core, counted from 0 (floor: the receiver)
    #[arg(long, global = true, value_name = "CORE")]
    pub(crate) core: Option<usize>,
    /// Print one JSON object on one line instead of the table
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Options of the commands that talk to a server.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Server to measure, as ws://host:port/path or wss://host:port/path
    #[arg(long, value_name = "URL")]
    pub(crate) url: String,
    /// Protocol of the server
    #[arg(long, value_enum, default_value = "gateway")]
    pub(crate) dialect: Dialect,
    /// JSON Web Token sent as the first message of every connection (gateway, analytics)
    #[arg(long, value_name = "JWT")]
    pub(crate) token: Option<String>,
    /// Process id of the server on this machine: its CPU time and memory are reported
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One publisher, many subscribers: latency, deliveries per second, CPU per delivery
    #[command(name = "fanout")]
    FanOut {
        /// The server.
        #[command(flatten)]
        server: ServerArgs,
        /// The load.
        #[command(flatten)]
        load: FanoutArgs,
    },
    /// Request and response, one request outstanding per connection: round trips, CPU per request
    Echo {
        /// The server.
        #[command(flatten)]
        server: ServerArgs,
        /// The load.
        #[command(flatten)]
        load: EchoArgs,
    },
    /// Setting connections up: accept, upgrade, token and subscription if asked for; CPU per
    /// connection
    Connect {
        /// The server.
        #[command(flatten)]
        server: ServerArgs,
        /// The load.
        #[command(flatten)]
        load: ConnectArgs,
    },
    /// Many connections that do nothing: the server's user memory per connection, disconnects
    Idle {
        /// The server.
        #[command(flatten)]
        server: ServerArgs,
        /// The load.
        #[command(flatten)]
        load: IdleArgs,
    },
    /// What others notice of one greedy or hostile client: round trips of a bystander alone, and
    /// beside a load on the same server
    Neighbours {
        /// The server.
        #[command(flatten)]
        server: ServerArgs,
        /// The load.
        #[command(flatten)]
        load: NeighboursArgs,
    },
    /// Many clients that come back at once and recover what they missed: time, CPU per recovered
    /// message, and what bystanders on another channel notice
    Recovery {
        /// The server.
        #[command(flatten)]
        server: ServerArgs,
        /// The load.
        #[command(flatten)]
        load: RecoveryArgs,
    },
    /// No measurement: be the client of the conformance suite Autobahn|Testsuite, with the reader of
    /// messages that all other commands have
    Conformance(ConformanceArgs),
    /// No server: what a bare loop of sends costs on this machine now, which is what a server is
    /// measured against
    Floor(FloorArgs),
}

/// Load of `fanout`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("pace").args(["rate", "in_flight"]))]
#[command(group = ArgGroup::new("end").args(["seconds", "publications"]))]
pub(crate) struct FanoutArgs {
    /// Another node of the same service, on which the publisher publishes
    #[arg(long, value_name = "URL")]
    pub(crate) publisher_url: Option<String>,
    /// Subscribers, samples included; below the limit of open files (ulimit -Hn)
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..))]
    pub(crate) subscribers: u32,
    /// Publications per second, whatever the server does; latency then counts from when each was
    /// due
    #[arg(long, value_name = "PER_SECOND")]
    pub(crate) rate: Option<f64>,
    /// Publications under way at any time: the next is sent when all subscribers have one [default:
    /// 1]
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u64).range(1..=2048))]
    pub(crate) in_flight: Option<u64>,
    /// Publish for so many seconds, then wait for the rest [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub(crate) seconds: Option<f64>,
    /// Publish so many times instead, then wait for the rest
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u64).range(1..))]
    pub(crate) publications: Option<u64>,
    /// Bytes of payload of the delivered message, at least 24 (verbatim), 64 (gateway) or 189
    /// (analytics)
    #[arg(long, value_name = "BYTES", default_value = "128")]
    pub(crate) size: usize,
    /// How many of the subscribers are async-tungstenite clients that check every message as JSON
    #[arg(long, value_name = "COUNT", default_value = "8")]
    pub(crate) samples: u32,
    /// Give the subscribers so many different filters in turn, all of which match every publication;
    /// needs the analytics dialect
    #[arg(long, value_name = "COUNT", default_value = "0")]
    pub(crate) filters: u32,
    /// Offer permessage-deflate on the connections of the subscribers, except on those of the samples.
    /// Each compressed message is inflated once, and compared with those of the other subscribers
    #[arg(long)]
    pub(crate) deflate: bool,
    /// Let the server keep its context from message to message (context takeover), as with a compressor for each
    /// connection: each subscriber's messages are then compared with those that the others received in the same place
    #[arg(long, requires = "deflate")]
    pub(crate) context_takeover: bool,
    /// Send each publication in a write of its own; otherwise all that are due leave in one write
    #[arg(long)]
    pub(crate) separate_writes: bool,
    /// Seconds without any progress after which what is missing counts as lost
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = positive)]
    pub(crate) patience: f64,
}

/// Load of `echo`.
#[derive(Debug, Args)]
pub(crate) struct EchoArgs {
    /// Connections, each with one request outstanding
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Length of the measurement in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5")]
    pub(crate) seconds: u64,
    /// Seconds to wait for the last answers
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    pub(crate) patience: u64,
}

/// Load of `connect`.
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Connections to make
    #[arg(long, value_name = "COUNT", default_value = "2000", value_parser = value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Subscribe on every connection too
    #[arg(long)]
    pub(crate) subscribe: bool,
    /// Connections under way at any time, all in the same step: each step is written on all of them
    /// before the answers are read
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = value_parser!(u32).range(1..=10000))]
    pub(crate) in_flight: u32,
    /// Close each connection when it is set up, instead of keeping all open
    #[arg(long)]
    pub(crate) close: bool,
}

/// Load of `idle`.
#[derive(Debug, Args)]
pub(crate) struct IdleArgs {
    /// Connections to open; they take no descriptors, so tens of thousands fit
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Subscribe on every connection too
    #[arg(long)]
    pub(crate) subscribe: bool,
    /// Offer permessage-deflate on every connection
    #[arg(long)]
    pub(crate) deflate: bool,
    /// Seconds to hold them all
    #[arg(long, value_name = "SECONDS", default_value = "5")]
    pub(crate) hold: u64,
}

/// Load of `neighbours`: one of them.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("load").required(true)
    .args(["publishers", "pings", "unauthenticated", "leavers", "reconnecting", "large", "never_read"]))]
pub(crate) struct NeighboursArgs {
    /// Sessions that publish 100 bytes on a channel without subscribers, at full speed
    #[arg(long, value_name = "SESSIONS", value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) publishers: Option<u32>,
    /// Sessions that send WebSocket pings at full speed
    #[arg(long, value_name = "SESSIONS", value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) pings: Option<u32>,
    /// Sessions that send small messages at full speed without showing the token
    #[arg(long, value_name = "SESSIONS", value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) unauthenticated: Option<u32>,
    /// Sessions that subscribe to --channels each and vanish at once, again and again
    #[arg(long, value_name = "SESSIONS", value_parser = value_parser!(u32).range(1..=20000))]
    pub(crate) leavers: Option<u32>,
    /// Channels of each session that leaves, of its own; 1 in the verbatim dialect
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = value_parser!(u32).range(1..=1024))]
    pub(crate) channels: u32,
    /// Sessions that are all cut at once and come back, subscribed, as fast as the server lets them,
    /// again and again
    #[arg(long, value_name = "SESSIONS", value_parser = value_parser!(u32).range(1..=15000))]
    pub(crate) reconnecting: Option<u32>,
    /// Publications of 600,000 bytes, two under way, to 8 readers of which none may be closed
    #[arg(long)]
    pub(crate) large: bool,
    /// Sessions that subscribe to a stream of publications, send requests and never read
    #[arg(long, value_name = "SESSIONS", value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) never_read: Option<u32>,
    /// Length of each of the two measurements, alone and beside the load, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
}

/// The suite of `conformance`.
#[derive(Debug, Args)]
pub(crate) struct ConformanceArgs {
    /// Where `wstest -m fuzzingserver` listens, as ws://host:port
    #[arg(long, value_name = "URL")]
    pub(crate) url: String,
    /// Name of this client in the reports
    #[arg(long, value_name = "NAME", default_value = "fanwire-loadtest")]
    pub(crate) agent: String,
    /// Offer permessage-deflate, which the suite must accept: for the cases with compression
    #[arg(long)]
    pub(crate) deflate: bool,
}

/// Load of `recovery`.
#[derive(Debug, Args)]
pub(crate) struct RecoveryArgs {
    /// Clients that come back at once; below the limit of open files (ulimit -Hn)
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = value_parser!(u32).range(1..=15000))]
    pub(crate) clients: u32,
    /// Publications that each of them has missed
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = value_parser!(u32).range(1..=10000))]
    pub(crate) messages: u32,
    /// Channels over which they are distributed in turn, recovery-0 and so on; each must have a
    /// history of more than --messages publications
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = value_parser!(u32).range(1..=15000))]
    pub(crate) channels: u32,
    /// Bytes of payload of a delivered message, recovered (at least 106) and live (at least 64)
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = value_parser!(u32).range(1..=65536))]
    pub(crate) size: u32,
    /// Bystanders: live subscribers of the channel bench, which must have no history
    #[arg(long, value_name = "COUNT", default_value = "8", value_parser = value_parser!(u32).range(1..=64))]
    pub(crate) bystanders: u32,
    /// Live publications per second
    #[arg(long, value_name = "PER_SECOND", default_value = "2000", value_parser = value_parser!(u64).range(1..=10000))]
    pub(crate) rate: u64,
    /// Length of the measurement before the recovery, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Seconds without any progress after which what is missing counts as lost
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = value_parser!(u64).range(1..=3600))]
    pub(crate) patience: u64,
}

/// Load of `floor`.
#[derive(Debug, Args)]
pub(crate) struct FloorArgs {
    /// Sockets to send to
    #[arg(long, value_name = "COUNT", default_value = "9000", value_parser = value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Payload bytes of a frame; 2 to 10 bytes of header are added as a server would
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = value_parser!(u32).range(1..=65536))]
    pub(crate) size: u32,
    /// Frames per socket and send: 1 is one publication at a time, 64 is 64 in flight
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = value_parser!(u32).range(1..=1024))]
    pub(crate) frames: u32,
    /// Rounds per kind of send; a round sends once to every socket
    #[arg(long, value_name = "COUNT", default_value = "30", value_parser = value_parser!(u32).range(1..=10000))]
    pub(crate) rounds: u32,
    /// Core of the sender, counted from 0
    #[arg(long, value_name = "CORE", default_value = "0")]
    pub(crate) sender_core: usize,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1e6 => Ok(value),
        _ => Err("a number of seconds above 0 is needed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
