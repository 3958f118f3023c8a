//! Does a live publication wait while thousands of clients recover at once?

use crate::client::{frame, request};
use crate::shards::{Shards, shards_keeping};
use fanwire::base::limits::{
    RECOVERY_BYTES_PER_BUSY_TURN, REPLY_SEND_COST, SEND_COST_PER_SUBMISSION,
};
use fanwire::base::{ConnectionId, DialectId, HistoryLimits, HistoryRule, Now};
use fanwire::shard::Shard;
use std::collections::HashSet;

const NOW: Now = Now::at(1_000, 1_700_000_000_000);
const CLIENTS: usize = 3_000;
const MISSED: usize = 100;
const MISSED_BYTES: usize = 100;
const BYSTANDERS: usize = 8;
/// Requests that arrive in each turn; fewer are answered in one.
const REQUESTS_PER_TURN: usize = 64;
/// A live publication comes each time after so many turns.
const TURNS_PER_PUBLICATION: usize = 5;

fn connect(shard: &mut Shard) -> ConnectionId {
    let id = shard.accept(([127, 0, 0, 1], 9).into(), 0, NOW).unwrap();
    shard.receive(id, &mut request(DialectId::Gateway), NOW);
    id
}

fn receive(shard: &mut Shard, id: ConnectionId, text: &str) {
    shard.receive(id, &mut frame(1, text.as_bytes()), NOW);
}

fn publication(channel: &str, data: &str) -> String {
    format!(r#"{{"type":"publish","data":{{"channel":"{channel}","type":"m","data":"{data}"}}}}"#)
}

/// Sends one submission; returns how many sends it has, and calls `on_send` for each.
fn submit(shard: &mut Shard, mut on_send: impl FnMut(ConnectionId, &[u8])) -> usize {
    let mut count = 0;
    let mut cost_left = SEND_COST_PER_SUBMISSION;
    let mut sent = Vec::new();
    while let Some(id) = shard.next_ready(&mut cost_left) {
        let bytes = shard.begin_send(id, 64).collect::<Vec<_>>().concat();
        on_send(id, &bytes);
        sent.push((id, u32::try_from(bytes.len()).unwrap()));
        count += 1;
    }
    for (id, bytes) in sent {
        shard.sent(id, bytes);
    }
    count
}

#[test]
fn a_live_publication_waits_for_few_of_the_thousands_that_recover() {
    let rule = HistoryRule {
        literal: "news:".into(),
        is_prefix: true,
        limits: HistoryLimits {
            messages_max: 1_000,
            bytes_max: 1 << 24,
            age_ms: 0,
        },
    };
    let Shards {
        mut shards,
        counters,
        ..
    } = shards_keeping(vec![rule], b"unused", 1, 1 << 24, NOW);
    let shard = &mut shards[0];
    let publisher = connect(shard);
    let bystanders: Vec<_> = (0..BYSTANDERS).map(|_| connect(shard)).collect();
    for id in &bystanders {
        receive(
            shard,
            *id,
            r#"{"type":"subscribe","data":{"channel":"prop:live"}}"#,
        );
    }
    let missed = publication("news:0", &"x".repeat(MISSED_BYTES));
    for _ in 0..MISSED {
        receive(shard, publisher, &missed);
        shard.continue_input(NOW);
    }
    while shard.drain_ring(NOW) > 0 {}
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect(shard)).collect();
    while submit(shard, |_, _| {}) > 0 {}

    let live = publication("prop:live", "live");
    let subscribe =
        r#"{"type":"subscribe","data":{"channel":"news:0","recover":"00000007-0000000000000"}}"#;
    let recovered = || counters[0].recovered.value();
    let mut requests = clients.iter();
    let mut waiting = HashSet::new();
    let (mut turn, mut published_at, mut answers, mut busy_turns) = (0, 0, 0, 0);
    while answers < CLIENTS || shard.has_recovering() || shard.has_ready() {
        for id in requests.by_ref().take(REQUESTS_PER_TURN) {
            receive(shard, *id, subscribe);
        }
        if turn % TURNS_PER_PUBLICATION == 0 {
            assert_eq!(waiting.len(), 0, "turn {turn}");
            receive(shard, publisher, &live);
            waiting.extend(bystanders.iter().copied());
            published_at = turn;
        }
        let (was_busy, before) = (shard.has_ready(), recovered());
        shard.continue_input(NOW);
        shard.drain_ring(NOW);
        let entries = usize::try_from(recovered() - before).unwrap();
        let mut answers_in_turn = 0;
        submit(shard, |id, bytes| {
            let has = |text: &[u8]| bytes.windows(text.len()).any(|it| it == text);
            if has(br#""type":"subscribed""#) {
                answers_in_turn += 1;
            } else if has(br#""channel":"prop:live""#) {
                waiting.remove(&id);
            }
        });
        answers += answers_in_turn;
        // Its input and its sends are in one turn, or its sends in the next one.
        assert!(
            waiting.is_empty() || turn <= published_at,
            "{} bystanders wait in turn {turn} since {published_at}",
            waiting.len()
        );
        assert!(answers_in_turn <= SEND_COST_PER_SUBMISSION / REPLY_SEND_COST);
        if was_busy {
            busy_turns += 1;
            // The last step may exceed it.
            let entries_max = RECOVERY_BYTES_PER_BUSY_TURN / MISSED_BYTES + 64;
            assert!(entries <= entries_max, "{entries} in turn {turn}");
        }
        turn += 1;
    }
    assert_eq!(answers, CLIENTS);
    assert_eq!(recovered(), (CLIENTS * MISSED) as u64);
    assert!(busy_turns > CLIENTS / 20, "answers waited: {busy_turns}");
}
