//! Many sessions with many channels that vanish at once.

use crate::client::{frame, request};
use crate::shards::{Shards, shards};
use fanwire::base::limits::LEAVING_WORK_PER_TURN;
use fanwire::base::{ConnectionId, DialectId, Now};
use fanwire::shard::{ConnectionAction, Shard};

/// As many as a session may have without settings.
const SUBSCRIPTIONS_PER_SESSION: usize = 1_024;

const NOW: Now = Now::at(1_000, 1_700_000_000_000);
const SESSIONS: usize = 20;

fn connect(shard: &mut Shard) -> ConnectionId {
    let id = shard.accept(([127, 0, 0, 1], 9).into(), 0, NOW).unwrap();
    shard.receive(id, &mut request(DialectId::Gateway), NOW);
    id
}

fn send(shard: &mut Shard, id: ConnectionId, text: &str) {
    shard.receive(id, &mut frame(1, text.as_bytes()), NOW);
}

fn subscribe(shard: &mut Shard, id: ConnectionId, channel: usize) {
    let text = format!(r#"{{"type":"subscribe","data":{{"channel":"c{channel}"}}}}"#);
    send(shard, id, &text);
}

/// What the shard has to send: for each connection its bytes.
fn sent(shard: &mut Shard) -> Vec<(ConnectionId, String)> {
    let mut all = Vec::new();
    while let Some(id) = shard.next_ready(&mut { usize::MAX }) {
        let bytes = shard.begin_send(id, 64).collect::<Vec<_>>().concat();
        shard.sent(id, u32::try_from(bytes.len()).unwrap());
        all.push((id, String::from_utf8_lossy(&bytes).into_owned()));
    }
    all
}

#[test]
fn sessions_that_vanish_together_give_back_their_channels_over_several_turns() {
    let Shards {
        mut shards,
        counters,
        process_state,
        ..
    } = shards(1, 1 << 20, 1 << 22, NOW);
    let (shard, counters) = (&mut shards[0], &counters[0]);
    let vanishing: Vec<_> = (0..SESSIONS).map(|_| connect(shard)).collect();
    let witness = connect(shard);
    for id in &vanishing {
        for channel in 0..SUBSCRIPTIONS_PER_SESSION {
            subscribe(shard, *id, channel);
            sent(shard);
            // The share of input of one turn.
            shard.continue_input(NOW);
        }
    }
    subscribe(shard, witness, 7);
    sent(shard);
    let total = (SESSIONS * SUBSCRIPTIONS_PER_SESSION + 1) as u64;
    assert_eq!(counters.subscriptions.value(), total);

    for id in &vanishing {
        shard.abort(*id, NOW);
    }
    for action in shard.take_actions() {
        let ConnectionAction::Close(id) = action else {
            panic!("{action:?}");
        };
        shard.release(id);
    }
    // They do not count any more, and still have most of their subscriptions.
    assert_eq!(process_state.sessions(DialectId::Gateway), 1);
    assert_eq!(counters.shard_sessions.value(), 1);
    assert_eq!(counters.connections.value(), 1);
    let turn = LEAVING_WORK_PER_TURN as u64;
    let mut left = counters.subscriptions.value();
    assert!(total - left <= turn, "{left} of {total} are left");
    assert!(shard.has_leaving());

    // Who comes now gets another slot, and who stays receives each publication once.
    let newcomer = connect(shard);
    assert!(vanishing.iter().all(|id| id.slot() != newcomer.slot()));
    sent(shard);
    let publish = r#"{"type":"publish","data":{"channel":"c7","data":1}}"#;
    let expected = r#"{"type":"message","channel":"c7","data":1}"#;
    let mut turns = 0;
    while shard.has_leaving() {
        send(shard, newcomer, publish);
        shard.drain_ring(NOW);
        let texts = sent(shard);
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert_eq!(texts[0].0, witness);
        assert_eq!(texts[0].1.matches(expected).count(), 1, "{texts:?}");
        let now_left = counters.subscriptions.value();
        assert!(left - now_left <= turn, "{left} to {now_left}");
        left = now_left;
        turns += 1;
    }
    assert!(turns >= (total / turn) - 2, "{turns} turns");
    assert_eq!(counters.subscriptions.value(), 1);
    assert_eq!(counters.channels.value(), 1);
    assert_eq!(shard.connection_count(), 2);
    // The slots are free again.
    let reused = connect(shard);
    assert!(vanishing.iter().any(|id| id.slot() == reused.slot()));
}
