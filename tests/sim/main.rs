//! Who must receive what, in which order? Thousands of virtual connections over several shards and
//! the real ring, driven from one seed and compared with the simplest oracle that can be right.
//!
//! A failure prints the seed; `FANWIRE_SIM_SEED=… cargo test --test sim` replays it.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may panic like the test itself"
)]

mod client;
mod oracle;
mod pace;
mod random;
mod shards;
mod streams;
mod timeouts;
mod world;

use world::{Plan, World};

/// Runs `plan` from the seed in the environment, or from `seeds`.
fn run(plan: Plan, seeds: std::ops::Range<u64>) {
    let seeds = match seed_from_environment() {
        Some(seed) => seed..seed + 1,
        None => seeds,
    };
    for seed in seeds {
        println!("replay: FANWIRE_SIM_SEED={seed} cargo test --test sim");
        let mut world = World::new(plan, seed);
        world.run();
        world.finish();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test binary reads its own seed"
)]
fn seed_from_environment() -> Option<u64> {
    std::env::var("FANWIRE_SIM_SEED").ok()?.parse().ok()
}

const PLAN: Plan = Plan {
    shards: 3,
    connections: 40,
    channels: 6,
    steps: 4_000,
    ring_bytes: 1 << 20,
    send_queue_bytes_max: 1 << 20,
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
        steps: 20_000,
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

#[test]
fn slow_consumers_are_closed_and_others_lose_nothing() {
    let plan = Plan {
        send_queue_bytes_max: 4_096,
        churn: false,
        pause_ms: 20,
        ..PLAN
    };
    run(plan, 300..310);
}
