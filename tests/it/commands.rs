//! The commands that ask a running server, as processes.

use crate::harness::{Client, SECRET, configured};
use fanwire::{Builder, block_on};
use serde_json::Value;
use std::process::{Command, Output, Stdio};

const SETTINGS: &str = r#"
    admin_listen = "127.0.0.1:0"
    api_keys = ["tests=0123456789abcdef publish read admin"]
"#;

struct Caller {
    server: fanwire::Server,
}

impl Caller {
    fn start(name: &str) -> Self {
        Self {
            server: configured(name, SETTINGS, Builder::dev),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanwire"));
        let admin = self.server.admin_address().unwrap();
        command
            .args(arguments)
            .env_clear()
            .env("FANWIRE_ADMIN_URL", format!("http://{admin}"))
            .env("FANWIRE_API_KEY", "0123456789abcdef")
            .env(
                "FANWIRE_URL",
                format!("ws://{}/ws", self.server.addresses()[0]),
            );
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What it prints when it succeeds.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn what_is_published_in_one_terminal_is_seen_in_another() {
    let caller = Caller::start("commands_publish");
    let tail = caller
        .command(&["subscribe", "news", "other", "--count", "3"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stats = || caller.run(&["stats", "--json"]);
    while !stats().contains(r#""subscriptions":2"#) {}
    caller.run(&["publish", "news", r#"{"n":1}"#, "--type", "headline"]);
    caller.run(&["publish", "other", "not JSON"]);
    caller.run(&["publish", "news", "\"\u{1b}[2J\""]);
    let said = String::from_utf8(tail.wait_with_output().unwrap().stdout).unwrap();
    let lines: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["data"]["n"], 1);
    assert_eq!(
        (&lines[0]["type"], &lines[1]["data"]),
        (&"headline".into(), &"not JSON".into())
    );
    assert!(!said.contains('\u{1b}'), "{said}");
    block_on(caller.server.stop());
}

#[test]
fn sessions_are_listed_and_closed() {
    let caller = Caller::start("commands_sessions");
    let mut client = Client::subscribed(caller.server.addresses()[0], "news");
    let listed = caller.run(&["connections", "--channel", "news"]);
    assert!(
        listed.lines().next().unwrap().starts_with("id "),
        "{listed}"
    );
    assert!(listed.contains("gateway"), "{listed}");
    let json: Value = serde_json::from_str(&caller.run(&["connections", "--json"])).unwrap();
    assert_eq!(json["channels"], serde_json::json!(["news"]));
    let top = caller.run(&["top", "--screens", "2", "--interval", "10ms"]);
    assert!(
        top.contains("1 sessions, 1 subscriptions, 1 channels"),
        "{top}"
    );
    assert!(top.contains("/s") && !top.contains('\u{1b}'), "{top}");
    caller.run(&["disconnect", json["id"].as_str().unwrap()]);
    while client.next().is_some_and(|message| !message.is_close()) {}
    assert_eq!(caller.run(&["connections", "--json"]), "");
    assert_eq!(
        caller.run(&["disconnect", "--user", "nobody"]),
        "disconnected 0\n"
    );
    block_on(caller.server.stop());
}

#[test]
fn what_fails_says_why_and_exits_with_1() {
    let caller = Caller::start("commands_fail");
    for (arguments, expected) in [
        (&["disconnect", "ffffffffffffffff"][..], "no such session"),
        (&["connections", "--dialect", "x"], "`dialect` is none"),
        (&["stats", "--admin", "http://127.0.0.1:1"], "refused"),
        (&["connections", "--key", "wrong wrong wrong"], "401"),
        (&["subscribe", "all"], "error"),
        (
            &["subscribe", "news", "--url", "ws://127.0.0.1:1/"],
            "refused",
        ),
    ] {
        let output = caller.output(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(
            said.starts_with("fanwire: ") && said.contains(expected),
            "{arguments:?}: {said}"
        );
    }
    block_on(caller.server.stop());
}

#[test]
fn tokens_are_made_with_the_secret_of_the_settings_and_only_with_a_good_one() {
    let token = |arguments: &[&str], variables: &[(&str, &str)]| {
        let output = Command::new(env!("CARGO_BIN_EXE_fanwire"))
            .arg("token")
            .args(arguments)
            .env_clear()
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let folder = std::env::temp_dir().join(format!("fanwire-token-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("fanwire.toml");
    let text =
        format!("jwt_secret = \"{SECRET}\"\njwt_issuers = [\"here\"]\njwt_audiences = [\"fans\"]");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    for (arguments, variables) in [
        (&["--user", "ann", "--config", file][..], &[][..]),
        (&["--user", "ann"], &[("FANWIRE_JWT_SECRET", SECRET)]),
        (&["--user", "ann", "--jwt-secret", SECRET], &[]),
        (
            &["--user", "ann", "--profile", "gateway"],
            &[("JWT_SECRET_KEY", SECRET)],
        ),
    ] {
        let (code, made) = token(arguments, variables);
        assert_eq!(
            (code, made.split('.').count()),
            (Some(0), 3),
            "{arguments:?}"
        );
    }
    // With what the server of the file wants to see.
    let server = fanwire::Server::builder()
        .config_file(file)
        .listen(([127, 0, 0, 1], 0).into());
    let server = server.start().unwrap();
    let (_, made) = token(&["--user", "ann", "--config", file], &[]);
    let mut client = Client::open(server.addresses()[0], &format!("/ws?token={}", made.trim()));
    assert!(client.receive().contains("auth_success"));
    drop(client);
    block_on(server.stop());
    for arguments in [
        &["--user", "ann", "--jwt-secret", "short"][..],
        &["--user", "ann", "--jwt-secret", "your-super-secret-key"],
        &["--user", "", "--jwt-secret", SECRET],
        &["--user", "ann", "--ttl", "0s", "--jwt-secret", SECRET],
        &["--user", "ann"],
    ] {
        assert_eq!(
            token(arguments, &[]),
            (Some(2), String::new()),
            "{arguments:?}"
        );
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_sample_file_the_json_report_the_completions_and_the_pages_are_whole() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanwire"));
        let output = command.args(arguments).env_clear().output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = std::env::temp_dir().join(format!("fanwire-man-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("sample.toml");
    std::fs::write(&file, run(&["config", "init"])).unwrap();
    let file = file.to_str().unwrap();
    let with_sample = run(&["config", "--dev", "--config", file]);
    assert_eq!(with_sample, run(&["config", "--dev"]));
    let report: Value = serde_json::from_str(&run(&["config", "--dev", "--json"])).unwrap();
    let shards = report
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["name"] == "shards");
    assert_eq!(shards.unwrap()["value"], "auto");
    assert!(run(&["completions", "bash"]).contains("--admin-listen"));
    run(&["man", folder.to_str().unwrap()]);
    let page = std::fs::read_to_string(folder.join("fanwire-serve.1")).unwrap();
    assert!(page.contains("admin\\-listen"), "{page}");
    std::fs::remove_dir_all(folder).unwrap();
}
