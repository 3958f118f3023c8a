//! Does input wait only for what it must wait for, and in order?

use crate::client::{Client, Received, compressing_request, deflate, frame, request};
use crate::shards::{Shards, shards};
use fanwire::base::counters::ProtocolError;
use fanwire::base::limits::{INFLATION_COST, INPUT_COST_PER_TURN, LARGE_MESSAGE_BYTES};
use fanwire::base::{DialectId, Now};
use fanwire::shard::{ConnectionAction, ReceiveMode};

const NOW: Now = Now::at(1_000, 1_700_000_000_000);
const RING_BYTES: u32 = 64 * 1024;
const CHANNEL: usize = 1;

struct World {
    shards: Shards,
    clients: Vec<Client>,
}

impl World {
    /// Two shards. The first has clients; the second only reads the ring when it is told.
    fn new(clients: usize) -> Self {
        let mut world = Self {
            shards: shards(2, RING_BYTES, 1 << 20, NOW),
            clients: Vec::new(),
        };
        for index in 0..clients {
            let peer = ([127, 0, 0, 1], 9).into();
            let id = world.shards.shards[0].accept(peer, 0, NOW).unwrap();
            world.clients.push(Client::new(0, id, DialectId::Gateway));
            world.receive(index, request(DialectId::Gateway));
        }
        world
    }

    /// The same, whose clients have offered compression.
    fn compressing(clients: usize) -> Self {
        let mut world = Self::new(0);
        for index in 0..clients {
            let peer = ([127, 0, 0, 1], 9).into();
            let id = world.shards.shards[0].accept(peer, 0, NOW).unwrap();
            let client = Client::new(0, id, DialectId::Gateway).compressing();
            world.clients.push(client);
            world.receive(index, compressing_request(DialectId::Gateway, ""));
        }
        world
    }

    fn receive(&mut self, client: usize, mut bytes: Vec<u8>) {
        let id = self.clients[client].id;
        self.shards.shards[0].receive(id, &mut bytes, NOW);
    }

    /// A turn of the first shard, without more input.
    fn turn(&mut self) {
        let shard = &mut self.shards.shards[0];
        shard.retry_unsent(NOW);
        shard.continue_input(NOW);
        shard.drain_ring(NOW);
    }

    /// Takes turns while `goes_on`, in each of which `other` is answered at once; returns how many.
    fn turns_while_only(&mut self, other: usize, goes_on: impl Fn(&Self) -> bool) -> usize {
        let mut turns = 0;
        while goes_on(self) {
            self.turn();
            turns += 1;
            assert!(turns < 10_000, "it does not get on");
            let pongs = self.clients[other].pongs.len();
            self.receive(other, frame(9, b"?"));
            self.flush();
            assert_eq!(self.clients[other].pongs.len(), pongs + 1);
        }
        turns
    }

    fn flush(&mut self) {
        let shard = &mut self.shards.shards[0];
        while let Some(id) = shard.next_ready(&mut { usize::MAX }) {
            let bytes = shard.begin_send(id, 64).collect::<Vec<_>>().concat();
            shard.sent(id, u32::try_from(bytes.len()).unwrap());
            let mut clients = self.clients.iter_mut();
            clients.find(|client| client.id == id).unwrap().take(&bytes);
        }
    }

    fn publication(&self, number: u64, padding_bytes: usize) -> Vec<u8> {
        self.clients[0].publish(Received {
            number,
            channel: CHANNEL,
            padding_bytes,
        })
    }

    /// The first client publishes until the ring is full; returns how often.
    fn fill_ring(&mut self) -> u64 {
        for number in 0.. {
            let bytes = self.publication(number, 1_500);
            self.receive(0, bytes);
            self.shards.shards[0].drain_ring(NOW);
            if self.shards.shards[0].is_congested() {
                return number + 1;
            }
        }
        unreachable!("the ring is bounded");
    }

    fn published(&self) -> u64 {
        self.shards.counters[0].publications.value()
    }
}

#[test]
fn a_full_ring_holds_publications_and_nothing_else() {
    let mut world = World::new(3);
    let subscribe = world.clients[1].subscribe(CHANNEL);
    world.receive(1, subscribe);
    let count = world.fill_ring();
    assert_eq!(world.published(), count);
    // More of the same client waits, in order: a publication, a subscription, a publication.
    let first = world.publication(count, 10);
    let subscribe = world.clients[0].subscribe(CHANNEL);
    let second = world.publication(count + 1, 10);
    world.receive(0, [first, subscribe].concat());
    world.receive(0, second);
    world.turn();
    assert_eq!(world.published(), count);
    assert_eq!(world.clients[0].acknowledged, 0);
    // Another client is served as always: pings, subscriptions, pings of the dialect, new sessions.
    let (ping, subscribe) = (frame(9, b"7"), world.clients[2].subscribe(CHANNEL));
    world.receive(2, [ping, subscribe].concat());
    world.flush();
    assert_eq!(world.clients[2].pongs, [b"7".to_vec()]);
    assert_eq!(world.clients[2].acknowledged, 1);
    // Its publication waits as well.
    let third = world.publication(count + 2, 10);
    world.receive(2, third);
    world.turn();
    assert_eq!(world.published(), count);
    // When the other shard has read the ring, everything goes on in order.
    while world.published() < count + 3 {
        world.shards.shards[1].drain_ring(NOW);
        world.turn();
        world.flush();
    }
    let numbers: Vec<_> = world.clients[1]
        .received
        .iter()
        .map(|it| it.number)
        .collect();
    assert_eq!(numbers.len() as u64, count + 3);
    assert_eq!(
        numbers[..=usize::try_from(count).unwrap()],
        (0..=count).collect::<Vec<_>>()
    );
    // The client subscribed before its second publication.
    assert_eq!(world.clients[0].acknowledged, 1);
    let mut own = world.clients[0].received.iter().map(|it| it.number);
    assert!(own.any(|number| number == count + 1));
}

#[test]
fn who_publishes_all_the_time_delays_a_bystander_by_no_more_than_a_share() {
    let mut world = World::new(2);
    let flood: Vec<u8> = (0..2_000)
        .flat_map(|number| world.publication(number, 10))
        .collect();
    for piece in flood.chunks(4_096) {
        world.receive(0, piece.to_vec());
    }
    let at_once = world.published();
    assert!((1..10).contains(&at_once), "{at_once}");
    let actions = world.shards.shards[0].take_actions();
    assert_eq!(
        actions,
        [ConnectionAction::PauseReceive(world.clients[0].id)]
    );
    assert_eq!(
        world.shards.shards[0].receive_mode(world.clients[0].id),
        ReceiveMode::None
    );
    world.receive(1, frame(9, b"?"));
    world.flush();
    assert_eq!(world.clients[1].pongs, [b"?".to_vec()], "at once");
    let mut turns = 0;
    while world.shards.shards[0].has_waiting_input() {
        let before = world.published();
        world.turn();
        let share = world.published() - before;
        assert!(share <= 64 * 1024 / 256, "{share} in one turn");
        world.shards.shards[1].drain_ring(NOW);
        turns += 1;
    }
    assert_eq!(world.published(), 2_000);
    assert!(turns > 4, "{turns}");
    let actions = world.shards.shards[0].take_actions();
    assert_eq!(
        actions,
        [ConnectionAction::ResumeReceive(world.clients[0].id)]
    );
}

#[test]
fn input_waits_while_the_peer_does_not_read_its_replies_and_is_handled_when_it_does() {
    let mut world = World::new(1);
    let id = world.clients[0].id;
    let ping = frame(1, br#"{"type":"ping"}"#);
    for _ in 0..100 {
        world.receive(0, ping.repeat(100));
        while world.shards.shards[0].has_waiting_input() {
            world.turn();
        }
    }
    assert_eq!(world.shards.shards[0].receive_mode(id), ReceiveMode::None);
    let waiting: usize = world.shards.shards[0]
        .begin_send(id, usize::MAX)
        .map(<[u8]>::len)
        .sum();
    world.shards.shards[0].sent(id, 0);
    assert!(waiting < 64 * 1024, "{waiting} bytes of replies");
    let mut sent = 0;
    while world.shards.shards[0].has_ready() || world.shards.shards[0].has_waiting_input() {
        while let Some(id) = world.shards.shards[0].next_ready(&mut { usize::MAX }) {
            let bytes: usize = world.shards.shards[0]
                .begin_send(id, 64)
                .map(<[u8]>::len)
                .sum();
            world.shards.shards[0].sent(id, u32::try_from(bytes).unwrap());
            sent += bytes;
        }
        world.turn();
    }
    let answer = 2 + br#"{"type":"pong"}"#.len();
    let head = sent - 10_000 * answer;
    assert!((100..400).contains(&head), "every ping was answered once");
    assert_eq!(world.shards.shards[0].receive_mode(id), ReceiveMode::Many);
}

#[test]
fn a_turn_handles_no_more_empty_fragments_than_control_frames() {
    const FRAMES: usize = 20_000;
    let turns = |frames: Vec<u8>| {
        let mut world = World::new(1);
        world.receive(0, frame(1, br#"{"type":"ping"}"#));
        world.receive(0, frames);
        let mut turns = 0;
        while world.shards.shards[0].has_waiting_input() {
            world.turn();
            turns += 1;
        }
        turns
    };
    let pongs = turns(frame(10, b"").repeat(FRAMES));
    let mut begin = frame(1, b"");
    begin[0] &= 0x7f;
    let mut fragment = frame(0, b"");
    fragment[0] &= 0x7f;
    let fragments = turns([begin, fragment.repeat(FRAMES - 1)].concat());
    assert!(pongs > 5, "{pongs}");
    assert_eq!(fragments, pongs);
}

#[test]
fn of_a_flood_of_pings_the_first_and_the_latest_are_answered() {
    let mut world = World::new(1);
    let pings: Vec<u8> = (0..100_u8).flat_map(|number| frame(9, &[number])).collect();
    world.receive(0, pings);
    while world.shards.shards[0].has_waiting_input() {
        world.turn();
    }
    world.flush();
    let pongs: Vec<_> = world.clients[0]
        .pongs
        .iter()
        .map(|payload| payload[0])
        .collect();
    assert_eq!(pongs[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(pongs.last(), Some(&99));
    assert!(pongs.is_sorted() && pongs.len() < 100, "{pongs:?}");
}

#[test]
fn the_end_of_a_stream_comes_after_the_input_before_it() {
    let mut world = World::new(1);
    let count = world.fill_ring();
    let last = world.publication(count, 10);
    world.receive(0, last);
    let id = world.clients[0].id;
    world.shards.shards[0].on_eof(id, NOW);
    world.turn();
    assert_eq!(world.published(), count);
    assert_eq!(world.shards.shards[0].connection_count(), 1);
    world.shards.shards[1].drain_ring(NOW);
    world.turn();
    world.turn();
    assert_eq!(world.published(), count + 1);
    let actions = world.shards.shards[0].take_actions();
    assert_eq!(actions, [ConnectionAction::Close(id)]);
}

#[test]
fn a_close_frame_in_input_that_waits_ends_the_connection_in_order() {
    let mut world = World::new(2);
    world.fill_ring();
    let id = world.clients[0].id;
    // A publication that waits, half of a frame, and then the server closes the session.
    let close = frame(8, &[3, 232]);
    let publication = world.publication(1_000, 10);
    world.receive(0, [publication, close[..3].to_vec()].concat());
    world.shards.shards[0].disconnect(id, NOW);
    world.receive(0, close[3..].to_vec());
    let mut actions = Vec::new();
    for _ in 0..3 {
        world.turn();
        world.flush();
        actions.extend(world.shards.shards[0].take_actions());
    }
    assert_eq!(actions, [ConnectionAction::Close(id)]);
    assert_eq!(world.clients[0].close, Some((1000, "operator".to_owned())));
}

#[test]
fn of_many_large_messages_finished_at_once_each_turn_handles_one() {
    let mut world = World::new(9);
    let large = frame(
        1,
        format!(r#"{{"type":"ping","x":"{}"}}"#, "x".repeat(900_000)).as_bytes(),
    );
    let last = large.len() - 1;
    for client in 0..8 {
        for piece in large[..last].chunks(4_096) {
            world.receive(client, piece.to_vec());
        }
    }
    let received = |world: &World| world.shards.counters[0].messages_received.value();
    assert_eq!(received(&world), 0);
    for client in 0..8 {
        world.receive(client, large[last..].to_vec());
    }
    assert_eq!(received(&world), 0, "none of them at once");
    world.receive(8, frame(9, b"?"));
    world.flush();
    assert_eq!(
        world.clients[8].pongs,
        [b"?".to_vec()],
        "who sends little is served at once"
    );
    for turn in 1..=8 {
        world.turn();
        assert_eq!(received(&world), turn);
    }
    assert!(!world.shards.shards[0].has_waiting_input());
}

#[test]
fn of_many_compressed_messages_that_become_large_each_turn_inflates_its_share() {
    let mut world = World::compressing(9);
    let numbers = (0..150_000_u32).map(|number| number.wrapping_mul(number) % 97);
    let numbers: Vec<_> = numbers.map(|number| number.to_string()).collect();
    let text = format!(r#"{{"type":"ping","x":[{}]}}"#, numbers.join(","));
    let large = frame(0x41, &deflate(text.as_bytes()));
    assert!(large.len() < 64 * 1024 && text.len() > 256 * 1024);
    let small = frame(0x41, &deflate(br#"{"type":"ping"}"#));
    let received = |world: &World| world.shards.counters[0].messages_received.value();
    for client in 0..8 {
        world.receive(client, large.clone());
    }
    assert_eq!(received(&world), 0, "none of them at once");
    world.receive(8, small.clone());
    assert_eq!(received(&world), 1, "who sends little is served at once");
    world.receive(7, small);
    let turns = world.turns_while_only(8, |world| received(world) < 10);
    let share = INPUT_COST_PER_TURN;
    assert!(turns > 8 * (text.len() / share), "{turns}");
    assert!(
        turns <= 8 * ((text.len() + 8 * large.len()) / share + 2),
        "{turns}"
    );
    assert_eq!(
        received(&world),
        10,
        "what came behind a large one is in its order"
    );
    assert!(!world.shards.shards[0].has_waiting_input());
    assert_eq!(world.shards.counters[0].inflations.value(), 10);
}

#[test]
fn of_many_decompression_bombs_each_turn_inflates_its_share() {
    let mut world = World::compressing(9);
    let bomb = frame(0x41, &deflate(&vec![b'0'; 16 << 20]));
    assert!(bomb.len() < 32 * 1024);
    let errors = |world: &World| {
        let errors = &world.shards.counters[0].protocol_errors;
        errors.of(ProtocolError::TooLarge).value()
    };
    for client in 0..8 {
        world.receive(client, bomb.clone());
    }
    assert_eq!(errors(&world), 0, "none of them at once");
    let turns = world.turns_while_only(8, |world| errors(world) < 8);
    // A message has 1 MiB at most.
    assert!(turns >= 8 * ((1 << 20) / INPUT_COST_PER_TURN), "{turns}");
    world.flush();
    for client in &world.clients[..8] {
        assert_eq!(client.close, Some((1009, "protocol".to_owned())));
    }
    assert!(!world.shards.shards[0].has_waiting_input());
}

#[test]
fn blocks_that_inflate_to_nothing_take_as_many_turns_as_they_cost() {
    let mut world = World::compressing(3);
    let mut payload = empty_dynamic_blocks(50_000);
    payload.extend(deflate(br#"{"type":"ping"}"#));
    let large = frame(0x41, &payload);
    world.receive(0, large.clone());
    world.receive(1, large);
    let received = |world: &World| world.shards.counters[0].messages_received.value();
    assert_eq!(received(&world), 0);
    let turns = world.turns_while_only(2, |world| received(world) < 1);
    let cost = payload.len() * INFLATION_COST;
    assert!(turns > cost / INPUT_COST_PER_TURN, "{turns}");
    // The second one is left in the middle, and begun again for another client.
    world.turn();
    let id = world.clients[1].id;
    world.shards.shards[0].disconnect(id, NOW);
    world.receive(2, frame(0x41, &payload));
    let more = world.turns_while_only(0, |world| received(world) < 2);
    assert!(more > cost / INPUT_COST_PER_TURN, "{more}");
    assert!(!world.shards.shards[0].has_waiting_input());
    assert_eq!(world.shards.counters[0].inflations.value(), 2);
}

/// Many small messages may cost as much as a few long ones.
#[test]
fn of_many_short_messages_that_are_slow_to_inflate_each_turn_inflates_its_share() {
    const SENDERS: usize = 100;
    let mut world = World::compressing(SENDERS + 1);
    let mut payload = empty_dynamic_blocks(340);
    payload.extend(deflate(br#"{"type":"ping"}"#));
    assert!((3_500..LARGE_MESSAGE_BYTES).contains(&payload.len()));
    let slow = frame(0x41, &payload);
    let small = frame(0x41, &deflate(br#"{"type":"ping"}"#));
    let received = |world: &World| world.shards.counters[0].messages_received.value();
    let per_turn = (INPUT_COST_PER_TURN / (payload.len() * INFLATION_COST) + 1) as u64;
    for client in 0..SENDERS {
        world.receive(client, slow.clone());
    }
    let at_once = received(&world);
    assert!((1..=per_turn).contains(&at_once), "{at_once}");
    world.receive(SENDERS, small.clone());
    assert_eq!(
        received(&world),
        at_once + 1,
        "who sends little is served at once"
    );
    // Behind its slow message, in order.
    world.receive(SENDERS - 1, small);
    let all = SENDERS as u64 + 2;
    let turns = world.turns_while_only(SENDERS, |world| received(world) < all);
    assert!(turns as u64 >= (all - at_once) / (per_turn + 1), "{turns}");
    assert!(!world.shards.shards[0].has_waiting_input());
}

#[test]
fn a_message_that_is_a_little_large_does_not_wait_for_those_that_take_many_turns() {
    const SENDERS: usize = 5;
    let mut world = World::compressing(SENDERS + 1);
    let mut payload = empty_dynamic_blocks(30_000);
    payload.extend(deflate(br#"{"type":"ping"}"#));
    for client in 0..SENDERS {
        world.receive(client, frame(0x41, &payload));
    }
    let text = format!(r#"{{"type":"ping","x":"{}"}}"#, "x".repeat(5_000));
    let received = |world: &World| world.shards.counters[0].messages_received.value();
    for round in 0..3 {
        world.receive(SENDERS, frame(0x41, &deflate(text.as_bytes())));
        assert_eq!(received(&world), round, "it waits for its share");
        for _ in 0..=SENDERS {
            world.turn();
        }
        let others = "the long ones take hundreds of turns";
        assert_eq!(received(&world), round + 1, "{others}");
    }
    // Those were begun in their order, and each only once more.
    let turns = world.turns_while_only(SENDERS, |world| received(world) < SENDERS as u64 + 3);
    let of_each = payload.len() * INFLATION_COST / INPUT_COST_PER_TURN + 1;
    assert!(turns <= SENDERS * of_each, "{turns}");
    assert!(!world.shards.shards[0].has_waiting_input());
}

#[test]
fn of_those_in_line_who_has_ended_its_stream_is_served_and_who_is_gone_takes_no_turn() {
    for is_released in [false, true] {
        let mut world = World::compressing(4);
        let mut payload = empty_dynamic_blocks(30_000);
        payload.extend(deflate(br#"{"type":"ping"}"#));
        for client in 0..3 {
            world.receive(client, frame(0x41, &payload));
        }
        // The message of the first one is inflated in part.
        for _ in 0..10 {
            world.turn();
        }
        let [gone, ended] = [0, 1].map(|client| world.clients[client].id);
        let shard = &mut world.shards.shards[0];
        shard.abort(gone, NOW);
        shard.on_eof(ended, NOW);
        assert_eq!(shard.take_actions(), [ConnectionAction::Close(gone)]);
        if is_released {
            shard.release(gone);
        }
        let turns = world.turns_while_only(3, |world| world.shards.shards[0].has_waiting_input());
        let of_each = payload.len() * INFLATION_COST / INPUT_COST_PER_TURN + 1;
        assert!(turns <= 2 * of_each, "{turns}");
        assert_eq!(world.shards.counters[0].inflations.value(), 2);
        let actions = world.shards.shards[0].take_actions();
        assert_eq!(actions, [ConnectionAction::Close(ended)]);
    }
}

/// RFC 1951 3.2.7: blocks with Huffman tables of their own and no symbol but their end; ends between two bytes.
fn empty_dynamic_blocks(count: usize) -> Vec<u8> {
    let mut bits = Vec::new();
    let mut push = |value: usize, width: usize| {
        bits.extend((0..width).map(|bit| u8::from(value >> bit & 1 == 1)));
    };
    for _ in 0..count.next_multiple_of(8) {
        // Not final, dynamic; 257 literal codes, one distance code, 18 code length codes.
        push(0b100, 3);
        push(0, 10);
        push(14, 4);
        // In the order of the RFC: 18 has one bit, 0 and 1 have two.
        for length in [0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2] {
            push(length, 3);
        }
        // 138 and 118 lengths of zero, one of 1, one of zero; codes begin with their highest bit.
        push(0, 1);
        push(127, 7);
        push(0, 1);
        push(107, 7);
        push(0b11, 2);
        push(0b01, 2);
        // The end of the block.
        push(0, 1);
    }
    let bytes = bits.chunks(8);
    bytes
        .map(|byte| byte.iter().rev().fold(0, |sum, bit| sum << 1 | bit))
        .collect()
}
