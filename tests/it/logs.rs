//! Does the log say what happens to clients, and no more than it may?

use crate::harness::{Client, Frame, Raw, SECRET, http_get, token, upgrade_request};
use crate::process::Process;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A server whose log is read.
pub(crate) struct Logging {
    pub(crate) process: Process,
    log: PathBuf,
}

impl Logging {
    /// With a log of this name, this level, this file of settings, and further variables.
    fn start(name: &str, level: &str, settings: &str, variables: &[(&str, &str)]) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("log-{name}"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let (file, log) = (folder.join("fanwire.toml"), folder.join("server.log"));
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanwire"));
        command
            .args(["serve", "--dev", "--shards", "1", "--listen", "127.0.0.1:0"])
            .args(["--log-level", level, "--jwt-secret", SECRET, "--config"])
            .arg(&file)
            .env_clear()
            .env("FANWIRE_LOG_FILE", &log)
            .envs(variables.iter().copied())
            .stdin(Stdio::null());
        let process = Process::of(command, "token ");
        Self { process, log }
    }

    pub(crate) fn json(name: &str, level: &str, settings: &str) -> Self {
        let settings = format!("log_format = \"json\"\n{settings}");
        Self::start(name, level, &settings, &[])
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The fields of all lines so far of this target and message.
    pub(crate) fn lines(&self, target: &str, message: &str) -> Vec<Value> {
        lines_in(&self.text(), target, message)
    }

    /// Waits for the first line of this target and message with this value of a field.
    pub(crate) fn await_line(
        &self,
        target: &str,
        message: &str,
        (field, value): (&str, &str),
    ) -> Value {
        for _ in 0..200_000 {
            let found = self.lines(target, message);
            if let Some(line) = found.into_iter().find(|line| line[field] == value) {
                return line;
            }
            std::thread::yield_now();
        }
        panic!(
            "no {target} {message:?} with {field} {value} in\n{}",
            self.text()
        );
    }

    pub(crate) fn stop(&mut self) {
        self.process.signal("TERM");
        assert_eq!(self.process.child.wait().unwrap().code(), Some(0));
    }
}

fn lines_in(text: &str, target: &str, message: &str) -> Vec<Value> {
    // The last line may not be whole yet.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        assert!(line["timestamp"].is_string() && line["level"].is_string());
        line
    });
    let lines =
        lines.filter(|line| line["target"] == target && line["fields"]["message"] == message);
    lines.map(|line| line["fields"].clone()).collect()
}

#[test]
fn a_session_is_logged_from_its_connection_to_its_end() {
    let mut server = Logging::json("session", "debug", "");
    let headers = "X-Request-Id: request-17\r\n";
    let target = format!("/ws?token={}", token("ann", &[]));
    let mut session = Raw::open(server.process.address, &target, headers);
    assert!(session.read_text().contains("auth_success"));
    for kind in ["subscribe", "unsubscribe"] {
        session.send(&format!(
            r#"{{"type":"{kind}","data":{{"channel":"news"}}}}"#
        ));
        session.read_text();
    }
    session.send(r#"{"type":"dance"}"#);
    session.read_text();
    session.write(&crate::harness::frame_bytes(0x88, &[3, 232]));
    assert_eq!(session.read(), Frame::Close(1000, String::new()));
    let closed = server.await_line("fanwire::session", "closed", ("reason", "peer"));
    let id = closed["connection"].as_str().unwrap();
    assert_eq!(id.len(), 16, "{closed}");
    assert_eq!(closed["user"], "ann");
    assert_eq!(closed["code"], 1000);
    assert_eq!(closed["messages_received"], 3);
    assert_eq!(closed["messages_sent"], 4);
    assert!(closed["duration_ms"].is_u64(), "{closed}");
    let connected = server.await_line("fanwire::session", "connected", ("connection", id));
    assert_eq!(connected["correlation_id"], "request-17");
    assert_eq!(connected["dialect"], "gateway");
    assert_eq!(connected["listener"], 0);
    let client = connected["client"].as_str().unwrap();
    assert!(client.starts_with("127.0.0.1:"), "{connected}");
    let of_session = ("connection", id);
    let authenticated = server.await_line("fanwire::authentication", "authenticated", of_session);
    assert_eq!(authenticated["user"], "ann");
    for message in ["subscribed", "unsubscribed"] {
        let line = server.await_line("fanwire::subscription", message, of_session);
        assert_eq!(line["channel"], "news");
    }
    let rejected = server.await_line("fanwire::rejection", "message rejected", of_session);
    assert_eq!(rejected["reason"], "unknown_type");
    server.stop();
    let text = server.text();
    for message in ["listening", "draining", "stopped"] {
        assert_eq!(
            lines_in(&text, "fanwire::server", message).len(),
            1,
            "{text}"
        );
    }
}

#[test]
fn rejections_failed_authentications_and_limits_are_logged_with_their_reasons() {
    let settings = "sessions_max = 2\n[gateway]\nrate_limit = { messages = 1, window = \"1h\" }\n";
    let settings = settings.replace("sessions_max", "connections_max");
    let mut server = Logging::json("reasons", "info", &settings);
    let address = server.process.address;
    let mut stranger = Raw::open(address, "/ws?token=nonsense", "");
    assert!(stranger.read_text().contains("auth_failed"));
    server.await_line(
        "fanwire::authentication",
        "authentication failed",
        ("reason", "malformed"),
    );
    let closed = server.await_line("fanwire::session", "closed", ("reason", "unauthorized"));
    assert_eq!(closed["code"], 1008);
    let mut lost = Raw::connect(address);
    lost.write(upgrade_request("/nowhere", "").as_bytes());
    assert!(lost.read_head().starts_with("HTTP/1.1 404"));
    let reason = ("reason", "unknown_path");
    let rejected = server.await_line("fanwire::rejection", "connection rejected", reason);
    assert!(
        rejected["client"]
            .as_str()
            .unwrap()
            .starts_with("127.0.0.1:")
    );
    let mut busy = Raw::open(address, "/ws", "");
    for _ in 0..2 {
        busy.send(r#"{"type":"ping"}"#);
        busy.read_text();
    }
    server.await_line("fanwire::limit", "limit reached", ("limit", "rate_limited"));
    let _second = Raw::open(address, "/ws", "");
    let mut third = Raw::open(address, "/ws", "");
    assert_eq!(third.read(), Frame::Close(1013, "capacity".into()));
    server.await_line("fanwire::limit", "limit reached", ("limit", "capacity"));
    server.await_line("fanwire::session", "closed", ("reason", "capacity"));
    server.stop();
}

#[test]
fn a_slow_consumer_is_logged_with_what_waited_for_it() {
    let settings = "send_queue_bytes_max = \"256 KiB\"\nslow_consumer_timeout = \"100ms\"\n";
    let mut server = Logging::json("slow", "info", settings);
    let slow = Client::subscribed(server.process.address, "news");
    let mut publisher = Client::open(server.process.address, "/ws");
    let data = format!("\"{}\"", "x".repeat(30_000));
    let limit = ("limit", "slow_consumer");
    let mut lines = Vec::new();
    for _ in 0..2_000 {
        publisher.publish("news", &data);
        lines = server.lines("fanwire::limit", "limit reached");
        if !lines.is_empty() {
            break;
        }
    }
    assert!(!lines.is_empty(), "{}", server.text());
    let line = server.await_line("fanwire::limit", "limit reached", limit);
    assert!(
        line["waiting_bytes"].as_u64().unwrap() > 256 * 1024,
        "{line}"
    );
    let closed = server.await_line("fanwire::session", "closed", ("reason", "slow_consumer"));
    assert_eq!(closed["connection"], line["connection"]);
    drop(slow);
    server.stop();
}

/// A connection that is rejected and leaves nothing behind in the kernel.
fn be_rejected(address: std::net::SocketAddr) {
    let mut raw = Raw::connect(address);
    raw.reset_when_dropped();
    raw.write(upgrade_request("/nowhere", "").as_bytes());
    assert!(raw.read_head().starts_with("HTTP/1.1 404"));
}

#[test]
fn ten_thousand_rejections_are_a_bounded_number_of_lines_and_a_count() {
    const CONNECTIONS: u64 = 10_000;
    let settings = "log_client_events_per_second = 5\n";
    let mut server = Logging::json("flood", "info", settings);
    let address = server.process.address;
    let began = fanwire::base::now::Clock::start();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..CONNECTIONS / 4).for_each(|_| be_rejected(address)));
        }
    });
    let elapsed_s = began.now().monotonic_ms / 1_000;
    let (_, metrics) = http_get(address, "/metrics/prometheus");
    let left_out = |text: &str| {
        let reports = lines_in(
            text,
            "fanwire::log",
            "events of clients were too many to log",
        );
        let of_kind = reports
            .iter()
            .filter(|it| it["event"] == "connection_rejected");
        let counts = of_kind.map(|it| it["suppressed"].as_u64().unwrap());
        counts.sum::<u64>()
    };
    let count = |lines: &[Value]| lines.len() as u64;
    let (mut text, mut suppressed, mut written) = (String::new(), 0, 0);
    for _ in 0..200_000 {
        text = server.text();
        suppressed = left_out(&text);
        written = count(&lines_in(
            &text,
            "fanwire::rejection",
            "connection rejected",
        ));
        if suppressed + written == CONNECTIONS {
            break;
        }
        std::thread::yield_now();
    }
    assert_eq!(suppressed + written, CONNECTIONS);
    // Ten seconds' worth at once, and five in each second.
    assert!((50..=60 + 5 * elapsed_s).contains(&written), "{written}");
    let bound = written + 2 * (elapsed_s + 2) + 10;
    assert!(
        text.lines().count() as u64 <= bound,
        "more than {bound} lines"
    );
    let series = "fanwire_log_lines_suppressed_total{event=\"connection_rejected\",shard=\"0\"}";
    let counted = metrics.lines().find_map(|line| line.strip_prefix(series));
    let counted: u64 = counted.unwrap().trim().parse().unwrap();
    assert!(counted > CONNECTIONS - 100 - 5 * elapsed_s, "{counted}");
    server.stop();
}

#[test]
fn events_of_clients_can_be_switched_off_and_parts_have_levels() {
    let settings = "log_client_events = false\n";
    let mut server = Logging::json("off", "debug", settings);
    drop(Client::subscribed(server.process.address, "news"));
    server.stop();
    let text = server.text();
    assert!(!text.contains("fanwire::session"), "{text}");
    assert!(text.contains("fanwire::server"), "{text}");

    let settings = "log_levels = [\"fanwire::session=off\", \"fanwire::subscription=debug\"]\n";
    let mut server = Logging::json("levels", "info", settings);
    drop(Client::subscribed(server.process.address, "news"));
    server.await_line("fanwire::subscription", "subscribed", ("channel", "news"));
    server.stop();
    let text = server.text();
    assert!(!text.contains("fanwire::session"), "{text}");
}

#[test]
fn characters_of_a_peer_that_control_or_hide_text_are_escaped() {
    for format in ["text", "json"] {
        let settings = format!("log_format = \"{format}\"\n");
        let mut server = Logging::start(&format!("escaped-{format}"), "trace", &settings, &[]);
        let address = server.process.address;
        let user = "a\u{202e}b";
        let headers = "X-Request-Id: \u{9b}31m\r\nX-Correlation-Id: a b\r\n";
        let path = format!("/ws?token={}", token(user, &[]));
        let mut session = Raw::open(address, &path, headers);
        assert!(session.read_text().contains("auth_success"));
        for channel in ["c\u{202e}d", "e\\u009bf", "g\\u001b[31mh", "i\\nj"] {
            session.send(&format!(
                r#"{{"type":"subscribe","data":{{"channel":"{channel}"}}}}"#
            ));
            session.read_text();
        }
        drop(session);
        server.stop();
        let text = server.text();
        assert!(
            text.contains("authenticated") && text.contains("closed"),
            "{text}"
        );
        let is_hidden = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(is_hidden), "{text:?}");
        let begins = |line: &str| line.starts_with("{\"timestamp\"") || line.starts_with("20");
        assert!(text.lines().all(begins), "{text}");
        assert!(
            !text.contains("31m\"") || !text.contains("correlation_id"),
            "{text}"
        );
    }
}

#[test]
fn a_log_is_rotated_by_size_and_no_line_is_lost() {
    const SESSIONS: usize = 100;
    let settings = "log_rotation = \"4 kB\"\n";
    let mut server = Logging::json("rotation", "info", settings);
    for _ in 0..SESSIONS {
        drop(Raw::open(server.process.address, "/ws", ""));
    }
    server.stop();
    let folder = server.log.parent().unwrap();
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|it| it.unwrap().path());
    let files: Vec<_> = files
        .filter(|it| it.extension().is_some_and(|it| it == "log"))
        .collect();
    let mut connected = 0;
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.len() <= 4_000, "{} bytes", text.len());
        connected += lines_in(&text, "fanwire::session", "connected").len();
    }
    assert_eq!(connected, SESSIONS);
    assert!(files.len() > 5, "{files:?}");
}

/// The notifications profile in a folder of its own.
fn notifications(name: &str) -> (Command, PathBuf) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanwire"));
    command
        .args(["serve", "--profile", "notifications", "--shards", "1"])
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "none"])
        .env_clear()
        .env("SHUTDOWN_TIMEOUT", "0")
        .current_dir(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    (command, folder)
}

fn terminate(mut child: Child) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-s", "TERM", &id]).status();
    assert!(sent.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_notifications_profile_logs_to_the_files_of_its_legacy_server() {
    let (mut command, folder) = notifications("notifications-log");
    let child = command.stderr(Stdio::null()).spawn().unwrap();
    let log = folder.join("logs/websocket_server.log");
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    while !text().contains("\"listening\"") {
        std::thread::yield_now();
    }
    terminate(child);
    assert!(text().contains("\"stopped\""), "{}", text());
    let errors = std::fs::read_to_string(folder.join("logs/errors.log"));
    assert_eq!(errors.unwrap(), "");
}

#[test]
fn where_the_files_of_a_profile_cannot_be_written_standard_error_will_do() {
    let (mut command, folder) = notifications("notifications-no-log");
    std::fs::write(folder.join("logs"), "a file").unwrap();
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut is_warned = false;
    for line in lines.by_ref() {
        let line = line.unwrap();
        is_warned |= line.contains("no log files: set log_file");
        if line.contains("\"listening\"") {
            break;
        }
    }
    assert!(is_warned);
    terminate(child);
    // The file of errors alone is missed as much as both.
    let (mut command, folder) = notifications("notifications-no-errors-log");
    std::fs::create_dir_all(folder.join("logs/errors.log")).unwrap();
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("no log files: set log_file")));
    assert!(lines.any(|line| line.unwrap().contains("\"listening\"")));
    terminate(child);
    // A file that is asked for has to be there.
    let (mut command, folder) = notifications("notifications-set-log");
    std::fs::write(folder.join("logs"), "a file").unwrap();
    command.env("FANWIRE_LOG_FILE", "logs/websocket_server.log");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
