//! Which cores the shards run on.

use crate::config::ShardCount;
use std::num::NonZero;
use std::thread::available_parallelism;

/// Assigns a core to each shard, from those that this process may use.
///
/// If there are more shards than cores, shards share cores; that is for tests, not for performance.
#[must_use]
pub(super) fn assign(shards: ShardCount) -> Vec<usize> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let mut cores: Vec<_> = allowed.iter().map(|core| core.id).collect();
    if cores.is_empty() {
        cores.push(0);
    }
    let count = match shards {
        // The quota of a cgroup, of version 1 or 2, counts whole CPUs, and at least one.
        ShardCount::Auto => {
            let quota = available_parallelism().map_or(usize::MAX, NonZero::get);
            cores.len().min(quota)
        }
        ShardCount::Fixed(count) => usize::from(count),
    };
    cores.into_iter().cycle().take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_gets_an_allowed_core() {
        let auto = assign(ShardCount::Auto);
        let many = assign(ShardCount::Fixed(17));
        assert_eq!(many.len(), 17);
        assert!(many.iter().all(|core| auto.contains(core)));
    }
}
