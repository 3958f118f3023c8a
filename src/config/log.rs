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
    }
}
