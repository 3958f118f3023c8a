//! Does the program start as a user without privileges, or say why not?

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The program as a user of its own without any privilege, and with this limit of locked memory. The
/// kernel counts locked memory per user, so tests that run at the same time need several.
fn with_locked_memory(wrapper: &[&str], user: u32, limit_bytes: u64) -> Command {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // Other users cannot reach every target directory.
        let folder = std::env::temp_dir().join(format!("fanwire-user-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let program = folder.join("fanwire");
        std::fs::copy(env!("CARGO_BIN_EXE_fanwire"), &program).unwrap();
        folder
    });
    let is_root = rustix::process::geteuid().is_root();
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]);
    if is_root {
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
        .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--shards"])
        .env_clear()
        .env("PATH", path)
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

#[test]
fn it_starts_within_the_locked_memory_of_an_ordinary_user() {
    const USUAL: u64 = 8 << 20;
    for (user, (shards, limit_bytes)) in (0..).zip([
        (1, USUAL),
        (16, USUAL),
        (32, USUAL),
        (1, 1 << 20),
        (3, 1 << 20),
    ]) {
        let mut command = with_locked_memory(&["env"], user, limit_bytes);
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
    for (user, (shards, limit_kib, expected)) in (32..).zip([
        (1, 256, "1 shards need 512 KiB at least"),
        (1, 0, "1 shards need 512 KiB at least"),
        (16, 64, "16 shards need"),
        (6, 1_024, "or start at most 3 shards (--shards 3)"),
        (64, 8_192, "the limit of locked memory is 8192 KiB"),
    ]) {
        let mut command = with_locked_memory(&["timeout", "20"], user, limit_kib * 1_024);
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
