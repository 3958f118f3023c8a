//! Does the program start as a user without privileges, or say why not?

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The program, in a folder that every user can reach, unlike some target directories.
struct Reachable(PathBuf);

impl Reachable {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("fanwire-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (own, link) = (env!("CARGO_BIN_EXE_fanwire"), folder.join("fanwire"));
        // A link costs nothing, but only within a file system.
        if std::fs::hard_link(own, &link).is_err() {
            std::fs::copy(own, &link).unwrap();
        }
        Self(folder)
    }

    /// It as a user without any privilege, and with this limit of locked memory. The kernel counts
    /// locked memory per user, so tests that run at the same time need several.
    fn run(&self, wrapper: &[&str], user: u32, limit_bytes: u64) -> Command {
        let Self(folder) = self;
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]);
        if rustix::process::geteuid().is_root() {
            let id = (100_000 + 64 * std::process::id() + user).to_string();
            command.args([
                "setpriv",
                "--reuid",
                &id,
                "--clear-groups",
                "--inh-caps=-all",
            ]);
        }
        let path = std::env::var_os("PATH").unwrap();
        command
            .arg("prlimit")
            .arg(format!("--memlock={limit_bytes}:{limit_bytes}"))
            .arg(folder.join("fanwire"))
            .args(["serve", "--dev", "--listen", "127.0.0.1:0"])
            .args(["--admin-listen", "127.0.0.1:0", "--shards"])
            .env_clear()
            .env("PATH", path)
            .current_dir(folder)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Reachable {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn it_starts_within_the_locked_memory_of_an_ordinary_user() {
    let reachable = Reachable::new("locked-start");
    const USUAL: u64 = 8 << 20;
    for (user, (shards, limit_bytes)) in (0..).zip([
        (1, USUAL),
        (16, USUAL),
        (32, USUAL),
        (1, 1 << 20),
        (3, 1 << 20),
    ]) {
        let mut command = reachable.run(&["env"], user, limit_bytes);
        let mut child = command
            .arg(shards.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.find(|line| line.as_ref().unwrap().contains("token "));
        let id = child.id().to_string();
        let status = Command::new("kill").args(["-s", "TERM", &id]).status();
        assert!(status.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let place = format!("{shards} shards within {limit_bytes}: {said}");
        assert!(ready.is_some() && output.status.success(), "{place}");
        assert!(!said.contains("WARN"), "{place}");
    }
}

#[test]
fn too_little_locked_memory_is_an_error_that_says_how_much_is_needed() {
    let reachable = Reachable::new("locked-little");
    for (user, (shards, limit_kib, expected)) in (32..).zip([
        (1, 256, "1 shard needs 512 KiB at least"),
        (1, 0, "1 shard needs 512 KiB at least"),
        (16, 64, "16 shards need"),
        (6, 1_024, "or start at most 3 shards (--shards 3)"),
        (64, 8_192, "the limit of locked memory is 8192 KiB"),
    ]) {
        let mut command = reachable.run(&["timeout", "20"], user, limit_kib * 1_024);
        let output = command.arg(shards.to_string()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let place = format!("{shards} shards within {limit_kib} KiB: {said}");
        assert_eq!(output.status.code(), Some(3), "{place}");
        assert!(
            said.contains(expected) && said.contains("LimitMEMLOCK="),
            "{place}"
        );
    }
}

#[test]
fn a_second_server_of_a_user_without_enough_left_is_an_error_too() {
    let reachable = Reachable::new("locked-second");
    let mut first = reachable
        .run(&["env"], 48, 8 << 20)
        .arg("12")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    let ready = lines.find(|line| line.as_ref().unwrap().contains("token "));
    let second = reachable
        .run(&["timeout", "20"], 48, 8 << 20)
        .arg("12")
        .output()
        .unwrap();
    // Ends only what this test started.
    first.kill().unwrap();
    first.wait().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(ready.is_some());
    assert_eq!(second.status.code(), Some(3), "{said}");
    assert!(
        said.contains("for all processes of this user together"),
        "{said}"
    );
}
