//! Do the programs under `examples/` do what they say?

use crate::harness::{Client, Frame, Raw, SECRET, frame_bytes, http, http_get};
use fanwire::auth::{Grant, issue};
use fanwire::base::now::Clock;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

struct Example {
    child: Child,
    address: SocketAddr,
    /// Of the application beside the server, if it has one.
    http: Option<SocketAddr>,
}

impl Example {
    /// The program, which `cargo test` has built beside this one.
    fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    /// The same with variables in its environment.
    fn start_with(name: &str, variables: &[(&str, &str)]) -> Self {
        let addresses = &["127.0.0.1:0", "127.0.0.1:0"];
        Self::run(name, addresses, variables)
    }

    fn run(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut path: PathBuf = std::env::current_exe().unwrap();
        path.pop();
        path.pop();
        let mut child = Command::new(path.join("examples").join(name))
            .args(arguments)
            .env("FANWIRE_JWT_SECRET", SECRET)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`cargo build --examples` or a plain `cargo test` builds it");
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        // What it says later is of no interest, but must not fill the pipe.
        std::thread::spawn(move || said.lines().for_each(drop));
        let http = line.trim().split_once(" http://");
        let http = http.map(|(_, address)| address.parse().unwrap());
        let address = line.trim().trim_start_matches("ws://");
        let address = address.trim_start_matches("wss://");
        let address = address.split('/').next().unwrap().parse().unwrap();
        Self {
            child,
            address,
            http,
        }
    }

    fn client(&self, path: &str, grant: Option<Grant>) -> Client {
        let token = grant.map(|grant| {
            let token = issue(&grant, SECRET.as_bytes(), 3_600, Clock::start().now()).unwrap();
            format!("?token={token}")
        });
        Client::open(
            self.address,
            &format!("{path}{}", token.unwrap_or_default()),
        )
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Ends only what this test started, and what ended already is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn user(name: &str) -> Option<Grant> {
    Some(Grant::new(name))
}

/// The next message with that type.
fn next(client: &mut Client, kind: &str) -> Value {
    loop {
        let message: Value = serde_json::from_str(&client.receive()).unwrap();
        if message["type"] == kind {
            return message;
        }
    }
}

#[test]
fn monitoring_polls_and_publishes() {
    let example = Example::start("monitoring");
    let mut client = example.client("/", user("ann"));
    client.send(r#"{"type":"SUBSCRIBE","property_id":"1012650001"}"#);
    let update = next(&mut client, "VIOLATION_UPDATE");
    assert!(update["count"].as_u64().unwrap() > 0, "{update}");
    // Who says too much is ended by the operator.
    for _ in 0..60 {
        client.send(r#"{"type":"PING"}"#);
    }
    while let Some(message) = client.next() {
        if message.is_close() {
            return;
        }
    }
    panic!("the connection ended without a word");
}

#[test]
fn analytics_streams_what_filters_match() {
    let example = Example::start("analytics");
    let mut client = example.client("/", user("ann"));
    client.send(
        r#"{"type":"subscribe","data":{"type":"events","filters":{"event_type":"purchase","payload.user_id":"user123"}}}"#,
    );
    for _ in 0..3 {
        let data = next(&mut client, "data");
        assert_eq!(data["data"]["event"]["event_type"], "purchase", "{data}");
    }
}

#[test]
fn assist_tells_of_documents_jobs_alerts_and_rooms() {
    let example = Example::start("assist");
    let mut client = example.client("/ws/connect", user("user123"));
    for message in [
        r#"{"type":"subscribe_document_updates"}"#,
        r#"{"type":"subscribe_job_updates"}"#,
        r#"{"type":"join_room","room":"chat_room_123"}"#,
    ] {
        client.send(message);
    }
    assert_eq!(
        next(&mut client, "document_processing_start")["user_id"],
        "user123"
    );
    assert_eq!(next(&mut client, "job_updates")["data"]["job_id"], "job789");
    assert_eq!(next(&mut client, "system_alert")["severity"], "critical");
    assert_eq!(
        next(&mut client, "custom_event")["data"]["message"],
        "Hello room!"
    );
    client.send(r#"{"type":"get_active_jobs"}"#);
    loop {
        let jobs = next(&mut client, "job_updates");
        if jobs["data"]["snapshot"] == true {
            assert!(jobs["data"]["jobs"].is_array(), "{jobs}");
            return;
        }
    }
}

#[test]
fn notifications_come_from_the_program_and_over_http() {
    let example = Example::start("notifications");
    let mut client = example.client("/ws", None);
    assert!(next(&mut client, "greeting")["data"]["number"].is_u64());
    let body =
        r#"{"message":"Hello, WebSocket clients!","type":"alert","data":{"priority":"high"}}"#;
    let length = body.len();
    let (status, answer) = http(
        example.address,
        &format!(
            "POST /notify HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        ),
    );
    assert_eq!(status, 200, "{answer}");
    let alert = next(&mut client, "alert");
    assert_eq!(alert["message"], "Hello, WebSocket clients!");
    assert_eq!(alert["data"]["priority"], "high");
    assert_eq!(http_get(example.address, "/health").0, 200);
}

#[test]
fn the_basic_gateway_echoes() {
    let example = Example::start("gateway_basic");
    let mut client = example.client("/ws", None);
    client.send(r#"{"type":"echo","data":{"n":1}}"#);
    let expected = r#"{"type":"echo_response","data":{"n":1}}"#;
    assert_eq!(client.receive(), expected);
}

#[test]
fn the_advanced_gateway_checks_its_own_credentials_and_broadcasts() {
    let example = Example::start("gateway_advanced");
    let mut client = example.client("/ws", None);
    client.send(r#"{"type":"subscribe","data":{"channel":"notifications"}}"#);
    let required = r#"{"type":"error","data":{"error":"Authentication required"}}"#;
    assert_eq!(client.receive(), required);
    client.send(r#"{"type":"custom_auth","data":{"token":"wrong"}}"#);
    let failed = r#"{"type":"auth_failed","data":{"error":"Invalid token"}}"#;
    assert_eq!(client.receive(), failed);
    client.send(&format!(
        r#"{{"type":"custom_auth","data":{{"token":"{}"}}}}"#,
        "x".repeat(5_000)
    ));
    let long = r#"{"type":"error","data":{"error":"Message too long"}}"#;
    assert_eq!(client.receive(), long);
    client.send(r#"{"type":"custom_auth","data":{"token":"opensesame"}}"#);
    let success = r#"{"type":"auth_success","data":{"user_id":"user_123"}}"#;
    assert_eq!(client.receive(), success);
    for kind in [
        "notification",
        "admin_alert",
        "tenant_news",
        "reading",
        "greeting",
    ] {
        next(&mut client, kind);
    }
}

#[test]
fn the_echo_sends_back_what_it_receives_and_nothing_else() {
    let plain = Example::run("echo", &["127.0.0.1:0"], &[]);
    let encrypted = Example::run("echo", &["127.0.0.1:0", "--tls"], &[]);
    for address in [plain.address, crate::tls::plain_port_for(encrypted.address)] {
        let mut raw = Raw::open(address, "/ws", "");
        raw.send(r#"{"type":"ping"}"#);
        assert_eq!(raw.read(), Frame::Text(r#"{"type":"ping"}"#.into()));
        raw.write(&frame_bytes(0x82, b"\0\xff"));
        assert_eq!(raw.read(), Frame::Binary(b"\0\xff".to_vec()));
        // In fragments with a ping between.
        raw.write(&frame_bytes(0x01, b"one "));
        raw.write(&frame_bytes(0x89, b"?"));
        raw.write(&frame_bytes(0x80, b"two"));
        assert_eq!(raw.read(), Frame::Pong(b"?".to_vec()));
        assert_eq!(raw.read(), Frame::Text("one two".into()));
        let largest = vec![0xfe; 16 << 20];
        raw.write(&frame_bytes(0x82, &largest));
        assert!(raw.read() == Frame::Binary(largest));
        raw.write(&frame_bytes(0x88, &4_321_u16.to_be_bytes()));
        assert_eq!(raw.read_silently(), Frame::Close(4_321, String::new()));
        assert_eq!(raw.read_silently(), Frame::End);
    }
}

#[test]
fn an_embedded_server_ignores_the_environment_unless_asked() {
    // Either would end the start if it were read.
    let variables = [("FANWIRE_SHARDS", "none"), ("FANWIRE_PROD", "true")];
    let example = Example::start_with("gateway_basic", &variables);
    let mut client = example.client("/ws", None);
    client.send(r#"{"type":"echo","data":1}"#);
    assert!(client.receive().contains("echo_response"));
}

/// Status and body of an answer of axum, which takes the end of what is sent for that of the connection.
fn ask(address: SocketAddr, request: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[test]
fn an_axum_application_publishes_and_asks_who_is_there() {
    let example = Example::start("with_axum");
    let application = example.http.unwrap();
    let mut client = example.client("/ws", user("ann"));
    assert!(client.receive().contains("auth_success"));
    client.send(r#"{"type":"subscribe","data":{"channel":"orders:7"}}"#);
    assert!(client.receive().contains("subscribed"));
    let body = r#"{"state":"sent"}"#;
    let length = body.len();
    let request = format!(
        "POST /orders/7 HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    assert_eq!(ask(application, &request).0, 204);
    let expected = r#"{"type":"order_changed","channel":"orders:7","data":{"state":"sent"}}"#;
    assert_eq!(client.receive(), expected);
    let of =
        |user: &str| format!("GET /users/{user} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    let (status, sessions) = ask(application, &of("ann"));
    let sessions: Value = serde_json::from_str(&sessions).unwrap();
    assert_eq!(status, 200);
    assert_eq!(sessions["addresses"].as_array().unwrap().len(), 1);
    let (_, nobody) = ask(application, &of("bob"));
    assert_eq!(nobody, r#"{"addresses":[]}"#);
}
