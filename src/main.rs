//! The command line of fanwire.

mod command_line;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command as ClapCommand, FromArgMatches};
use clap::{CommandFactory, Parser, Subcommand};
use command_line::{Connections, Disconnect, Publish, Stats, Subscribe, Tap, Top};
use fanwire::{
    AccessAction, AccessQuestion, BindError, Builder, Configured, DialectId, Server, SignalWatch,
    StartError, StopOutcome, TokenGrant, settings, store,
};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Invalid arguments or settings.
const EXIT_USAGE: u8 = 2;
/// The kernel does not allow io_uring.
const EXIT_KERNEL: u8 = 3;
/// The address is in use.
const EXIT_ADDRESS: u8 = 4;
/// A second signal forced the exit (128 + SIGTERM, as a shell would report it).
const EXIT_FORCED: u8 = 143;

/// A WebSocket fan-out server for Linux.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 clean, 1 failure while running, 2 invalid arguments or settings, \
    3 the kernel refuses io_uring or the memory for it, 4 address in use, 143 forced by a second signal."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    Serve(SettingFlags),
    /// Print every setting in force and its source.
    Config(Config),
    /// Print whether a client may do something on a channel, and which rule decides it. Exit code 0
    /// = allowed, 1 = denied.
    Explain(Explain),
    /// Print a token that the server with these settings accepts (HS256, signed with its secret, which is
    /// read from wherever `serve` reads it).
    Token(Token),
    /// Read a durable store and change nothing, also while a server writes it.
    #[command(subcommand)]
    Store(StoreCommand),
    Stats(Stats),
    Top(Top),
    Connections(Connections),
    Disconnect(Disconnect),
    Publish(Publish),
    Subscribe(Subscribe),
    Tap(Tap),
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the man pages.
    Man {
        /// The directory, such as /usr/local/share/man/man1.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
struct Config {
    #[command(subcommand)]
    command: Option<ConfigCommand>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print a configuration file with every setting, its meaning and its default, all commented out.
    Init,
}

#[derive(Subcommand)]
enum StoreCommand {
    /// Check every record and print what is damaged, with file and offset. Exit code 0 = nothing, 1
    /// = something, 2 = this is no store.
    Verify {
        /// The directory of the store.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print every record as a JSON object in a line of its own; what is damaged goes to standard
    /// error, with the exit codes of verify. Keys and payloads that are no UTF-8 are in base64.
    Dump {
        /// The directory of the store.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// Flags of settings, and the configuration file. The flags are generated from the declarations of
/// the settings.
struct SettingFlags {
    config: Option<PathBuf>,
    /// Flag, setting and value.
    values: Vec<(String, &'static str, String)>,
}

impl Args for SettingFlags {
    fn augment_args(command: ClapCommand) -> ClapCommand {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(ValueParser::path_buf())
            .help(
                "Configuration file (TOML). Flags override FANWIRE_* variables, these the variables \
                 of the profile's legacy server, these the .env file, this the configuration file",
            );
        let flags = settings().iter().filter_map(|setting| {
            let flag = setting.flag.as_deref()?;
            let default = setting
                .default
                .as_ref()
                .filter(|_| setting.value_name.is_some());
            let default = default.map_or_else(String::new, |it| format!(" [default: {it}]"));
            let help = format!("{}{default}", setting.help);
            let arg = Arg::new(&*setting.key).long(flag).help(help);
            Some(match setting.value_name {
                Some(value_name) => arg.value_name(value_name),
                None => arg.action(ArgAction::SetTrue),
            })
        });
        command.arg(config).args(flags)
    }

    fn augment_args_for_update(command: ClapCommand) -> ClapCommand {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = settings().iter().filter_map(|setting| {
            let key = &*setting.key;
            let flag = format!("--{}", setting.flag.as_deref()?);
            let value = match setting.value_name {
                Some(_) => matches.get_one::<String>(key)?.clone(),
                None => matches.get_flag(key).then(|| "true".to_owned())?,
            };
            Some((flag, key, value))
        });
        Ok(Self {
            config: matches.get_one::<PathBuf>("config").cloned(),
            values: values.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl SettingFlags {
    fn configure(&self) -> Result<Configured, StartError> {
        let mut builder = Server::builder().from_env().from_command_line();
        if let Some(path) = &self.config {
            builder = builder.config_file(path);
        }
        let flags = self.values.iter();
        let set = |builder: Builder, (flag, key, value): &(String, &str, String)| {
            builder.set_from(flag, key, value.as_str())
        };
        flags.fold(builder, set).configure()
    }
}

#[derive(Args)]
struct Token {
    /// The user (claims sub and user_id).
    #[arg(long)]
    user: String,
    /// A role; may be repeated.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A permission, such as `publish`; may be repeated.
    #[arg(long = "permission", value_name = "PERMISSION")]
    permissions: Vec<String>,
    /// A further claim, for servers that make it an attribute (token_attributes); may be repeated.
    #[arg(long = "attribute", value_name = "CLAIM=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
    /// The tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// How long the token is valid: 90s, 15m, 1h, 7d.
    #[arg(long, default_value = "1h")]
    ttl: humantime::Duration,
    #[command(flatten)]
    settings: SettingFlags,
}

#[derive(Args)]
struct Explain {
    /// What the client wants: subscribe, publish, presence or history.
    action: AccessAction,
    /// The channel.
    channel: String,
    /// The client's token. Other users of the host can read command lines: prefer the variable.
    #[arg(
        long,
        env = "FANWIRE_EXPLAIN_TOKEN",
        hide_env_values = true,
        required_unless_present = "anonymous"
    )]
    token: Option<String>,
    /// The client has no token.
    #[arg(long, conflicts_with = "token")]
    anonymous: bool,
    /// The tenant that the client's request names.
    #[arg(long)]
    tenant: Option<String>,
    /// The client's dialect; by default the one of the profile, or gateway.
    #[arg(long, value_parser = dialect)]
    dialect: Option<DialectId>,
    #[command(flatten)]
    settings: SettingFlags,
}

fn dialect(name: &str) -> Result<DialectId, String> {
    let names = DialectId::ALL.map(DialectId::name).join(", ");
    DialectId::named(name).ok_or_else(|| format!("expected one of {names}"))
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(flags) => serve(flags),
        Command::Config(arguments) => config(&arguments),
        Command::Explain(arguments) => explain(arguments),
        Command::Token(arguments) => token(arguments),
        Command::Store(StoreCommand::Verify { directory }) => verify_store(&directory),
        Command::Store(StoreCommand::Dump { directory }) => dump_store(&directory),
        Command::Stats(arguments) => command_line::run(arguments.run()),
        Command::Top(arguments) => command_line::run(arguments.run()),
        Command::Connections(arguments) => command_line::run(arguments.run()),
        Command::Disconnect(arguments) => command_line::run(arguments.run()),
        Command::Publish(arguments) => command_line::run(arguments.run()),
        Command::Subscribe(arguments) => command_line::run(arguments.run()),
        Command::Tap(arguments) => command_line::run(arguments.run()),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fanwire", &mut text);
            print_result(&String::from_utf8_lossy(&text))
        }
        Command::Man { directory } => match clap_mangen::generate_to(Cli::command(), directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error),
        },
    }
}

fn explain(arguments: Explain) -> ExitCode {
    let configured = match arguments.settings.configure() {
        Ok(configured) => configured,
        Err(error) => return fail(exit_code(&error), &error),
    };
    let mut question = AccessQuestion::new(arguments.action, &arguments.channel);
    question.token = arguments.token.as_deref();
    question.tenant = arguments.tenant.as_deref();
    question.dialect = arguments.dialect;
    let answer = configured.explain(&question);
    let answer = match answer {
        Ok(answer) => answer,
        // 1 is an answer.
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    let printed = print_result(&answer.to_string());
    if answer.is_allowed() {
        printed
    } else {
        ExitCode::FAILURE
    }
}

fn config(arguments: &Config) -> ExitCode {
    if let Some(ConfigCommand::Init) = arguments.command {
        return print_result(&fanwire::sample_settings());
    }
    match arguments.settings.configure() {
        Ok(configured) => {
            // Those that `serve` logs.
            for warning in configured.warnings() {
                let _ = writeln!(io::stderr(), "fanwire: warning: {warning}");
            }
            let report = configured.report();
            print_result(&match arguments.json {
                true => report.to_json() + "\n",
                false => report.to_string(),
            })
        }
        Err(error) => fail(exit_code(&error), &error),
    }
}

fn serve(flags: SettingFlags) -> ExitCode {
    // Before anything else: SIGHUP would kill the process, and so would SIGTERM while connections
    // are accepted already.
    let signals = match SignalWatch::begin() {
        Ok(signals) => signals,
        Err(error) => return fail(1, &error),
    };
    // A fault of a huge page clears 2 MiB while the shard waits: milliseconds where the host has to find
    // the memory first. A failure costs only that.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let configured = match flags.configure() {
        Ok(configured) => configured,
        Err(error) => return fail(exit_code(&error), &error),
    };
    // Dropped last, so that messages of the shutdown are written.
    let _guard = match configured.start_logging() {
        Ok(guard) => guard,
        Err(error) => return fail(exit_code(&error), &error),
    };
    let has_banner = configured.logs_for_people();
    let server = match configured.start() {
        Ok(server) => server,
        Err(error) => return fail(exit_code(&error), &error),
    };
    // The server runs whether anybody reads this or not.
    if has_banner && let Err(error) = print(&banner(&server)) {
        tracing::warn!(%error, "cannot write to standard output");
    }
    match signals.run(&server) {
        StopOutcome::Drained => ExitCode::SUCCESS,
        StopOutcome::TimedOut => {
            tracing::warn!("drain_close_timeout has passed; the remaining sessions were dropped");
            ExitCode::SUCCESS
        }
        StopOutcome::Forced => ExitCode::from(EXIT_FORCED),
        StopOutcome::Failed(report) => fail(1, &report),
        _ => ExitCode::FAILURE,
    }
}

fn exit_code(error: &StartError) -> u8 {
    match error {
        StartError::Settings(_) | StartError::ReservedType { .. } | StartError::Tls(_) => {
            EXIT_USAGE
        }
        StartError::Kernel(_) => EXIT_KERNEL,
        StartError::Bind(BindError::InUse(_)) => EXIT_ADDRESS,
        _ => 1,
    }
}

fn banner(server: &Server) -> String {
    use std::fmt::Write as _;
    let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("fanwire {version} listening on {}\n", addresses.join(", "));
    for (url, dialect) in server.endpoints() {
        let _ = writeln!(text, "  WebSocket  {url} ({})", dialect.name());
    }
    let mut healths: Vec<_> = server
        .endpoints()
        .iter()
        .filter_map(|(url, _)| {
            let (scheme, rest) = url.strip_prefix("ws")?.split_once("://")?;
            let address = rest.split('/').next()?;
            Some(format!("http{scheme}://{address}/health"))
        })
        .collect();
    healths.dedup();
    for health in healths {
        let _ = writeln!(text, "  HTTP       {health}");
    }
    if let Some(address) = server.admin_address() {
        let _ = writeln!(
            text,
            "  admin      http://{address}/docs  http://{address}/metrics/prometheus"
        );
    }
    let connections = server.connections_per_shard();
    for (shard, core) in server.shard_cores().iter().enumerate() {
        let _ = writeln!(
            text,
            "  shard {shard}    core {core}, up to {connections} connections"
        );
    }
    if let Some(token) = server.dev_token() {
        text += "  --dev      insecure: anonymous clients may subscribe and publish\n";
        let _ = writeln!(text, "  token      {token}");
    }
    text
}

fn token(arguments: Token) -> ExitCode {
    let mut grant = TokenGrant::new(&arguments.user);
    grant.tenant = arguments.tenant;
    grant.roles = arguments.roles;
    grant.permissions = arguments.permissions;
    grant.attributes = arguments.attributes.into_iter().collect();
    let configured = match arguments.settings.configure() {
        Ok(configured) => configured,
        Err(error) => return fail(exit_code(&error), &error),
    };
    match configured.issue_token(&grant, arguments.ttl.into()) {
        Ok(token) => print_result(&format!("{token}\n")),
        Err(error) => fail(EXIT_USAGE, &error),
    }
}

fn verify_store(directory: &Path) -> ExitCode {
    let inspection = match store::verify(directory) {
        Ok(inspection) => inspection,
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    let printed = print_result(&inspection.to_string());
    if inspection.is_damaged() {
        ExitCode::FAILURE
    } else {
        printed
    }
}

fn dump_store(directory: &Path) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let inspection = match store::dump(directory, &mut out) {
        Ok(dumped) => dumped.and_then(|inspection| out.flush().map(|()| inspection)),
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    match inspection {
        Ok(inspection) if inspection.is_damaged() => fail(1, &inspection),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => exit_code_of_output(&error),
    }
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (claim, value) = text.split_once('=').ok_or("expected CLAIM=VALUE")?;
    Ok((claim.to_owned(), value.to_owned()))
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn print_result(text: &str) -> ExitCode {
    match print(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit_code_of_output(&error),
    }
}

/// A reader such as `head` that has enough is no failure.
fn exit_code_of_output(error: &io::Error) -> ExitCode {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return ExitCode::SUCCESS;
    }
    fail(1, &format!("cannot write to standard output: {error}"))
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    // Standard error may be closed or full; the exit code remains.
    let _ = writeln!(io::stderr(), "fanwire: {error}");
    ExitCode::from(code)
}
