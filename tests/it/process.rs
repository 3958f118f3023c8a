//! The program: arguments, exit codes, signals.

use crate::harness::{Client, Raw, SECRET, http, http_get, token, upgrade_request};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

fn fanwire() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanwire"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    fanwire().args(arguments).output().unwrap()
}

/// A server of its own process and the lines it said until it was ready.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    said: Vec<String>,
}

impl Process {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut command = fanwire();
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments);
        Self::of(command, "token ")
    }

    /// A server that is ready when it has said a line with `last`.
    pub(crate) fn of(mut command: Command, last: &str) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        for line in lines {
            said.push(line.unwrap());
            if said.last().unwrap().contains(last) {
                break;
            }
        }
        let address = said[0].rsplit(' ').next().unwrap().parse().unwrap();
        Self {
            child,
            address,
            said,
        }
    }

    /// Waits until health says that nobody new is taken.
    fn await_refusal(&self) {
        for _ in 0..2_000 {
            let (status, body) = http_get(self.address, "/health");
            if status == 503 {
                assert!(body.contains("draining"), "{body}");
                let upgrade = upgrade_request("/ws", "");
                assert_eq!(http(self.address, &upgrade).0, 503);
                return;
            }
            std::thread::yield_now();
        }
        panic!("the server still takes sessions");
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill")
            .args(["-s", name, &id])
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ends only what this test started, and what ended already is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn without_a_secret_it_refuses_to_start_and_says_what_to_set() {
    let output = output(&["serve"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("--jwt-secret") && said.contains("FANWIRE_JWT_SECRET"),
        "{said}"
    );
    // With the variables of a legacy server alone, its own name for the secret is in the same line.
    for (profile, secret) in [
        ("analytics", "FANWIRE_JWT_SECRET"),
        ("assist", "FANWIRE_JWT_SECRET"),
        ("monitoring", "JWT_SECRET or"),
        ("gateway", "JWT_SECRET_KEY"),
    ] {
        let mut command = fanwire();
        command.args(["serve", "--profile", profile]);
        let variables = [("HOST", "127.0.0.1"), ("PORT", "0"), ("LOG_LEVEL", "INFO")];
        let output = command.envs(variables).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{profile}: {said}");
        let lines: Vec<_> = said.lines().collect();
        assert!(
            matches!(lines[..], [line] if line.contains(secret) && line.contains(profile)),
            "{profile}: {said}"
        );
    }
}

#[test]
fn bad_arguments_and_files_exit_with_2() {
    for arguments in [
        &["serve", "--shards", "0", "--dev"][..],
        &["serve", "--listen", "nowhere", "--dev"],
        &["serve", "--config", "/nonexistent.toml", "--dev"],
        &["dance"],
        &["token"],
    ] {
        assert_eq!(output(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn an_address_in_use_exits_with_4() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = output(&["serve", "--dev", "--listen", &address]);
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&address), "{said}");
}

#[test]
fn a_development_server_prints_address_shards_and_a_token_that_works() {
    let process = Process::start(&["--dev", "--shards", "2"]);
    let shards = process.said.iter().filter(|line| line.contains("shard "));
    assert_eq!(shards.count(), 2);
    let token = process.said.last().unwrap().rsplit(' ').next().unwrap();
    let mut client = Client::open(process.address, &format!("/ws?token={token}"));
    assert_eq!(
        client.receive(),
        r#"{"type":"auth_success","data":{"user_id":"dev"}}"#
    );
}

#[test]
fn the_token_command_makes_tokens_for_its_server() {
    let secret = "another secret of more than thirty-two bytes";
    let made = output(&[
        "token",
        "--user",
        "ann",
        "--role",
        "admin",
        "--jwt-secret",
        secret,
    ]);
    assert!(made.status.success());
    let token = String::from_utf8(made.stdout).unwrap();
    let verifier = fanwire::auth::Verifier::hs256(secret.as_bytes());
    let now = fanwire::base::now::Clock::start().now();
    let identity = verifier.verify(token.trim(), fanwire::auth::UserClaim::Sub, now);
    let identity = identity.unwrap();
    assert_eq!(
        (&*identity.user, &*identity.roles),
        ("ann", &["admin".into()][..])
    );
    assert_eq!(identity.expires_unix_s, now.unix_s() + 3_600);
}

#[test]
fn sigterm_and_sigint_close_sessions_and_exit_cleanly() {
    for signal in ["TERM", "INT"] {
        let mut process = Process::start(&["--dev", "--shards", "2"]);
        let mut client = Client::subscribed(process.address, "news");
        process.signal(signal);
        let goodbye = client.next().unwrap();
        assert!(goodbye.is_close(), "{goodbye:?}");
        assert!(client.next().is_none());
        assert_eq!(process.child.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_second_signal_exits_at_once() {
    let mut process = Process::start(&["--dev", "--drain-close-timeout", "10m"]);
    // A client that does not answer the close keeps the drain waiting.
    let mut stuck = crate::harness::Raw::open(process.address, "/ws", "");
    process.signal("TERM");
    assert_eq!(
        stuck.read_silently(),
        crate::harness::Frame::Close(1001, "shutdown".into())
    );
    process.signal("TERM");
    assert_eq!(process.child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_drain_ends_at_its_timeout() {
    let mut process = Process::start(&["--dev", "--drain-close-timeout", "300ms"]);
    let mut stuck = crate::harness::Raw::open(process.address, "/ws", "");
    process.signal("TERM");
    assert_eq!(
        stuck.read_silently(),
        crate::harness::Frame::Close(1001, "shutdown".into())
    );
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_drain_waits_for_sessions_to_end_by_themselves() {
    let mut process = Process::start(&["--dev", "--drain-grace-period", "10m"]);
    let mut client = Client::subscribed(process.address, "news");
    process.signal("TERM");
    // The session lives on; nobody new comes.
    process.await_refusal();
    client.send(r#"{"type":"ping"}"#);
    assert_eq!(client.receive(), r#"{"type":"pong"}"#);
    drop(client);
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
    let mut process = Process::start(&["--dev", "--drain-grace-period", "100ms"]);
    let mut client = Client::subscribed(process.address, "news");
    process.signal("TERM");
    assert!(client.next().unwrap().is_close());
    assert!(client.next().is_none());
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_config_command_prints_what_serve_would_use() {
    let output = fanwire()
        .args(["config", "--profile", "analytics", "--jwt-secret", SECRET])
        .env("FANWIRE_ANALYTICS__PING_INTERVAL", "7s")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    for line in [
        "profile = \"analytics\"  # --profile",
        "ping_interval = \"7s\"  # variable FANWIRE_ANALYTICS__PING_INTERVAL",
        "close_timeout = \"10s\"  # analytics profile",
        "jwt_secret = \"(secret)\"  # --jwt-secret",
    ] {
        assert!(
            said.lines().any(|found| found == line),
            "no {line} in\n{said}"
        );
    }
    assert!(output.status.success() && !said.contains(SECRET) && !said.contains("[gateway]"));
    let failed = fanwire()
        .args(["config", "--drain-grace-period", "5"])
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(2));
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(
        said.contains("invalid value \"5\" for `drain_grace_period` (--drain-grace-period)"),
        "{said}"
    );
}

#[test]
fn a_file_and_a_dotenv_file_make_listeners_of_two_profiles() {
    let directory = Directory::new("two-profiles");
    std::fs::write(
        directory.path.join("fanwire.toml"),
        "[[listeners]]\nprofile = \"monitoring\"\nlisten = \"127.0.0.1:0\"\n\
         [[listeners]]\nprofile = \"gateway\"\nlisten = \"127.0.0.1:0\"\n",
    )
    .unwrap();
    let dotenv = format!("JWT_SECRET={SECRET}\nWS_PATH=/live\n");
    std::fs::write(directory.path.join(".env"), dotenv).unwrap();
    let mut command = fanwire();
    command
        .args(["serve", "--config", "fanwire.toml", "--shards", "1"])
        .current_dir(&directory.path);
    let process = Process::of(command, "shard 0");
    let addresses: Vec<SocketAddr> = process.said[0]
        .split_once("listening on ")
        .map(|(_, addresses)| addresses.split(", "))
        .unwrap()
        .map(|address| address.parse().unwrap())
        .collect();
    let mut monitoring = Client::open(addresses[0], "/");
    assert!(monitoring.receive().contains("WELCOME"));
    let mut gateway = Client::open(addresses[1], &format!("/live?token={}", token("ann", &[])));
    assert!(gateway.receive().contains("auth_success"));
}

#[test]
fn logs_go_to_files_in_the_form_that_is_set() {
    let directory = Directory::new("logs");
    let mut command = fanwire();
    command
        .args([
            "serve",
            "--dev",
            "--profile",
            "notifications",
            "--port",
            "0",
        ])
        .args(["--log-level", "INFO", "--log-format", "json"])
        .env("FANWIRE_LOG_FILE", "logs/websocket_server.log")
        .env("FANWIRE_LOG_ERROR_FILE", "logs/errors.log")
        .env("SHUTDOWN_TIMEOUT", "0")
        .env("LOG_ROTATION", "1 MB")
        .current_dir(&directory.path);
    let mut process = Process::of(command, "token ");
    process.signal("TERM");
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
    let read = |name: &str| std::fs::read_to_string(directory.path.join("logs").join(name));
    let lines = read("websocket_server.log").unwrap();
    let resolved = "variable SHUTDOWN_TIMEOUT sets drain_grace_period";
    assert!(
        lines.contains(resolved) && lines.contains("draining"),
        "{lines}"
    );
    for line in lines.lines() {
        let is_object = line.starts_with(r#"{"timestamp":"#) && line.ends_with('}');
        assert!(is_object, "{line}");
    }
    assert_eq!(read("errors.log").unwrap(), "");
}

#[test]
fn sighup_and_sigusr1_reopen_log_files_and_the_server_goes_on() {
    let directory = Directory::new("reopen");
    let mut command = fanwire();
    command
        .args(["serve", "--dev", "--listen", "127.0.0.1:0"])
        .args(["--shards", "1"])
        .env("FANWIRE_LOG_FILE", "server.log")
        .env("FANWIRE_LOG_ERROR_FILE", "errors.log")
        .env("RUST_LOG", "warn,fanwire::observe=info")
        .current_dir(&directory.path);
    let mut process = Process::of(command, "token ");
    let mut client = Client::subscribed(process.address, "news");
    let [log, moved] = ["server.log", "server.log.1"].map(|name| directory.path.join(name));
    for (round, signal) in [(1, "HUP"), (2, "USR1"), (3, "HUP")] {
        // As logrotate does it: first the file goes, then the server is told.
        std::fs::rename(&log, &moved).unwrap();
        process.signal(signal);
        await_text(&log, "reopening the log files");
        let before = std::fs::read_to_string(&moved).unwrap();
        client.publish("news", &round.to_string());
        let expected = format!(r#"{{"type":"m","channel":"news","data":{round}}}"#);
        assert_eq!(client.receive(), expected);
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), before);
        assert_eq!(before.lines().count(), usize::from(round > 1));
    }
    drop(client);
    process.signal("TERM");
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
    await_text(&log, "reopening the log files");
}

/// Waits until a file is there and holds `expected`.
fn await_text(path: &Path, expected: &str) {
    let mut text = String::new();
    for _ in 0..2_000_000 {
        text = std::fs::read_to_string(path).unwrap_or_default();
        if text.contains(expected) {
            return;
        }
        std::thread::yield_now();
    }
    panic!("no {expected:?} in {}: {text:?}", path.display());
}

#[test]
fn a_log_file_that_cannot_be_written_is_named() {
    let mut command = fanwire();
    command
        .args(["serve", "--dev", "--listen", "127.0.0.1:0"])
        .env("FANWIRE_LOG_FILE", "/proc/nothing/server.log");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("/proc/nothing/server.log"), "{said}");
}

#[test]
fn a_full_disk_tears_no_line_and_lost_lines_are_counted() {
    let directory = Directory::new("full");
    let mut command = Command::new("sh");
    // A file size limit of 4 blocks, with its signal ignored, makes writes partial and then fail.
    let script =
        "trap '' XFSZ; ulimit -f 4; exec \"$0\" serve --dev --listen 127.0.0.1:0 --shards 1";
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_fanwire")])
        .env_clear()
        .env("RUST_LOG", "trace")
        .env("FANWIRE_LOG_FILE", "server.log")
        .current_dir(&directory.path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address: SocketAddr = first.rsplit(' ').next().unwrap().parse().unwrap();
    for _ in 0..40 {
        assert_eq!(http_get(address, "/health").0, 200);
    }
    let id = child.id().to_string();
    for name in std::iter::repeat_n("HUP", 60).chain(["TERM"]) {
        let status = Command::new("kill").args(["-s", name, &id]).status();
        assert!(status.unwrap().success());
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("cannot write the log file"), "{errors}");
    assert!(
        errors.contains("log lines could not be written"),
        "{errors}"
    );
    let text = std::fs::read_to_string(directory.path.join("server.log")).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    assert!(text.lines().all(|line| line.starts_with("20")), "{text}");
}

#[test]
fn output_that_nobody_reads_neither_panics_nor_ends_the_server() {
    let full = || {
        std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let status = fanwire().args(["config", "--dev"]).stdout(full()).status();
    assert_eq!(status.unwrap().code(), Some(1));
    let script = "\"$0\" config --dev | :; \"$0\" config --dev 2>&1 | true";
    let piped = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_fanwire")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(piped.stderr).unwrap(), "");
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let mut child = fanwire()
        .args(["serve", "--dev", "--listen", &address.to_string()])
        .stdout(full())
        .stderr(full())
        .spawn()
        .unwrap();
    let id = child.id().to_string();
    // The banner, which would tell that it is ready, is lost.
    let is_ready = (0..2_000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        TcpStream::connect(address).is_ok()
    });
    assert!(is_ready && http_get(address, "/health").0 == 200);
    let killed = Command::new("kill").args(["-s", "TERM", &id]).status();
    assert!(killed.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Whether the process has a handler for a signal, by `SigCgt` in proc_pid_status(5).
fn catches(child: &Child, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    u64::from_str_radix(caught.unwrap().trim(), 16).unwrap() & (1 << (signal - 1)) != 0
}

#[test]
fn a_variable_that_is_not_utf_8_is_named() {
    use std::os::unix::ffi::OsStrExt;
    let value = std::ffi::OsStr::from_bytes(b"2\xff");
    let output = fanwire()
        .args(["config", "--dev"])
        .env("FANWIRE_SHARDS", value)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("FANWIRE_SHARDS is not UTF-8"), "{errors}");
}

/// A directory that goes when it is dropped.
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
}

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("fanwire-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self { path }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Makes `command` run under a seccomp filter that rejects `io_uring_setup`, as containers do.
#[expect(
    unsafe_code,
    clippy::cast_possible_truncation,
    reason = "a filter of small constants is installed between fork and exec"
)]
fn forbid_io_uring(command: &mut Command) {
    const EPERM_RESULT: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let load_word = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let jump_if_equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let give_back = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(load_word, 0, 0, 0),
        step(jump_if_equal, 0, 1, libc::SYS_io_uring_setup as u32),
        step(give_back, 0, 0, EPERM_RESULT),
        step(give_back, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog {
            len: 4,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: this call takes numbers only.
        let privileges = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: the program and its four steps live through the call, which copies them.
        let filter = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
        match (privileges, filter) {
            (0, 0) => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure only makes two system calls, which is allowed between fork and exec.
    unsafe { command.pre_exec(install) };
}

#[test]
fn the_kernel_refusing_io_uring_exits_with_3_and_a_remedy() {
    let mut command = fanwire();
    command.args(["serve", "--dev", "--listen", "127.0.0.1:0"]);
    forbid_io_uring(&mut command);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("seccomp") && said.contains("io_uring_setup"),
        "{said}"
    );
}

#[test]
fn a_secured_server_takes_its_secret_from_the_environment() {
    let secret = crate::harness::SECRET;
    let mut child = fanwire()
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("FANWIRE_JWT_SECRET", secret)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut line).unwrap();
    let address: SocketAddr = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let mut client = Client::open(address, &format!("/ws?token={}", token("ann", &[])));
    assert!(client.receive().contains("auth_success"));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The value that `fanwire config` shows for a setting.
fn configured(arguments: &[&str], key: &str) -> String {
    let mut command = fanwire();
    command
        .args(["config", "--jwt-secret", SECRET])
        .args(arguments);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {said}");
    let shown = String::from_utf8(output.stdout).unwrap();
    let line = shown
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{key} = ")));
    let line = line.unwrap_or_else(|| panic!("no {key} in {shown}"));
    line.split("  #").next().unwrap().to_owned()
}

#[test]
fn every_flag_takes_what_the_file_takes() {
    // Flag; the text that it and the file take; the setting that shows it.
    let samples = [
        ("profile", "gateway", "profile"),
        ("listen", ":9001", "port"),
        ("listen", "[::1]:9001", "host"),
        ("host", "localhost", "host"),
        ("port", "0", "port"),
        ("path", "/live", "path"),
        ("compression", "deflate", "compression"),
        ("shards", "3", "shards"),
        ("shards", "auto", "shards"),
        ("workers", "3", "shards"),
        ("jwt-secret", SECRET, "jwt_secret"),
        ("connections-max", "7", "connections_max"),
        ("send-queue-bytes-max", "2MiB", "send_queue_bytes_max"),
        ("send-queue-bytes-max", "65536", "send_queue_bytes_max"),
        ("drain-grace-period", "1m 30s", "drain_grace_period"),
        ("drain-close-timeout", "250ms", "drain_close_timeout"),
        ("admin-listen", "127.0.0.1:9764", "admin_listen"),
        ("tls-certificates", "a.pem a.key", "tls_certificates"),
        ("store", "./store", "store"),
        ("store-sync", "always", "store_sync"),
        ("redis-url", "redis://h", "redis_url"),
        ("log-level", "WARNING", "log_level"),
        ("log-format", "JSON", "log_format"),
    ];
    let flags = fanwire::settings().iter();
    let flags = flags.filter(|setting| setting.value_name.is_some());
    for flag in flags.filter_map(|setting| setting.flag.as_deref()) {
        assert!(samples.iter().any(|(known, ..)| *known == flag), "--{flag}");
    }
    let folder = std::env::temp_dir().join(format!("fanwire-flags-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("fanwire.toml");
    for (flag, text, key) in samples {
        let profile: &[&str] = match flag {
            "path" => &["--profile", "gateway"],
            _ => &[],
        };
        let by_flag = match flag {
            "jwt-secret" => configured(&[], key),
            _ => configured(&[profile, &[&format!("--{flag}"), text]].concat(), key),
        };
        let setting = flag.replace('-', "_");
        std::fs::write(&file, format!("{setting} = \"{text}\"\n")).unwrap();
        let by_file = [profile, &["--config", file.to_str().unwrap()]].concat();
        assert_eq!(by_flag, configured(&by_file, key), "--{flag} {text}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// A server whose start waits for its configuration, which comes through a pipe with a name, and
/// which watches signals already.
fn starting(name: &str) -> (Child, PathBuf) {
    let folder = std::env::temp_dir().join(format!("fanwire-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let pipe = folder.join("fanwire.toml");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let mut command = fanwire();
    command
        .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--config"])
        .arg(&pipe)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let child = command.spawn().unwrap();
    // SIGHUP, SIGINT and SIGTERM.
    while ![1, 2, 15].iter().all(|signal| catches(&child, *signal)) {
        std::thread::yield_now();
    }
    (child, pipe)
}

fn send(child: &Child, name: &str) {
    let id = child.id().to_string();
    let status = Command::new("kill").args(["-s", name, &id]).status();
    assert!(status.unwrap().success());
}

#[test]
fn a_hangup_during_the_start_does_not_kill() {
    let (mut child, pipe) = starting("hangup-start");
    for _ in 0..10 {
        send(&child, "HUP");
    }
    std::fs::write(&pipe, "").unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("listening on"));
    // A signal from before the start has ended is not lost.
    send(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    std::fs::remove_dir_all(pipe.parent().unwrap()).unwrap();
}

#[test]
fn a_start_that_hangs_can_be_ended() {
    for (name, signals, number) in [
        ("term-start", &["TERM"][..], 15),
        ("interrupt-start", &["INT", "INT"], 2),
    ] {
        let (mut child, pipe) = starting(name);
        for signal in signals {
            send(&child, signal);
        }
        assert_eq!(child.wait().unwrap().signal(), Some(number), "{name}");
        std::fs::remove_dir_all(pipe.parent().unwrap()).unwrap();
    }
}

#[test]
fn a_signal_to_end_during_the_start_drains_what_has_started() {
    let (mut child, pipe) = starting("term-quick");
    send(&child, "TERM");
    std::fs::write(&pipe, "").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    std::fs::remove_dir_all(pipe.parent().unwrap()).unwrap();
}

#[test]
fn no_token_and_no_query_reaches_a_log() {
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("secretive.log");
    let _ = std::fs::remove_file(&log);
    let secret = "c2VjcmV0LXRva2Vu";
    let path = log.to_str().unwrap();
    // Nobody answers there, so the failure of the callback is logged as well.
    let callback = format!("http://127.0.0.1:1/?key={secret}");
    let mut command = fanwire();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--dev"])
        .args(["--log-level", "trace"])
        .env("FANWIRE_LOG_FILE", path)
        .env("FANWIRE_AUTH_CALLBACK_URL", callback);
    let mut process = Process::of(command, "token ");
    for target in [
        "/ws?token=",
        "/analytics?x=1&token=",
        "/nowhere?token=",
        "/health?token=",
    ] {
        let bearer = format!("Authorization: Bearer {secret}\r\n");
        let mut raw = Raw::connect(process.address);
        let request = upgrade_request(&format!("{target}{secret}"), &bearer);
        raw.write(request.as_bytes());
        raw.read_head();
    }
    let mut client = Client::open(process.address, "/ws");
    client.send(&format!(
        r#"{{"type":"auth","data":{{"token":"{secret}"}}}}"#
    ));
    assert!(client.receive().contains("Internal error"));
    drop(client);
    process.signal("TERM");
    process.child.wait().unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("callback"), "{text}");
    assert!(!text.contains(secret), "{text}");
}

#[test]
fn only_https_needs_certificates_of_the_host() {
    let serve = |url: &str| {
        let mut command = fanwire();
        command
            .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--shards", "1"])
            .env("FANWIRE_WEBHOOK_URL", url)
            .env("SSL_CERT_FILE", "/dev/null")
            .env("SSL_CERT_DIR", "/nonexistent");
        command
    };
    drop(Process::of(serve("http://127.0.0.1:9/"), "token "));
    let output = serve("https://127.0.0.1:9/").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("certificate"), "{text}");
}
