//! Logs: to standard error or files, written by a thread of their own, so that no shard waits for a
//! disk or a terminal.

use super::log_file::{LogFile, LogFileConfig, ReopenRequests};
use crate::base::now::Clock;
use crate::config::{LogFormat, LogLevel, LogSettings};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Lines that may wait for the writing thread; further lines are dropped, and their number is
/// printed at the end.
const LINES_MAX: usize = 16_384;

/// Requests to reopen the log files of this process.
static REOPEN_REQUESTS: ReopenRequests = ReopenRequests::new();

/// What the logs of this process have lost.
static LOSSES: Mutex<Losses> = Mutex::new(Losses {
    dropped: Vec::new(),
    lost: Vec::new(),
});

/// The counts of lost lines, of each log.
#[derive(Debug)]
struct Losses {
    dropped: Vec<ErrorCounter>,
    lost: Vec<Arc<AtomicU64>>,
}

impl Losses {
    fn counts(&self) -> LostLines {
        let dropped: usize = self.dropped.iter().map(ErrorCounter::dropped_lines).sum();
        // Relaxed: no other data depends on the counts.
        let lost = self.lost.iter().map(|lines| lines.load(Ordering::Relaxed));
        LostLines {
            queue_full: dropped as u64,
            write_failed: lost.sum(),
        }
    }
}

/// Lines that no log has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostLines {
    /// Because the writer was too slow.
    pub queue_full: u64,
    /// Because they could not be written.
    pub write_failed: u64,
}

/// The lines that the logs of this process have lost so far.
#[must_use]
pub fn lost_lines() -> LostLines {
    losses().counts()
}

fn losses() -> MutexGuard<'static, Losses> {
    // The lists are whole after every operation.
    LOSSES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes the lines that still wait when it is dropped.
///
/// ```no_run
/// let configured = fanwire::Server::builder().dev().configure()?;
/// let guard = configured.start_logging()?;
/// # drop(guard);
/// # Ok::<(), fanwire::StartError>(())
/// ```
#[must_use]
pub struct LogGuard {
    threads: Vec<WorkerGuard>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.threads.clear();
        let LostLines {
            queue_full,
            write_failed,
        } = lost_lines();
        if queue_full > 0 {
            let cause = "log lines were dropped: the writer was too slow";
            let _ = writeln!(io::stderr(), "fanwire: {queue_full} {cause}");
        }
        if write_failed > 0 {
            let _ = writeln!(
                io::stderr(),
                "fanwire: {write_failed} log lines could not be written"
            );
        }
    }
}

/// Starts logging at the level of the settings; `RUST_LOG` overrides it if the environment is a
/// source of settings. If the file is not required and cannot be written, the log goes to standard error.
///
/// # Errors
/// When a file cannot be written; the text names it.
pub fn start(
    settings: &LogSettings,
    is_file_required: bool,
    reads_environment: bool,
) -> Result<LogGuard, String> {
    let paths = [&settings.log_file, &settings.log_error_file];
    let mut paths = paths.into_iter().flatten().filter(|_| !is_file_required);
    let unwritable = paths.find_map(|path| {
        let file = LogFile::open(config(settings, path), Clock::start(), &REOPEN_REQUESTS);
        Some((path, file.err()?))
    });
    let Some((path, error)) = unwritable else {
        return start_as_set(settings, reads_environment);
    };
    let settings = LogSettings {
        log_file: None,
        log_error_file: None,
        ..settings.clone()
    };
    let guard = start_as_set(&settings, reads_environment)?;
    tracing::warn!(%error, path = %path.display(), "no log files: set log_file");
    Ok(guard)
}

fn start_as_set(settings: &LogSettings, reads_environment: bool) -> Result<LogGuard, String> {
    let level = match settings.log_level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let filter = EnvFilter::builder().with_default_directive(level.into());
    let has_filter = std::env::var_os(EnvFilter::DEFAULT_ENV).is_some_and(|it| !it.is_empty());
    let filter = if reads_environment && has_filter {
        filter.from_env_lossy()
    } else {
        // glommio reports as an error that the store's files cannot be polled, which is wanted.
        let of_parts = settings.log_levels.join(",");
        filter.parse_lossy(format!("{level},glommio::reactor=off,{of_parts}"))
    };
    let mut guard = LogGuard {
        threads: Vec::new(),
    };
    let lines = match &settings.log_file {
        Some(path) => {
            let file = guard.open(settings, path)?;
            layer(settings.log_format, false, guard.thread("log", file))
        }
        None => {
            let is_terminal = io::stderr().is_terminal();
            layer(
                settings.log_format,
                is_terminal,
                guard.thread("log", io::stderr()),
            )
        }
    };
    let errors = match &settings.log_error_file {
        Some(path) => {
            let file = guard.open(settings, path)?;
            let errors = layer(settings.log_format, false, guard.thread("log-errors", file));
            Some(errors.with_filter(LevelFilter::ERROR))
        }
        None => None,
    };
    let subscriber = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(errors);
    // A second start in one process, as in tests, keeps the first logger.
    let has_file = settings.log_file.is_some() || settings.log_error_file.is_some();
    if subscriber.try_init().is_ok() && has_file {
        log_panics();
    }
    Ok(guard)
}

/// Reopens the log files under their configured names, from the next line on; for programs such as
/// logrotate, which have renamed the earlier files.
pub fn reopen() {
    REOPEN_REQUESTS.add();
    // Writing this line creates the new file.
    tracing::info!("reopening the log files");
}

impl LogGuard {
    fn thread(&mut self, name: &str, writer: impl Write + Send + 'static) -> NonBlocking {
        let (lines, thread) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_MAX)
            .thread_name(name)
            .finish(writer);
        self.threads.push(thread);
        losses().dropped.push(lines.error_counter());
        lines
    }

    fn open(&mut self, settings: &LogSettings, path: &Path) -> Result<LogFile, String> {
        let file = LogFile::open(config(settings, path), Clock::start(), &REOPEN_REQUESTS)
            .map_err(|error| format!("cannot write the log file {}: {error}", path.display()))?;
        losses().lost.push(file.lost_lines());
        Ok(file)
    }
}

fn config(settings: &LogSettings, path: &Path) -> LogFileConfig {
    LogFileConfig {
        path: path.to_owned(),
        rotation_bytes: settings.log_rotation.0,
        retention: settings.log_retention,
    }
}

fn layer<S>(format: LogFormat, ansi: bool, lines: NonBlocking) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(lines);
    match format {
        LogFormat::Text => layer.with_ansi(ansi).boxed(),
        LogFormat::Json => layer.json().with_ansi(false).boxed(),
    }
}

/// Also logs panics, with their backtraces; standard error may be discarded.
fn log_panics() {
    let earlier = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!(%panic, %backtrace, "panicked");
        earlier(panic);
    }));
}
