//! The command line of fanwire.

use clap::{Args, Parser, Subcommand};
use fanwire::auth::{Grant, issue};
use fanwire::base::now::Clock;
use fanwire::config::flags::{parse_host, parse_listen};
use fanwire::config::{Flags, Notice, Secret, Settings, SettingsError, ShardCount};
use fanwire::observe::log;
use fanwire::server::run::Ended;
use fanwire::server::{BootError, ProgramHooks, Running, run_until_signal, start, watch_signals};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bad arguments or configuration.
const EXIT_USAGE: u8 = 2;
/// The kernel rejects io_uring.
const EXIT_KERNEL: u8 = 3;
/// The address is in use.
const EXIT_ADDRESS: u8 = 4;
/// A second signal forced the exit (128 + SIGTERM, as a shell would report it).
const EXIT_FORCED: u8 = 143;

/// A WebSocket fan-out server for Linux.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 clean, 1 failure while running, 2 bad arguments or \
    configuration, 3 the kernel refuses io_uring, 4 address in use, 143 forced by a second signal."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    Serve(Box<Serve>),
    /// Print every setting that `serve` would use, and where it was said.
    Config(Box<Serve>),
    /// Print a token that the server accepts (HS256, signed with the same secret).
    Token(Token),
}

#[derive(Args)]
struct Serve {
    /// For development: loopback, random secret, anonymous clients may subscribe and publish, no
    /// limits of messages and sessions.
    #[arg(long)]
    dev: bool,
    /// For production: one shard per core, logs in JSON.
    #[arg(long)]
    prod: bool,
    /// Configuration file (TOML). Flags go over FANWIRE_* variables, these over the variables of the
    /// profile's document, over .env, over the file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Be one document's server: gateway, monitoring, analytics, assist or notifications, with its
    /// port, path, variables and defaults. Without a profile all dialects are spoken, by path.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Address and port to listen on [default: 0.0.0.0:8765, with --dev 127.0.0.1:8765; 8000 with the
    /// profiles assist and notifications].
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// The address alone.
    #[arg(long, value_name = "ADDR", value_parser = parse_host)]
    host: Option<IpAddr>,
    /// The port alone.
    #[arg(long)]
    port: Option<u16>,
    /// Where the profile's dialect is spoken, besides / and /ws [default: the document's].
    #[arg(long)]
    path: Option<String>,
    /// Shards, each on its own core: a number, or `auto` for one per allowed core [default: auto].
    #[arg(long, value_name = "N|auto")]
    shards: Option<ShardCount>,
    /// The same as --shards.
    #[arg(long, value_name = "N")]
    workers: Option<ShardCount>,
    /// Secret of HS256 tokens, 32 bytes or more. Other users of the host can see arguments: prefer
    /// FANWIRE_JWT_SECRET.
    #[arg(long, value_name = "SECRET")]
    jwt_secret: Option<String>,
    /// Sessions in the process; one more is closed with 1013. 0 = as many as the socket tables
    /// hold [default: 0].
    #[arg(long, value_name = "N")]
    connections_max: Option<u64>,
    /// Bytes that may wait for one connection before it is closed as a slow consumer
    /// [default: 1048576].
    #[arg(long, value_name = "BYTES")]
    send_queue_bytes_max: Option<u32>,
    /// Time for sessions to end by themselves after SIGTERM or SIGINT [default: 0s; 30m with the
    /// profile notifications].
    #[arg(long, value_name = "TIME")]
    drain_grace_period: Option<String>,
    /// Time for sessions to answer our close frame after that, such as 10s [default: 10s].
    #[arg(long, value_name = "TIME")]
    drain_close_timeout: Option<String>,
    /// trace, debug, info, warn or error [default: info].
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json [default: text].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

#[derive(Args)]
struct Token {
    /// The user (claims sub and user_id).
    #[arg(long)]
    user: String,
    /// A role; may be given again.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A permission, such as `publish`; may be given again.
    #[arg(long = "permission", value_name = "PERMISSION")]
    permissions: Vec<String>,
    /// The tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// How long the token is valid: 90s, 15m, 1h, 7d.
    #[arg(long, default_value = "1h")]
    ttl: humantime::Duration,
    /// The server's secret.
    #[arg(
        long,
        env = "FANWIRE_JWT_SECRET",
        value_name = "SECRET",
        hide_env_values = true
    )]
    jwt_secret: String,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(arguments) => serve(*arguments),
        Command::Config(arguments) => config(*arguments),
        Command::Token(arguments) => token(arguments),
    }
}

fn load(arguments: Serve) -> Result<Settings, SettingsError> {
    let flags = Flags {
        dev: arguments.dev,
        prod: arguments.prod,
        profile: arguments.profile,
        listen: arguments.listen,
        host: arguments.host,
        port: arguments.port,
        path: arguments.path,
        shards: arguments.shards,
        workers: arguments.workers,
        jwt_secret: arguments.jwt_secret.map(Secret),
        connections_max: arguments.connections_max,
        send_queue_bytes_max: arguments.send_queue_bytes_max,
        drain_grace_period: arguments.drain_grace_period,
        drain_close_timeout: arguments.drain_close_timeout,
        log_level: arguments.log_level,
        log_format: arguments.log_format,
        has_token_check: false,
    };
    Settings::load(&flags, arguments.config.as_deref())
}

fn config(arguments: Serve) -> ExitCode {
    match load(arguments) {
        Ok(settings) => {
            print!("{}", settings.report);
            ExitCode::SUCCESS
        }
        Err(error) => fail(EXIT_USAGE, &error),
    }
}

fn serve(arguments: Serve) -> ExitCode {
    let settings = match load(arguments) {
        Ok(settings) => settings,
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    // Dropped last, so that what is logged on the way out is written.
    let _log = match log::start(&settings.log) {
        Ok(guard) => guard,
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    for notice in &settings.notices {
        match notice {
            Notice::Info(text) => tracing::info!("{text}"),
            Notice::Warning(text) => tracing::warn!("{text}"),
        }
    }
    let secret = match &settings.jwt_secret {
        Some(Secret(secret)) => Some(secret.clone()),
        None if settings.dev => match random_secret() {
            Ok(secret) => Some(secret),
            Err(error) => return fail(1, &error),
        },
        None => None,
    };
    let running = match start(
        &settings,
        secret.as_deref().map(str::as_bytes),
        ProgramHooks::default(),
    ) {
        Ok(running) => running,
        Err(error @ BootError::Kernel(_)) => return fail(EXIT_KERNEL, &error),
        Err(BootError::Bind(error @ fanwire::net::BindError::InUse(_))) => {
            return fail(EXIT_ADDRESS, &error);
        }
        Err(error) => return fail(1, &error),
    };
    // Before anyone is told that it runs, and may want to end it.
    let signals = match watch_signals() {
        Ok(signals) => signals,
        Err(error) => return fail(1, &error),
    };
    print_banner(&settings, &running, secret.as_deref());
    match run_until_signal(&running, &settings, &signals) {
        Ended::Drained => ExitCode::SUCCESS,
        Ended::TimedOut => {
            tracing::warn!("the time for draining is over; some sessions were cut");
            ExitCode::SUCCESS
        }
        Ended::Forced => ExitCode::from(EXIT_FORCED),
        Ended::Failed(report) => fail(1, &report),
    }
}

fn print_banner(settings: &Settings, running: &Running, secret: Option<&str>) {
    let addresses: Vec<_> = running.addresses.iter().map(ToString::to_string).collect();
    let version = env!("CARGO_PKG_VERSION");
    println!("fanwire {version} listens on {}", addresses.join(", "));
    for (listener, address) in settings.listeners.iter().zip(&addresses) {
        for (path, dialect) in listener.routes.places() {
            println!("  WebSocket  ws://{address}{path} ({})", dialect.name());
        }
        println!("  HTTP       http://{address}/health  http://{address}/metrics/prometheus");
    }
    for (shard, core) in running.cores.iter().enumerate() {
        let connections = running.connections_per_shard;
        println!("  shard {shard}    core {core}, up to {connections} connections");
    }
    if let (true, Some(secret)) = (settings.dev, secret) {
        let grant = Grant {
            user: "dev".into(),
            permissions: vec!["publish".into()],
            ..Grant::default()
        };
        println!("  --dev      anonymous clients may subscribe and publish");
        if let Ok(token) = issue(&grant, secret.as_bytes(), 86_400, Clock::start().now()) {
            println!("  token      {token}");
        }
    }
}

fn token(arguments: Token) -> ExitCode {
    let grant = Grant {
        user: arguments.user,
        tenant: arguments.tenant,
        roles: arguments.roles,
        permissions: arguments.permissions,
    };
    let secret = arguments.jwt_secret.as_bytes();
    if secret.is_empty() {
        return fail(EXIT_USAGE, &"the secret is empty");
    }
    let now = Clock::start().now();
    match issue(&grant, secret, arguments.ttl.as_secs(), now) {
        Ok(token) => {
            println!("{token}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, &error),
    }
}

/// A secret for one run.
fn random_secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("fanwire: {error}");
    ExitCode::from(code)
}
