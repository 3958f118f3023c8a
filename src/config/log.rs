//! Settings of the log.

use super::declaration::settings;
use super::value::ByteSize;
use crate::base::label::label;
use std::path::PathBuf;
use std::time::Duration;

label! {
    /// The level of a line.
    LogLevel {
        /// Everything.
        Trace = "trace",
        /// Details for debugging.
        Debug = "debug",
        /// Normal events.
        Info = "info",
        /// Problems that an operator should look at.
        Warn = "warn" | "warning",
        /// Failures.
        Error = "error" | "critical",
    }
}

label! {
    /// The form of a line.
    LogFormat {
        /// Text for people.
        Text = "text",
        /// One JSON object.
        Json = "json",
    }
}

settings! {
    /// Settings of the log.
    pub struct LogSettings {
        /// Lowest level that is logged; the variable `RUST_LOG` overrides it.
        log_level: LogLevel = LogLevel::Info, flag = Some("LEVEL");
        /// Levels of parts of the server that differ from `log_level`, as `part=level`.
        log_levels: Vec<String> = Vec::new(),
            rule = Some((|levels| levels.iter().all(|level| is_part_level(level)),
                "each a part of the server and its level, as in \"fanwire::session=debug\""));
        /// Form of a line.
        log_format: LogFormat = LogFormat::Text, flag = Some("FORMAT");
        /// File that the log is written to; without it, standard error.
        log_file: Option<PathBuf> = None;
        /// Further file that receives errors only.
        log_error_file: Option<PathBuf> = None;
        /// Size at which a log file is rotated.
        log_rotation: ByteSize = ByteSize(100_000_000),
            rule = Some((|size| size.0 >= 1_000, "1 kB or more"));
        /// Age at which rotated files are deleted.
        log_retention: Duration = Duration::from_hours(24 * 30);
        /// Whether events of clients are logged.
        log_client_events: bool = true;
        /// Lines per second about clients, of each kind and shard, ten times as many at once; 0 = any
        /// number.
        log_client_events_per_second: u32 = 100;
    }
}

impl LogSettings {
    /// Which lines about clients are written.
    #[must_use]
    pub const fn client_log(&self) -> ClientLogPolicy {
        ClientLogPolicy {
            is_on: self.log_client_events,
            per_second_max: self.log_client_events_per_second,
        }
    }
}

/// Which lines about clients are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLogPolicy {
    /// Whether any are.
    pub is_on: bool,
    /// Lines per second, of each kind and shard; 0 = any number.
    pub per_second_max: u32,
}

/// Whether a text is a part of the server, as a path of Rust, and a level or `off`.
fn is_part_level(text: &str) -> bool {
    let Some((part, level)) = text.split_once('=') else {
        return false;
    };
    let is_part = !part.is_empty()
        && part
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':');
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    is_part && levels.contains(&level)
}
