//! A log file that is rotated at a size, with rotated files that are deleted after a time.
//!
//! ```text
//!   server.log ──rotation_bytes──▶ server.2026-11-21T13-15-58.123Z.log ──retention──▶ deleted
//! ```

use crate::base::now::Clock;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Counts the requests to reopen log files. A file compares it with the count when it was last
/// opened.
#[derive(Debug)]
pub(super) struct ReopenRequests(AtomicU64);

impl ReopenRequests {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Requests that the files be reopened under their configured names, from their next line on.
    pub(super) fn add(&self) {
        // Relaxed: pairs with the load in `count`; no other data is published through the count.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        // Relaxed: pairs with the addition in `add`; no other data depends on the count.
        self.0.load(Ordering::Relaxed)
    }
}

/// The path of a log file, its size limit, and the retention of rotated files.
#[derive(Clone, Debug)]
pub(super) struct LogFileConfig {
    pub(super) path: PathBuf,
    /// Size limit of the file, bytes. Only a single write that is larger itself exceeds it.
    pub(super) rotation_bytes: u64,
    /// Time since its rotation after which a rotated file is deleted, at the next rotation or
    /// start.
    pub(super) retention: Duration,
}

/// Writes lines to a file. Each write consists of whole lines, so that rotation does not split a
/// line.
#[derive(Debug)]
pub(super) struct LogFile {
    config: LogFileConfig,
    clock: Clock,
    file: File,
    bytes: u64,
    requests: &'static ReopenRequests,
    /// Requests that have been fulfilled.
    reopened: u64,
    /// Whether the last line failed, which was reported.
    is_reported: bool,
    /// Lines that could not be written.
    lost: Arc<AtomicU64>,
}

impl LogFile {
    /// Opens the file for appending, and creates its folder.
    ///
    /// # Errors
    /// The error of the file system.
    pub(super) fn open(
        config: LogFileConfig,
        clock: Clock,
        requests: &'static ReopenRequests,
    ) -> io::Result<Self> {
        let reopened = requests.count();
        let file = append(&config.path)?;
        let bytes = file.metadata()?.len();
        let log = Self {
            config,
            clock,
            file,
            bytes,
            requests,
            reopened,
            is_reported: false,
            lost: Arc::default(),
        };
        log.delete_expired();
        Ok(log)
    }

    /// The count of lines that could not be written, which goes on after the file is closed.
    pub(super) fn lost_lines(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Writes all lines or none, so that a full disk tears no line.
    fn append_lines(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut written = 0;
        while written < lines.len() {
            let error = match self.file.write(&lines[written..]) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(bytes) => {
                    written += bytes;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            if written > 0 {
                let end = self.file.metadata()?.len();
                // Less if another program has just truncated the file.
                self.file.set_len(end.saturating_sub(written as u64))?;
            }
            return Err(error);
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        let requests = self.requests.count();
        if self.reopened == requests {
            return Ok(());
        }
        let file = append(&self.config.path)?;
        self.bytes = file.metadata()?.len();
        self.file = file;
        self.reopened = requests;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut unix_ms = self.clock.now().unix_ms;
        let mut rotated = rotated_path(&self.config.path, unix_ms);
        // A rename would silently replace a file that was rotated in the same millisecond.
        while rotated.exists() {
            unix_ms += 1;
            rotated = rotated_path(&self.config.path, unix_ms);
        }
        match std::fs::rename(&self.config.path, rotated) {
            // An earlier attempt renamed the file but could not create a new one, or another
            // program moved it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        self.file = append(&self.config.path)?;
        self.bytes = 0;
        self.delete_expired();
        Ok(())
    }

    /// Deletes rotated files that are older than the retention. A file that cannot be deleted is
    /// tried again next time.
    fn delete_expired(&self) {
        let now = UNIX_EPOCH + Duration::from_millis(self.clock.now().unix_ms);
        let folder = match self.config.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            let rotated_at = rotation_time(&self.config.path, &entry.path());
            let age = rotated_at.and_then(|then| now.duration_since(then).ok());
            if age.is_some_and(|age| age > self.config.retention) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Errors of the log itself can only go to standard error.
    fn report_once(&mut self, what: &str, error: &io::Error) {
        if !self.is_reported {
            self.is_reported = true;
            let path = self.config.path.display();
            let _ = writeln!(io::stderr(), "fanwire: cannot {what} {path}: {error}");
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut has_failed = false;
        if let Err(error) = self.reopen() {
            // The line goes to the earlier file rather than being lost. The next line tries again.
            has_failed = true;
            self.report_once("reopen the log file", &error);
        }
        let length = lines.len() as u64;
        if self.bytes > 0
            && self.bytes + length > self.config.rotation_bytes
            && let Err(error) = self.rotate()
        {
            // The file exceeds its limit rather than losing the line. The next line tries again.
            has_failed = true;
            self.report_once("rotate the log file", &error);
        }
        if let Err(error) = self.append_lines(lines) {
            let count = lines.iter().filter(|byte| **byte == b'\n').count();
            // Relaxed: only a count, read after the writing thread has ended.
            self.lost.fetch_add(count as u64, Ordering::Relaxed);
            self.report_once("write the log file", &error);
            return Err(error);
        }
        self.bytes += length;
        // A persistent error is reported once, not for each line.
        self.is_reported &= has_failed;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Opens a file for appending, and creates it and its folder.
fn append(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// The parts of the names of rotated files before and after the time.
fn name_parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map_or_else(String::new, |part| part.to_string_lossy().into_owned())
    };
    let extension = match path.extension() {
        Some(extension) => format!(".{}", text(Some(extension))),
        None => String::new(),
    };
    (format!("{}.", text(path.file_stem())), extension)
}

fn rotated_path(path: &Path, unix_ms: u64) -> PathBuf {
    let (stem, extension) = name_parts(path);
    let time = UNIX_EPOCH + Duration::from_millis(unix_ms);
    // Some file systems that logs are copied to do not allow colons in names.
    let time = humantime::format_rfc3339_millis(time)
        .to_string()
        .replace(':', "-");
    path.with_file_name(format!("{stem}{time}{extension}"))
}

/// When the file at `candidate` was rotated, if it is a rotated file of `path`.
fn rotation_time(path: &Path, candidate: &Path) -> Option<SystemTime> {
    let (stem, extension) = name_parts(path);
    let name = candidate.file_name()?.to_str()?;
    let time = name.strip_prefix(&stem)?.strip_suffix(&extension)?;
    let (date, clock) = time.split_once('T')?;
    humantime::parse_rfc3339(&format!("{date}T{}", clock.replace('-', ":"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is deleted when it is dropped.
    struct Folder {
        path: PathBuf,
        requests: &'static ReopenRequests,
    }

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("fanwire-log-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            let requests = Box::leak(Box::new(ReopenRequests::new()));
            Self { path, requests }
        }

        fn open(&self, rotation_bytes: u64) -> LogFile {
            let config = LogFileConfig {
                path: self.path.join("deep/server.log"),
                rotation_bytes,
                retention: Duration::from_hours(24 * 30),
            };
            LogFile::open(config, Clock::start(), self.requests).unwrap()
        }

        /// Names and texts, the current file last.
        fn files(&self) -> Vec<(String, String)> {
            let entries = std::fs::read_dir(self.path.join("deep")).unwrap();
            let mut files: Vec<_> = entries
                .map(|entry| {
                    let path = entry.unwrap().path();
                    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                    (name, std::fs::read_to_string(path).unwrap())
                })
                .collect();
            files.sort();
            files
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }

    #[test]
    fn a_full_file_is_rotated_and_no_line_is_torn_or_lost() {
        let folder = Folder::new("rotation");
        let mut log = folder.open(10);
        for line in [
            "first\n",
            "2nd\n",
            "third\n",
            "a line longer than all\n",
            "5\n",
        ] {
            log.write_all(line.as_bytes()).unwrap();
        }
        let files = folder.files();
        let texts: Vec<_> = files.iter().map(|(_, text)| &**text).collect();
        assert_eq!(
            texts,
            ["first\n2nd\n", "third\n", "a line longer than all\n", "5\n"]
        );
        assert_eq!(files[3].0, "server.log");
    }

    #[test]
    fn a_restart_goes_on_in_the_same_file() {
        let folder = Folder::new("restart");
        folder.open(10).write_all(b"1234567\n").unwrap();
        folder.open(10).write_all(b"9\n").unwrap();
        assert_eq!(folder.files().len(), 1);
        folder.open(10).write_all(b"b\n").unwrap();
        assert_eq!(folder.files().len(), 2);
    }

    #[test]
    fn a_failed_rotation_is_reported_once_and_no_line_is_lost() {
        let folder = Folder::new("errors");
        let mut log = folder.open(10);
        let (deep, moved) = (folder.path.join("deep"), folder.path.join("moved"));
        log.write_all(b"1234567\n").unwrap();
        // A file in place of the folder makes writing fail for root too.
        std::fs::rename(&deep, &moved).unwrap();
        std::fs::write(&deep, "").unwrap();
        for _ in 0..3 {
            log.write_all(b"8901\n").unwrap();
            assert!(log.is_reported, "not reported: the next line reports it");
        }
        let text = std::fs::read_to_string(moved.join("server.log")).unwrap();
        assert_eq!(text, "1234567\n8901\n8901\n8901\n");
        std::fs::remove_file(&deep).unwrap();
        std::fs::rename(&moved, &deep).unwrap();
        log.write_all(b"rotated\n").unwrap();
        assert!(!log.is_reported, "the next error is a new one");
        assert_eq!(folder.files()[1], ("server.log".into(), "rotated\n".into()));
    }

    #[test]
    fn a_new_file_is_begun_when_the_full_one_was_moved_away() {
        let folder = Folder::new("moved");
        let mut log = folder.open(10);
        log.write_all(b"1234567\n").unwrap();
        std::fs::rename(
            folder.path.join("deep/server.log"),
            folder.path.join("moved.log"),
        )
        .unwrap();
        log.write_all(b"8901\n").unwrap();
        assert!(!log.is_reported);
        assert_eq!(folder.files(), [("server.log".into(), "8901\n".into())]);
    }

    #[test]
    fn lines_go_to_a_new_file_after_the_old_one_was_moved_and_reopening_was_requested() {
        let folder = Folder::new("reopen");
        let mut log = folder.open(10);
        let (current, moved) = ("server.log", "server.log.1");
        log.write_all(b"1234567\n").unwrap();
        let path = |name: &str| folder.path.join("deep").join(name);
        std::fs::rename(path(current), path(moved)).unwrap();
        log.write_all(b"9\n").unwrap();
        folder.requests.add();
        log.write_all(b"new\n").unwrap();
        // The new file is empty: the size of the earlier one no longer counts.
        log.write_all(b"line\n").unwrap();
        let expected = [(current, "new\nline\n"), (moved, "1234567\n9\n")];
        assert_eq!(
            folder.files(),
            expected.map(|(name, text)| (name.into(), text.into()))
        );
    }

    #[test]
    fn a_file_that_cannot_be_reopened_goes_on_and_is_reported_once() {
        let folder = Folder::new("reopen-errors");
        let mut log = folder.open(100);
        let (deep, moved) = (folder.path.join("deep"), folder.path.join("moved"));
        std::fs::rename(&deep, &moved).unwrap();
        std::fs::write(&deep, "").unwrap();
        folder.requests.add();
        for line in ["1\n", "2\n"] {
            log.write_all(line.as_bytes()).unwrap();
            assert!(log.is_reported, "not reported: the next line reports it");
        }
        let text = std::fs::read_to_string(moved.join("server.log")).unwrap();
        assert_eq!(text, "1\n2\n");
        std::fs::remove_file(&deep).unwrap();
        std::fs::create_dir(&deep).unwrap();
        log.write_all(b"3\n").unwrap();
        assert!(!log.is_reported);
        assert_eq!(folder.files(), [("server.log".into(), "3\n".into())]);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let folder = Folder::new("full");
        let mut log = folder.open(100);
        log.file = append(Path::new("/dev/full")).unwrap();
        let lost = log.lost_lines();
        for _ in 0..2 {
            let error = log.write_all(b"1\n").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
        drop(log);
        assert_eq!(lost.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_folder_that_was_deleted_is_created_again_on_reopening() {
        let folder = Folder::new("gone");
        let mut log = folder.open(100);
        std::fs::remove_dir_all(folder.path.join("deep")).unwrap();
        folder.requests.add();
        log.write_all(b"1\n").unwrap();
        assert!(!log.is_reported);
        assert_eq!(folder.files(), [("server.log".into(), "1\n".into())]);
    }

    #[test]
    fn only_our_own_old_files_are_deleted() {
        let folder = Folder::new("retention");
        drop(folder.open(10));
        let yesterday = Clock::start().now().unix_ms - 86_400_000;
        let recent = rotated_path(&folder.path.join("deep/server.log"), yesterday);
        let recent = recent.file_name().unwrap().to_str().unwrap().to_owned();
        let kept = [
            recent.as_str(),
            "server.2001-02-03T04-05-06.789Z.txt",
            "server.old.log",
            "other.2001-02-03T04-05-06.789Z.log",
            "server.log",
        ];
        for name in kept.iter().chain(&["server.2001-02-03T04-05-06.789Z.log"]) {
            std::fs::write(folder.path.join("deep").join(name), "").unwrap();
        }
        drop(folder.open(10));
        let mut left: Vec<_> = folder.files().into_iter().map(|(name, _)| name).collect();
        let mut kept = kept.map(str::to_owned);
        left.sort();
        kept.sort();
        assert_eq!(left, kept);
    }
}
