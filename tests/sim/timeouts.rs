//! Every timeout of a connection, on simulated time.

use crate::client::{compressing_request, deflate, frame, request};
use fanwire::auth::{Grant, Identity, Verifier, issue};
use fanwire::base::{ConnectionId, DialectId, Now, ShardCounters};
use fanwire::block_on;
use fanwire::config::{Compression, OriginPattern, Policy};
use fanwire::shard::{ConnectionAction, Hooks, HttpOutput, Query, Shard, ShardParts};
use fanwire_ring::{Ring, RingConfig};
use std::sync::Arc;

const SECRET: &[u8] = b"a secret of the simulation, long enough";

/// One shard that wants tokens, and its time.
struct Stage {
    shard: Shard,
    counters: Arc<ShardCounters>,
    now: Now,
}

impl Stage {
    fn new() -> Self {
        Self::with(Verifier::hs256(SECRET), Hooks::default())
    }

    fn with(verifier: Verifier, hooks: Hooks) -> Self {
        let now = Now::at(5_000, 1_700_000_000_000);
        let config = RingConfig {
            capacity_bytes: 1 << 16,
            readers_max: 1,
        };
        let ring = Ring::new(config).unwrap();
        let counters = Arc::<ShardCounters>::default();
        let parts = ShardParts {
            index: 0,
            connections_max: 20,
            policy: Arc::new(Policy {
                allowed_origins: vec![OriginPattern::parse("https://good.example").unwrap()],
                compressions: vec![Compression::Deflate],
                ..Policy::default()
            }),
            verifier,
            process_state: Arc::default(),
            quotas: Arc::default(),
            hooks: Arc::new(hooks),
            counters: Arc::clone(&counters),
            reader: ring.reader().unwrap(),
            ring,
        };
        Self {
            shard: Shard::new(parts, now),
            counters,
            now,
        }
    }

    fn accept(&mut self, bytes: &[u8]) -> ConnectionId {
        let id = self
            .shard
            .accept(([127, 0, 0, 1], 9).into(), 0, self.now)
            .unwrap();
        self.shard.receive(id, &mut bytes.to_vec(), self.now);
        id
    }

    fn token(&self, ttl_s: u64) -> String {
        issue(&Grant::new("ann"), SECRET, ttl_s, self.now).unwrap()
    }

    /// A session that has said who it is, with a token that is valid for `ttl_s`.
    fn authenticated(&mut self, ttl_s: u64) -> ConnectionId {
        self.authenticated_by(request(DialectId::Gateway), ttl_s)
    }

    /// The same by a request that has no token yet.
    fn authenticated_by(&mut self, request: Vec<u8>, ttl_s: u64) -> ConnectionId {
        let token = self.token(ttl_s);
        let upgrade = String::from_utf8(request).unwrap();
        let id = self.accept(
            upgrade
                .replace("/ws", &format!("/ws?token={token}"))
                .as_bytes(),
        );
        let said = self.sent();
        assert!(said.contains("auth_success"), "{said}");
        id
    }

    /// Lets time pass in steps, as the wire would: never past the time the shard asked for.
    fn pass(&mut self, milliseconds: u64) {
        let end_ms = self.now.monotonic_ms + milliseconds;
        while self.now.monotonic_ms < end_ms {
            let next_ms = self.shard.next_timer_ms().unwrap_or(end_ms).min(end_ms);
            let step_ms = next_ms.max(self.now.monotonic_ms + 1) - self.now.monotonic_ms;
            self.now.monotonic_ms += step_ms;
            self.now.unix_ms += step_ms;
            self.shard.expire_timers(self.now);
            for (id, query) in self.shard.take_queries() {
                // The kernel of the peer acknowledges all that was sent, pings too.
                self.shard.unacknowledged(id, query, Some(0), self.now);
            }
        }
    }

    /// What the shard sent since the last call, as far as it is text.
    fn sent(&mut self) -> String {
        String::from_utf8_lossy(&self.sent_bytes()).into_owned()
    }

    fn sent_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(id) = self.shard.next_ready(&mut { usize::MAX }) {
            let slices = self.shard.begin_send(id, 64).collect::<Vec<_>>().concat();
            self.shard.sent(id, u32::try_from(slices.len()).unwrap());
            bytes.extend(slices);
        }
        bytes
    }

    fn closes(&self, reason: &str) -> u64 {
        let mut values = self.counters.closes.values();
        values.find(|(name, _)| *name == reason).unwrap().1
    }
}

#[test]
fn a_head_that_does_not_come_in_time_is_answered_with_408() {
    let mut stage = Stage::new();
    let id = stage.accept(b"GET /ws HTTP/1.1\r\nHost: slow");
    // Bytes that trickle in buy no time.
    for _ in 0..9 {
        stage.pass(1_000);
        stage.shard.receive(id, &mut b"x".to_vec(), stage.now);
        assert_eq!(stage.sent(), "");
    }
    stage.pass(1_100);
    assert!(stage.sent().starts_with("HTTP/1.1 408 "));
    assert_eq!(
        stage.shard.take_actions(),
        [ConnectionAction::ShutdownWrite(id)]
    );
    // A peer that does not end its side loses the connection all the same.
    stage.pass(5_200);
    assert_eq!(stage.shard.take_actions(), [ConnectionAction::Close(id)]);
    stage.shard.release(id);
    assert_eq!(stage.shard.connection_count(), 0);
}

#[test]
fn a_session_that_does_not_authenticate_is_closed_after_thirty_seconds() {
    let mut stage = Stage::new();
    let id = stage.accept(&request(DialectId::Gateway));
    stage.sent();
    stage.pass(29_000);
    let ping = frame(1, br#"{"type":"ping"}"#);
    stage.shard.receive(id, &mut ping.clone(), stage.now);
    assert!(stage.sent().contains("pong"));
    stage.pass(1_200);
    assert!(stage.sent().contains("auth_timeout"));
    assert_eq!(stage.closes("auth_timeout"), 1);
    // It answers the close frame, and only then the socket is closed.
    assert_eq!(stage.shard.take_actions(), []);
    stage.shard.receive(id, &mut frame(8, &[3, 240]), stage.now);
    assert_eq!(stage.shard.take_actions(), [ConnectionAction::Close(id)]);
}

/// A shard whose turns take long, 29 s after two sessions without a token have begun. The first one has just
/// sent this message, whose turn comes behind those of others, after the 30 s that it has; the other is silent.
fn with_late_turns(message: impl FnOnce(&Stage) -> String) -> (Stage, ConnectionId) {
    let mut stage = Stage::new();
    let request = compressing_request(DialectId::Gateway, "");
    let id = stage.accept(&request);
    stage.accept(&request);
    stage.pass(29_000);
    let numbers = (0..100_000_u32).map(|number| number.wrapping_mul(number) % 97);
    let numbers: Vec<_> = numbers.map(|number| number.to_string()).collect();
    let text = format!(r#"{{"type":"ping","x":[{}]}}"#, numbers.join(","));
    let others = frame(0x41, &deflate(text.as_bytes()));
    for _ in 0..8 {
        let other = stage.authenticated_by(request.clone(), 3_600);
        stage.shard.receive(other, &mut others.clone(), stage.now);
    }
    // Digits that compression makes little shorter than half: of a generator by Knuth (MMIX).
    let mut state = 1_u64;
    let digits = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        char::from_digit(u32::try_from(state >> 60).unwrap(), 16).unwrap()
    });
    let digits: String = digits.take(12_000).collect();
    let message = message(&stage).replace("DIGITS", &digits);
    let payload = deflate(message.as_bytes());
    assert!(
        (4_097..16_000).contains(&payload.len()),
        "{}",
        payload.len()
    );
    stage
        .shard
        .receive(id, &mut frame(0x41, &payload), stage.now);
    stage.sent();
    (stage, id)
}

#[test]
fn a_token_that_waits_behind_messages_of_others_counts_when_the_time_is_over() {
    let (mut stage, id) = with_late_turns(|stage| {
        let token = stage.token(3_600);
        format!(r#"{{"type":"auth","data":{{"token":"{token}","x":"DIGITS"}}}}"#)
    });
    let mut turns = 0;
    while !stage.sent().contains("auth_success") {
        stage.pass(500);
        stage.shard.continue_input(stage.now);
        turns += 1;
        assert_eq!(stage.closes("auth_timeout"), u64::from(turns >= 2));
    }
    assert!(turns > 4, "{turns}");
    stage.pass(20_000);
    assert_eq!(stage.closes("auth_timeout"), 1, "the silent one");
    assert!(stage.shard.describe(id, stage.now).is_some());
}

#[test]
fn a_session_that_waits_to_be_served_is_closed_after_twice_its_time_to_authenticate() {
    let (mut stage, id) = with_late_turns(|_| r#"{"type":"ping","x":"DIGITS"}"#.to_owned());
    stage.pass(30_900);
    assert_eq!(stage.closes("auth_timeout"), 1, "the silent one");
    assert!(stage.shard.describe(id, stage.now).is_some());
    stage.pass(300);
    assert_eq!(stage.closes("auth_timeout"), 2);
    assert!(stage.shard.describe(id, stage.now).is_none());
}

#[test]
fn what_waits_longer_than_the_time_to_authenticate_and_is_no_token_ends_the_session() {
    let (mut stage, id) = with_late_turns(|_| r#"{"type":"ping","x":"DIGITS"}"#.to_owned());
    stage.pass(5_000);
    assert!(stage.shard.describe(id, stage.now).is_some());
    for _ in 0..10 {
        stage.shard.continue_input(stage.now);
    }
    stage.pass(300);
    assert_eq!(stage.closes("auth_timeout"), 2);
    assert!(stage.shard.describe(id, stage.now).is_none());
}

#[test]
fn a_token_about_which_others_are_asked_counts_when_they_answer() {
    let mut hooks = Hooks::default();
    hooks.on_unknown_token(|_| Box::pin(async { Ok(Identity::new("ann")) }));
    let (ask, questions) = std::sync::mpsc::channel();
    hooks.set_ask(move |question| ask.send(question).unwrap());
    let mut stage = Stage::with(Verifier::hs256(SECRET).asking_others(), hooks);
    let id = stage.accept(&request(DialectId::Gateway));
    stage.pass(29_000);
    let message = frame(1, br#"{"type":"auth","data":{"token":"of others"}}"#);
    stage.shard.receive(id, &mut message.clone(), stage.now);
    stage.pass(3_000);
    assert_eq!(stage.closes("auth_timeout"), 0);
    let question = questions.try_recv().unwrap();
    let answer = block_on(question.future);
    stage.shard.answer(question.key, Some(answer), stage.now);
    assert!(stage.sent().contains("auth_success"));
    stage.pass(20_000);
    assert_eq!(stage.closes("auth_timeout"), 0);
}

#[test]
fn silence_is_asked_after_thirty_seconds_and_ended_ten_later() {
    let mut stage = Stage::new();
    let id = stage.authenticated(3_600);
    stage.pass(29_800);
    assert_eq!(stage.sent(), "");
    stage.pass(400);
    assert_eq!(stage.sent(), String::from_utf8_lossy(&[0x89, 0]));
    // A pong is a sign of life.
    stage.pass(9_000);
    stage.shard.receive(id, &mut frame(10, b""), stage.now);
    stage.pass(29_000);
    assert_eq!(stage.sent(), "");
    stage.pass(1_200);
    assert_eq!(stage.sent(), String::from_utf8_lossy(&[0x89, 0]));
    stage.pass(10_200);
    assert!(stage.sent().contains("pong_timeout"));
    assert_eq!(stage.closes("pong_timeout"), 1);
}

/// A peer that has yet to acknowledge `ahead` bytes when the ping is sent, and acknowledges `per_turn`
/// more until each pong is due; further publications follow the ping. Returns how often a pong was
/// due until the session was closed.
fn pongs_due(ahead: u32, per_turn: u32) -> u32 {
    let mut stage = Stage::new();
    let id = stage.authenticated(36_000);
    let publish = |stage: &mut Stage, bytes: u32| {
        let text = format!("\"{}\"", "x".repeat(bytes as usize));
        stage.shard.send_message(id, "m", &text, stage.now);
        u32::try_from(stage.sent_bytes().len()).unwrap()
    };
    let mut unacknowledged = ahead;
    if ahead > 0 {
        publish(&mut stage, ahead);
    }
    let mut due = 0;
    while stage.closes("pong_timeout") == 0 {
        assert!(due < 100, "never closed");
        let next_ms = stage.shard.next_timer_ms().unwrap();
        let step_ms = next_ms - stage.now.monotonic_ms;
        stage.now = Now::at(next_ms, stage.now.unix_ms + step_ms);
        stage.shard.expire_timers(stage.now);
        for (id, query) in stage.shard.take_queries() {
            if query == Query::AtTimer {
                due += 1;
                unacknowledged = unacknowledged.saturating_sub(per_turn);
            }
            let bytes = Some(unacknowledged);
            stage.shard.unacknowledged(id, query, bytes, stage.now);
        }
        let sent = u32::try_from(stage.sent_bytes().len()).unwrap();
        if sent > 0 && stage.closes("pong_timeout") == 0 {
            unacknowledged += sent + publish(&mut stage, 2_000);
        }
    }
    assert!(stage.shard.describe(id, stage.now).is_none());
    due
}

#[test]
fn a_pong_may_be_late_only_while_bytes_ahead_of_the_ping_are_acknowledged() {
    // The kernel of a peer that answers nothing acknowledges the ping all the same.
    assert_eq!(pongs_due(0, u32::MAX), 1);
    assert_eq!(pongs_due(0, 1_000), 1);
    assert_eq!(pongs_due(0, 0), 1);
    // A line that is dead.
    assert_eq!(pongs_due(1_000_000, 0), 1);
    // One that is slow: it has what was ahead of the ping after ten times, and the pong is due then.
    assert_eq!(pongs_due(1_000_000, 100_000), 11);
    assert_eq!(pongs_due(1_000_000, 99_999), 12);
    assert_eq!(pongs_due(1_000_000, u32::MAX), 2);
}

#[test]
fn the_pong_of_a_slow_line_counts_when_it_comes() {
    let mut stage = Stage::new();
    let id = stage.authenticated(36_000);
    let text = format!("\"{}\"", "x".repeat(1_000_000));
    stage.shard.send_message(id, "m", &text, stage.now);
    stage.sent();
    let (mut unacknowledged, mut pings) = (1_000_000, 0);
    for _ in 0..200 {
        let next_ms = stage.shard.next_timer_ms().unwrap();
        stage.now = Now::at(next_ms, stage.now.unix_ms);
        stage.shard.expire_timers(stage.now);
        pings += stage.sent().matches(char::REPLACEMENT_CHARACTER).count();
        for (id, query) in stage.shard.take_queries() {
            let is_due = query == Query::AtTimer && unacknowledged > 0;
            unacknowledged -= if is_due { 100_000 } else { 0 };
            let bytes = Some(unacknowledged);
            stage.shard.unacknowledged(id, query, bytes, stage.now);
            if is_due && unacknowledged % 200_000 == 0 {
                stage.shard.receive(id, &mut frame(10, b""), stage.now);
            }
        }
        if unacknowledged == 0 {
            break;
        }
        assert_eq!(stage.closes("pong_timeout"), 0, "{unacknowledged} to go");
    }
    assert!(pings >= 5, "{pings}");
}

#[test]
fn a_session_that_talks_is_never_pinged() {
    let mut stage = Stage::new();
    let id = stage.authenticated(3_600);
    for _ in 0..20 {
        stage.pass(20_000);
        stage.shard.receive(id, &mut frame(10, b""), stage.now);
        assert_eq!(stage.sent(), "");
    }
}

#[test]
fn a_token_ends_its_session_at_its_time() {
    let mut stage = Stage::new();
    let id = stage.authenticated(20);
    stage.pass(19_500);
    assert_eq!(stage.sent(), "");
    stage.pass(1_000);
    let said = stage.sent();
    assert!(
        said.contains("Token expired") && said.contains("token_expired"),
        "{said}"
    );
    assert_eq!(stage.closes("token_expired"), 1);
    // A peer that does not answer the close frame is cut off.
    stage.pass(5_200);
    assert_eq!(stage.shard.take_actions(), [ConnectionAction::Close(id)]);
}

#[test]
fn an_http_request_has_thirty_seconds() {
    let mut stage = Stage::new();
    let id = stage.accept(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(matches!(
        &stage.shard.take_actions()[..],
        [ConnectionAction::HttpBegin(..), ConnectionAction::Http(..)]
    ));
    stage.pass(29_900);
    let answer = HttpOutput::Bytes(b"HTTP/1.1 200 OK\r\n\r\n".to_vec());
    stage.shard.answer_http(id, answer, stage.now);
    stage.sent();
    let written = ConnectionAction::HttpWritten(id);
    assert_eq!(stage.shard.take_actions(), [written]);
    // The same time for the beginning of the next one.
    stage.pass(29_900);
    assert_eq!(stage.shard.take_actions(), []);
    stage.pass(300);
    assert_eq!(stage.shard.take_actions(), [ConnectionAction::Close(id)]);
}

#[test]
fn a_page_of_another_origin_is_closed_with_its_reason() {
    let mut stage = Stage::new();
    let upgrade = String::from_utf8(request(DialectId::Gateway)).unwrap();
    let from = |origin: &str| upgrade.replace("Host:", &format!("Origin: {origin}\r\nHost:"));
    stage.accept(from("https://evil.example").as_bytes());
    assert!(stage.sent().contains("origin"));
    assert_eq!(stage.closes("origin"), 1);
    stage.accept(from("https://good.example").as_bytes());
    stage.accept(upgrade.as_bytes());
    assert!(!stage.sent().contains("origin"));
}

#[test]
fn what_follows_a_fault_does_not_cut_our_last_words_short() {
    let mut stage = Stage::new();
    let id = stage.authenticated(3_600);
    let mut bytes = frame(3, b"of no opcode");
    bytes.extend([0xff; 50]);
    stage.shard.receive(id, &mut bytes, stage.now);
    stage.shard.receive(id, &mut frame(8, &[3, 232]), stage.now);
    assert!(stage.sent().contains("protocol"));
    // Not closed at once: unread input would reset the connection under the close frame.
    assert_eq!(
        stage.shard.take_actions(),
        [ConnectionAction::ShutdownWrite(id)]
    );
    stage.shard.on_eof(id, stage.now);
    assert_eq!(stage.shard.take_actions(), [ConnectionAction::Close(id)]);
}

#[test]
fn messages_over_the_rate_limit_are_answered_once_a_second_and_all_counted() {
    let mut stage = Stage::new();
    let id = stage.authenticated(3_600);
    let ping = frame(1, br#"{"type":"ping"}"#);
    let mut answers = Vec::new();
    let mut flood = |stage: &mut Stage| {
        for _ in 0..300 {
            stage.shard.receive(id, &mut ping.clone(), stage.now);
        }
        let sent = stage.sent();
        answers.push(sent.matches("Rate limit exceeded").count());
    };
    flood(&mut stage);
    stage.pass(900);
    flood(&mut stage);
    stage.pass(100);
    flood(&mut stage);
    assert_eq!(answers, [1, 0, 1]);
    let mut counted = stage.counters.message_errors.values();
    let counted = counted.find(|(name, _)| *name == "rate_limited").unwrap().1;
    assert!(counted > 850, "{counted} of 900 messages");
}

#[test]
fn a_full_socket_is_slow_only_if_its_peer_acknowledges_nothing_for_five_seconds() {
    let mut stage = Stage::new();
    stage.now = Now::at(5_990, 1_700_000_000_000);
    let id = stage.authenticated(3_600);
    stage.sent();
    let text = format!("\"{}\"", "x".repeat(700_000));
    stage.shard.send_message(id, "m", &text, stage.now);
    stage.shard.send_message(id, "m", &text, stage.now);
    // The socket takes a part, and nothing after that.
    assert_eq!(stage.shard.next_ready(&mut { usize::MAX }), Some(id));
    stage.shard.begin_send(id, 64).for_each(drop);
    stage.shard.sent(id, 100_000);
    stage.shard.would_block(id, stage.now);
    let began_ms = stage.now.monotonic_ms;
    let mut unacknowledged = 90_000;
    let mut pass = |stage: &mut Stage, until_ms: u64, reads: bool| {
        let mut queries = 0;
        while stage.now.monotonic_ms < began_ms + until_ms {
            stage.now.monotonic_ms += 100;
            stage.shard.send_message(id, "m", "1", stage.now);
            for (id, query) in stage.shard.take_queries() {
                assert_eq!(query, Query::WhenStuck);
                unacknowledged -= if reads { 100 } else { 0 };
                queries += 1;
                let bytes = Some(unacknowledged);
                stage.shard.unacknowledged(id, query, bytes, stage.now);
            }
        }
        queries
    };
    assert_eq!(pass(&mut stage, 4_990, true), 0, "not early");
    assert_eq!(
        pass(&mut stage, 20_000, true),
        3,
        "at most every five seconds"
    );
    assert_eq!(stage.closes("slow_consumer"), 0, "it reads");
    assert_eq!(pass(&mut stage, 30_000, false), 1);
    assert_eq!(stage.closes("slow_consumer"), 1);
}
