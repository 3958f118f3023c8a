//! Conversations of each dialect, as files: what a client sends, and what it must be told.
//!
//! `tests/it/transcripts/DIALECT/*.txt` are run against a server of this process by real sockets.
//! A line is one of
//!
//! ```text
//! > TEXT                    the client sends TEXT
//! < JSON                    the next message is JSON, by value
//! # WHY                     a comment
//! @server TOML              a line of the server's configuration file; before everything else
//! @token NAME CLAIMS        from now on $NAME is a token; CLAIMS is an object, `ttl` its seconds
//! @connect NAME TARGET      a client connects, and speaks; header lines may follow after `|`
//! @rejected STATUS TARGET    a handshake is answered with a status of HTTP
//! @as NAME                  this client speaks
//! @nothing NAME             nothing has arrived and nothing comes before the answer to a ping
//! @close NAME CODE REASON   the server closes; the client answers
//! @leave NAME               the client closes
//! @vanish NAME              the client's socket closes without a word
//! @api CALL ARGUMENTS       the program that embeds the server calls it; an array. `T:CALL` is a call
//!                           in the tenant T, `*:CALL` in all tenants
//! @times N … @end           the lines between, N times
//! ```
//!
//! In JSON, texts that begin with `$` stand for a value of a kind: `$any`, `$text`, `$number`,
//! `$count`, `$session` (an id of sixteen digits), `$subscription`, `$time` (ISO 8601, UTC, with
//! milliseconds), `$seconds` (a time of these years, in seconds). `$session:ann` names the value:
//! where the name stands again, also in what is sent, the same value must.

use crate::harness::{Frame, Raw, SECRET, frame_bytes, http, upgrade_request};
use fanwire::auth::Verifier;
use fanwire::base::now::Clock;
use fanwire::{BroadcastTarget, Server};
use fanwire::{ShardCount, block_on};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn folder(dialect: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/transcripts")
        .join(dialect)
}

/// Runs all transcripts of a dialect, one after another.
fn check(dialect: &str) {
    run(dialect, None);
}

/// The same with clients that compress everything, and have asked for a window of so many bits. The
/// server compresses whatever becomes smaller.
fn check_compressed(dialect: &str, window_bits: u8) {
    let compressed_count = run(dialect, Some(window_bits));
    assert!(compressed_count > 10, "only {compressed_count} messages");
}

/// Runs them; how many compressed messages the clients have received.
fn run(dialect: &str, window_bits: Option<u8>) -> u32 {
    let mut compressed_count = 0;
    let files = std::fs::read_dir(folder(dialect)).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no transcripts of {dialect}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = format!("{dialect}/{}", file.file_name().unwrap().to_string_lossy());
        println!("{name}");
        let lines: Vec<_> = (1..).zip(text.lines().map(str::trim)).collect();
        let mut stage = Stage::new(name, window_bits);
        stage.play(&lines);
        compressed_count += stage.compressed_count;
        stage.end();
    }
    compressed_count
}

#[test]
fn gateway_transcripts_hold() {
    check("gateway");
}

#[test]
fn monitoring_transcripts_hold() {
    check("monitoring");
}

#[test]
fn analytics_transcripts_hold() {
    check("analytics");
}

#[test]
fn assist_transcripts_hold() {
    check("assist");
}

#[test]
fn notifications_transcripts_hold() {
    check("notifications");
}

#[test]
fn gateway_transcripts_hold_with_compression() {
    check_compressed("gateway", 15);
}

#[test]
fn analytics_transcripts_hold_with_compression_and_a_small_window() {
    check_compressed("analytics", 10);
}

/// One transcript under way.
struct Stage {
    file: String,
    line: usize,
    settings: String,
    server: Option<Server>,
    clients: HashMap<String, Raw>,
    speaker: String,
    names: HashMap<String, Value>,
    window_bits: Option<u8>,
    compressed_count: u32,
}

impl Stage {
    fn new(file: String, window_bits: Option<u8>) -> Self {
        Self {
            file,
            line: 0,
            settings: String::new(),
            server: None,
            clients: HashMap::new(),
            speaker: String::new(),
            names: HashMap::new(),
            window_bits,
            compressed_count: 0,
        }
    }

    /// Where we are, for what goes wrong.
    fn place(&self) -> String {
        format!("tests/it/transcripts/{}:{}", self.file, self.line)
    }

    fn play(&mut self, lines: &[(usize, &str)]) {
        let mut at = 0;
        while let Some(&(number, line)) = lines.get(at) {
            at += 1;
            self.line = number;
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            if word != "@times" {
                self.act(word, rest);
                continue;
            }
            let length = lines[at..].iter().position(|(_, line)| *line == "@end");
            let length = length.unwrap_or_else(|| panic!("{}: no @end", self.place()));
            for _ in 0..rest.parse().unwrap() {
                self.play(&lines[at..at + length]);
            }
            at += length + 1;
        }
    }

    fn act(&mut self, word: &str, rest: &str) {
        match word {
            "" | "#" => {}
            ">" => {
                let text = self.with_names(rest);
                self.speaker().send(&text);
            }
            "<" => self.expect(rest),
            "@server" => {
                assert!(self.server.is_none(), "{}: it runs already", self.place());
                writeln!(self.settings, "{rest}").unwrap();
            }
            "@token" => self.make_token(rest),
            "@connect" => self.connect(rest),
            "@refused" => self.expect_refusal(rest),
            "@as" => {
                self.speaker = rest.into();
                self.speaker();
            }
            "@nothing" => self.expect_nothing(rest),
            "@close" => self.expect_close(rest),
            "@leave" => self.leave(rest),
            "@vanish" => {
                self.client(rest);
                self.clients.remove(rest);
            }
            "@api" => self.call(rest),
            _ => panic!("{}: what is {word}?", self.place()),
        }
    }

    fn server(&mut self) -> &Server {
        let settings = &self.settings;
        let window_bits = self.window_bits;
        self.server.get_or_insert_with(|| {
            let file = self.file.replace('/', "-");
            let file = format!("fanwire-{}-{file}.toml", std::process::id());
            let path = std::env::temp_dir().join(file);
            std::fs::write(&path, settings).unwrap();
            let mut builder = Server::builder()
                .listen(([127, 0, 0, 1], 0).into())
                .shards(ShardCount::Fixed(2))
                .jwt_secret(SECRET)
                .config_file(&path);
            if window_bits.is_some() {
                builder = builder.set("compression", "deflate");
                builder = builder.set("compression_bytes_min", "1");
            }
            let server = builder.start();
            std::fs::remove_file(path).unwrap();
            server.unwrap()
        })
    }

    fn client(&mut self, name: &str) -> &mut Raw {
        let place = self.place();
        let client = self.clients.get_mut(name);
        client.unwrap_or_else(|| panic!("{place}: there is no client {name:?}"))
    }

    fn speaker(&mut self) -> &mut Raw {
        self.client(&self.speaker.clone())
    }

    /// `text` with the values of names in it.
    fn with_names(&self, text: &str) -> String {
        // Longer names first: one may begin with another.
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        names.into_iter().fold(text.into(), |text, (name, value)| {
            let value = value.as_str().map_or(value.to_string(), str::to_owned);
            text.replace(name, &value)
        })
    }

    fn make_token(&mut self, rest: &str) {
        let (name, claims) = rest.split_once(' ').unwrap();
        let mut claims: Map<String, Value> = serde_json::from_str(claims)
            .unwrap_or_else(|error| panic!("{}: {error}", self.place()));
        let ttl = claims
            .remove("ttl")
            .map_or(3_600, |ttl| ttl.as_i64().unwrap());
        let secret = claims.remove("secret");
        let secret = secret.as_ref().and_then(Value::as_str).unwrap_or(SECRET);
        let now = i64::try_from(Clock::start().now().unix_s()).unwrap();
        claims.insert("exp".into(), json!(now + ttl));
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
        self.names.insert(format!("${name}"), token.into());
    }

    /// Target and header lines of a handshake.
    fn request(&self, text: &str) -> (String, String) {
        let text = self.with_names(text);
        let mut parts = text.split('|').map(str::trim);
        let target = parts.next().unwrap().to_owned();
        (target, parts.map(|line| format!("{line}\r\n")).collect())
    }

    fn connect(&mut self, rest: &str) {
        let (name, request) = rest.split_once(' ').unwrap();
        let (target, headers) = self.request(request);
        let address = self.server().addresses()[0];
        let client = match self.window_bits {
            None => Raw::open(address, &target, &headers),
            Some(bits) => Raw::compressing(address, &target, &headers, bits),
        };
        let earlier = self.clients.insert(name.into(), client);
        assert!(earlier.is_none(), "{}: {name} is there", self.place());
        self.speaker = name.into();
    }

    fn expect_refusal(&mut self, rest: &str) {
        let (expected, request) = rest.split_once(' ').unwrap();
        let (target, headers) = self.request(request);
        let address = self.server().addresses()[0];
        let (status, _) = http(address, &upgrade_request(&target, &headers));
        assert_eq!(status.to_string(), expected, "{}", self.place());
    }

    fn next(&mut self) -> Frame {
        loop {
            let speaker = self.speaker();
            let frame = speaker.read();
            let compressed_count = std::mem::take(&mut speaker.compressed_count);
            self.compressed_count += compressed_count;
            if frame != Frame::Ping {
                return frame;
            }
        }
    }

    fn expect(&mut self, expected: &str) {
        let place = self.place();
        let text = match self.next() {
            Frame::Text(text) => text,
            other => panic!("{place}: instead came {other:?}"),
        };
        let wanted: Value =
            serde_json::from_str(expected).unwrap_or_else(|error| panic!("{place}: {error}"));
        let received: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{place}: {text} is no JSON: {error}"));
        if let Err(why) = self.compare(&wanted, &received) {
            panic!("{place}: {why}\nexpected {expected}\nreceived {text}");
        }
    }

    fn compare(&mut self, wanted: &Value, received: &Value) -> Result<(), String> {
        match (wanted, received) {
            (Value::String(name), _) if name.starts_with('$') => self.compare_name(name, received),
            (Value::Object(wanted), Value::Object(received)) => {
                if let Some(name) = received.keys().find(|name| !wanted.contains_key(*name)) {
                    return Err(format!("the field {name} is too much"));
                }
                wanted.iter().try_for_each(|(name, wanted)| {
                    let received = received.get(name).ok_or(format!("no field {name}"))?;
                    self.compare(wanted, received)
                })
            }
            (Value::Array(wanted), Value::Array(received)) if wanted.len() == received.len() => {
                let mut pairs = wanted.iter().zip(received);
                pairs.try_for_each(|(wanted, received)| self.compare(wanted, received))
            }
            _ if wanted == received => Ok(()),
            _ => Err(format!("{received} is not {wanted}")),
        }
    }

    fn compare_name(&mut self, name: &str, received: &Value) -> Result<(), String> {
        let kind = name[1..].split(':').next().unwrap();
        if !is_of_kind(kind, received) {
            return Err(format!("{received} is not a {kind}"));
        }
        if !name.contains(':') {
            return Ok(());
        }
        let known = self.names.entry(name.into()).or_insert(received.clone());
        if known == received {
            Ok(())
        } else {
            Err(format!("{received} is not {known}, which is {name}"))
        }
    }

    /// Two pings: what was published before the first is read before the second.
    fn expect_nothing(&mut self, name: &str) {
        self.speaker = name.into();
        for _ in 0..2 {
            let is_upper = self.file.starts_with("monitoring");
            let kind = if is_upper { "PING" } else { "ping" };
            self.speaker().send(&json!({"type": kind}).to_string());
            let frame = self.next();
            let is_pong = matches!(&frame, Frame::Text(text)
                if text.to_ascii_lowercase().starts_with(r#"{"type":"pong""#));
            assert!(is_pong, "{}: {frame:?}", self.place());
        }
    }

    fn expect_close(&mut self, rest: &str) {
        let mut parts = rest.splitn(3, ' ');
        self.speaker = parts.next().unwrap().into();
        let code = parts.next().unwrap().parse().unwrap();
        let reason = parts.next().unwrap_or_default().to_owned();
        let frame = self.next();
        assert_eq!(frame, Frame::Close(code, reason), "{}", self.place());
        assert_eq!(self.next(), Frame::End, "{}", self.place());
        self.clients.remove(&self.speaker);
    }

    fn leave(&mut self, name: &str) {
        self.speaker = name.into();
        self.speaker().write(&frame_bytes(0x88, &[3, 232]));
        let frame = self.next();
        assert_eq!(frame, Frame::Close(1000, String::new()), "{}", self.place());
        self.clients.remove(name);
    }

    fn call(&mut self, rest: &str) {
        let place = self.place();
        let (name, arguments) = rest.split_once(' ').unwrap_or((rest, "[]"));
        let arguments = self.with_names(arguments);
        let arguments: Vec<Value> =
            serde_json::from_str(&arguments).unwrap_or_else(|error| panic!("{place}: {error}"));
        let text = |at: usize| arguments[at].as_str().unwrap();
        let value = |at: usize| &arguments[at];
        let server = self.server();
        let (scoped, name) = match name.split_once(':') {
            Some(("*", name)) => (server.in_all_tenants(), name),
            Some((tenant, name)) => (server.in_tenant(tenant), name),
            None => (server.clone(), name),
        };
        let server = &scoped;
        let result = match name {
            "broadcast_to" => {
                let (kind, whom) = text(1).split_once(':').unwrap();
                let target = match kind {
                    "user" => BroadcastTarget::User(whom),
                    "role" => BroadcastTarget::Role(whom),
                    "permission" => BroadcastTarget::Permission(whom),
                    _ => BroadcastTarget::Tenant(whom),
                };
                server.broadcast_to(text(0), target, text(2), value(3))
            }
            "broadcast" => server.broadcast(text(0), text(1), value(2)),
            "broadcast_to_user" => server.broadcast_to_user(text(0), text(1), value(2)),
            "broadcast_to_tenant" => server.broadcast_to_tenant(text(0), text(1), value(2)),
            "broadcast_to_role" => server.broadcast_to_role(text(0), text(1), value(2)),
            "broadcast_to_permission" => server.broadcast_to_permission(text(0), text(1), value(2)),
            "broadcast_property" => server.broadcast_property(text(0), value(1)),
            "broadcast_event" => server.broadcast_event(value(0)),
            "broadcast_metrics" => server.broadcast_metrics(value(0)),
            "broadcast_alert" => server.broadcast_alert(value(0)),
            "broadcast_prediction" => server.broadcast_prediction(value(0)),
            "broadcast_aggregation" => server.broadcast_aggregation(value(0)),
            "broadcast_system_status" => server.broadcast_system_status(value(0)),
            "send_to_room" => server.send_to_room(text(0), value(1)),
            "notify_document_processing_start" => {
                server.notify_document_processing_start(text(0), text(1), text(2))
            }
            "notify_document_processing_complete" => {
                let success = value(3).as_bool().unwrap();
                server.notify_document_processing_complete(text(0), text(1), text(2), success)
            }
            "notify_job_status_change" => {
                let progress = value(2).as_f64().unwrap();
                server.notify_job_status_change(text(0), text(1), progress)
            }
            "notify_system_alert" => {
                server.notify_system_alert(text(0), text(1), text(2), value(3))
            }
            "notify_user_activity" => server.notify_user_activity(text(0), text(1)),
            "notify" => server.notify(text(0), text(1), value(2)),
            "send" => block_on(server.send(text(0).parse().unwrap(), text(1), value(2)))
                .map(|is_there| assert!(is_there, "{place}: no such session")),
            "disconnect" => {
                assert!(
                    block_on(server.disconnect(text(0))),
                    "{place}: no such session"
                );
                Ok(())
            }
            // It returns when all clients are gone, which the next lines show.
            "stop" => {
                let server = server.clone();
                std::thread::spawn(move || block_on(server.stop()));
                Ok(())
            }
            _ => panic!("{place}: the library has no {name}"),
        };
        result.unwrap_or_else(|error| panic!("{place}: {error}"));
    }

    /// All clients leave, and the server must have forgotten them.
    fn end(mut self) {
        self.clients.clear();
        let server = self.server.take().expect("a transcript has clients");
        let mut stats = block_on(server.stats());
        for _ in 0..2_000 {
            let left = [
                stats.active_connections,
                stats.authenticated_connections,
                stats.total_subscriptions,
                stats.unique_channels,
            ];
            if left == [0; 4] {
                block_on(server.stop());
                return;
            }
            std::thread::yield_now();
            stats = block_on(server.stats());
        }
        panic!("{}: after all have left: {stats:?}", self.file);
    }
}

/// Whether a value is what a placeholder stands for.
fn is_of_kind(kind: &str, value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    let is_hex = |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    match kind {
        "any" => true,
        "text" => value.is_string(),
        "number" => value.is_number(),
        "count" => value.is_u64(),
        "session" | "notification" => is_hex(text),
        "subscription" => text.strip_prefix("sub_").is_some_and(is_hex),
        "time" => is_time(text),
        // From 2023 to 2096, with a fraction.
        "seconds" => value.is_f64() && (1.7e9..4e9).contains(&value.as_f64().unwrap()),
        _ => panic!("there is no kind {kind}"),
    }
}

/// `2024-01-01T00:00:00.000Z`
fn is_time(text: &str) -> bool {
    let pattern = "dddd-dd-ddTdd:dd:dd.dddZ";
    let fits = |(byte, pattern): (u8, u8)| match pattern {
        b'd' => byte.is_ascii_digit(),
        other => byte == other,
    };
    text.len() == pattern.len() && text.bytes().zip(pattern.bytes()).all(fits)
}

#[test]
fn tokens_of_transcripts_are_ones_that_the_server_reads() {
    let mut stage = Stage::new("gateway/none".into(), None);
    stage.make_token(r#"ann {"sub":"ann","roles":["admin"]}"#);
    let token = stage.names["$ann"].as_str().unwrap();
    let verifier = Verifier::hs256(SECRET.as_bytes());
    let now = Clock::start().now();
    let identity = verifier.verify(token, fanwire::auth::UserClaim::Sub, now);
    assert!(identity.unwrap().has_role("admin"));
}
