//! Who must receive what, in which order? Thousands of virtual connections over several shards and
//! the real ring, driven from one seed and compared with the simplest oracle that can be right.
//!
//! A failure prints the seed; `FANWIRE_SIM_SEED=… cargo test --test sim` replays it.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may panic like the test itself"
)]

mod checks;
mod client;
mod input;
mod leaving;
mod malformed;
mod memory;
mod offline;
mod oracle;
mod order;
mod pace;
mod persistent;
mod presence;
mod proxies;
mod random;
mod recovery;
mod recovery_burst;
mod rules;
mod seeds;
mod shards;
mod slow_consumers;
mod stalls;
mod streams;
mod timeouts;
mod unauthenticated;
mod world;

use seeds::seeds;
use world::{Plan, RING_FITS, World};

fn run(plan: Plan, range: std::ops::Range<u64>) {
    for seed in seeds(range) {
        let mut world = World::new(plan, seed);
        world.run();
        world.finish();
    }
}

const PLAN: Plan = Plan {
    shards: 3,
    connections: 40,
    channels: 6,
    steps: 4_000,
    ring_bytes: RING_FITS,
    churn: true,
    pause_ms: 5_000,
};

#[test]
fn every_subscriber_receives_just_what_was_published_while_subscribed() {
    run(PLAN, 0..20);
}

#[test]
fn thousands_of_connections_agree_on_one_order() {
    let plan = Plan {
        shards: 4,
        connections: 4_000,
        channels: 20,
        steps: 8_000,
        churn: false,
        ..PLAN
    };
    run(plan, 100..101);
}

#[test]
fn a_ring_that_is_often_full_loses_nothing() {
    let plan = Plan {
        shards: 2,
        ring_bytes: 1 << 16,
        steps: 6_000,
        churn: false,
        ..PLAN
    };
    run(plan, 200..205);
}
