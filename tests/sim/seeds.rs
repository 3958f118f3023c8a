//! Which seeds a test runs, and how a failed run is replayed.

use std::ops::Range;

/// The seed in `FANWIRE_SIM_SEED`, or else all of `range`. Prints, before each one, the command that
/// runs it alone; a failed test shows what it printed.
pub(crate) fn seeds(range: Range<u64>) -> impl Iterator<Item = u64> {
    let seeds = match from_environment() {
        Some(seed) => seed..seed + 1,
        None => range,
    };
    seeds.inspect(|seed| {
        // The test harness names each test's thread after the test.
        let thread = std::thread::current();
        let test = thread.name().filter(|name| *name != "main");
        let test = test.unwrap_or_default();
        println!("replay: FANWIRE_SIM_SEED={seed} cargo test --test sim {test}");
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test binary reads its own seed"
)]
fn from_environment() -> Option<u64> {
    std::env::var("FANWIRE_SIM_SEED").ok()?.parse().ok()
}
