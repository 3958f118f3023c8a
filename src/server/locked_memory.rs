//! The limit of locked memory, and rings that fit it.
//!
//! The kernel counts the memory of rings and of registered buffers against `RLIMIT_MEMLOCK`, for all
//! processes of a user together, unless the process has CAP_IPC_LOCK. The usual limit is 8 MiB.
//! Kernels before 6.14 count less of it; for them this is cautious.

use super::kernel_probe::KernelError;
use crate::net::wire::UringConfig;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};
use std::fs;

/// Limit under which glommio creates no executor, whatever it needs.
const LIMIT_BYTES_MIN: u64 = 512 * 1024;
/// What an executor locks: it registers its buffer of 64 KiB with each of its three rings, and each
/// ring has two pages for its queues and one for its submissions.
const EXECUTOR_BYTES: u64 = 3 * (64 + 12) * 1024;
/// For the ring that checks the kernel at the start, and whose memory the kernel frees later.
const RESERVE_BYTES: u64 = 32 * 1024;
const PAGE_BYTES: u64 = 4_096;
/// The bit of CAP_IPC_LOCK in a set of capabilities (capabilities(7)).
const CAP_IPC_LOCK: u32 = 14;

/// Sizes of a wire ring, largest first: submissions, completions, provided buffers.
const SIZES: [(u32, u32, u16); 6] = [
    (1_024, 16_384, 1_024),
    (1_024, 8_192, 1_024),
    (1_024, 4_096, 1_024),
    (512, 2_048, 512),
    (256, 1_024, 256),
    (128, 512, 256),
];

/// Raises the limit of locked memory as far as allowed and returns it; `None` when nothing limits
/// this process.
///
/// # Errors
/// When glommio would refuse the limit.
fn raise_limit(shards: usize) -> Result<Option<u64>, KernelError> {
    let limit = getrlimit(Resource::Memlock);
    let raise_to = |maximum: Option<u64>| {
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        setrlimit(Resource::Memlock, raised).is_ok()
    };
    // Raising the hard limit takes CAP_SYS_RESOURCE.
    let hard_bytes = limit.maximum.unwrap_or(u64::MAX);
    let is_raised = if hard_bytes < LIMIT_BYTES_MIN {
        raise_to(Some(LIMIT_BYTES_MIN))
    } else {
        raise_to(limit.maximum)
    };
    let Some(bytes) = getrlimit(Resource::Memlock).current else {
        return Ok(None);
    };
    if bytes < LIMIT_BYTES_MIN {
        debug_assert!(!is_raised, "a limit that was raised is large enough");
        return Err(too_low(bytes, shards));
    }
    Ok((!has_ipc_lock()).then_some(bytes))
}

/// The sizes of the wire rings of so many shards.
///
/// # Errors
/// When even the smallest do not fit the limit of locked memory.
pub(super) fn rings(shards: usize) -> Result<UringConfig, KernelError> {
    let limit_bytes = raise_limit(shards)?;
    let Some(rings) = rings_within(shards, limit_bytes) else {
        return Err(too_low(limit_bytes.unwrap_or(u64::MAX), shards));
    };
    if let (Some(limit_bytes), true) = (limit_bytes, rings.completion_entries < SIZES[0].1) {
        let completions = rings.completion_entries;
        tracing::info!(
            limit_bytes,
            completions,
            "rings fit the limit of locked memory"
        );
    }
    Ok(rings)
}

fn rings_within(shards: usize, limit_bytes: Option<u64>) -> Option<UringConfig> {
    let mut sizes = SIZES.into_iter().map(config);
    sizes.find(|rings| limit_bytes.is_none_or(|limit| needed_bytes(rings, shards) <= limit))
}

fn config((submission_entries, completion_entries, buffer_count): (u32, u32, u16)) -> UringConfig {
    UringConfig {
        submission_entries,
        completion_entries,
        buffer_count,
        ..UringConfig::default()
    }
}

/// Keeps the memory of this process in small pages, until dropped.
///
/// The kernel counts the whole of a page of which a part is registered, so glommio's buffer of
/// 64 KiB in a transparent huge page would count as 2 MiB, once for each of its rings.
#[derive(Debug)]
pub(super) struct SmallPages {
    is_restored: bool,
}

impl SmallPages {
    pub(super) fn begin() -> Self {
        let is_disabled = transparent_huge_pages_are_disabled().unwrap_or(true);
        Self {
            // A failure costs locked memory, which has errors of its own.
            is_restored: !is_disabled && disable_transparent_huge_pages(true).is_ok(),
        }
    }
}

impl Drop for SmallPages {
    fn drop(&mut self) {
        if self.is_restored && disable_transparent_huge_pages(false).is_err() {
            tracing::warn!("transparent huge pages stay disabled for this process");
        }
    }
}

/// What so many shards lock.
fn needed_bytes(rings: &UringConfig, shards: usize) -> u64 {
    let pages = |bytes: u64| bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES;
    let submissions = u64::from(rings.submission_entries);
    // The queues share one area: head and tail of each, completions of 16 bytes, and an index of
    // four bytes for each submission. Submissions have 64 bytes, entries of provided buffers 16.
    let queues = 512 + 16 * u64::from(rings.completion_entries) + 4 * submissions;
    let buffers = 16 * u64::from(rings.buffer_count);
    let wire = pages(queues) + pages(64 * submissions) + pages(buffers);
    RESERVE_BYTES + shards as u64 * (EXECUTOR_BYTES + wire)
}

/// The most shards that fit a limit, with the smallest rings.
fn shards_within(limit_bytes: u64) -> usize {
    if limit_bytes < LIMIT_BYTES_MIN {
        return 0;
    }
    let smallest = config(SIZES[SIZES.len() - 1]);
    let mut counts = (1..).take_while(|shards| needed_bytes(&smallest, *shards) <= limit_bytes);
    counts.by_ref().last().unwrap_or(0)
}

fn too_low(limit_bytes: u64, shards: usize) -> KernelError {
    let smallest = config(SIZES[SIZES.len() - 1]);
    let needed = needed_bytes(&smallest, shards).max(LIMIT_BYTES_MIN);
    let comfortable = needed_bytes(&config(SIZES[0]), shards).max(LIMIT_BYTES_MIN);
    let kib = |bytes: u64| bytes.div_ceil(1024);
    let needing = match shards {
        1 => "1 shard needs".to_owned(),
        shards => format!("{shards} shards need"),
    };
    let fewer = match shards_within(limit_bytes) {
        0 => String::new(),
        1 => ", or start one shard (--shards 1)".to_owned(),
        count => format!(", or start at most {count} shards (--shards {count})"),
    };
    KernelError::new(
        format!(
            "the limit of locked memory is {} KiB, and {needing} {} KiB at least",
            limit_bytes / 1024,
            kib(needed)
        ),
        format!(
            "Raise it, best to {0} KiB or more (systemd: LimitMEMLOCK={0}K, limits.d: memlock {0}; \
             check with `ulimit -Hl`){fewer}.",
            kib(comfortable)
        ),
    )
}

/// What to do when the kernel or glommio rejects locked memory that the limit seemed to allow.
pub(super) fn rejected(error: &dyn std::fmt::Display, shards: usize) -> KernelError {
    let limit = getrlimit(Resource::Memlock).current;
    let limit = limit.map_or("no limit".to_owned(), |bytes| {
        format!("{} KiB", bytes / 1024)
    });
    let comfortable = needed_bytes(&config(SIZES[0]), shards).div_ceil(1024);
    KernelError::new(
        format!(
            "the kernel rejected the locked memory of a shard ({error}); the limit is {limit} for all \
             processes of this user together, and {shards} shards need {comfortable} KiB"
        ),
        "Raise the limit (systemd: LimitMEMLOCK=, limits.d: memlock), start fewer shards \
         (--shards), or run this server as a user of its own."
            .to_owned(),
    )
}

/// Whether the kernel counts no locked memory of this process. In a user namespace the capability
/// has no such effect.
fn has_ipc_lock() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    is_unlimited(&status, &map)
}

fn is_unlimited(status: &str, uid_map: &str) -> bool {
    let mut lines = status.lines();
    let effective = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    let is_initial_namespace = uid_map.split_whitespace().eq(["0", "0", "4294967295"]);
    is_initial_namespace && effective.is_some_and(|set| set >> CAP_IPC_LOCK & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn check(shards: usize, limit_bytes: Option<u64>, completions: Option<u32>) {
        let rings = rings_within(shards, limit_bytes);
        let found = rings.map(|rings| rings.completion_entries);
        assert_eq!(found, completions, "{shards} shards within {limit_bytes:?}");
    }

    #[test]
    fn rings_are_as_large_as_the_limit_allows() {
        check(500, None, Some(16_384));
        check(8, Some(8 * MIB), Some(16_384));
        check(16, Some(8 * MIB), Some(8_192));
        check(30, Some(8 * MIB), Some(1_024));
        check(32, Some(8 * MIB), Some(512));
        check(40, Some(8 * MIB), None);
        check(1, Some(MIB), Some(16_384));
    }

    #[test]
    fn an_error_says_how_much_is_needed_and_how_many_shards_fit() {
        let text = too_low(8 * MIB, 64).to_string();
        assert!(text.contains("is 8192 KiB, and 64 shards need"), "{text}");
        let fit = shards_within(8 * MIB);
        assert!(text.contains(&format!("at most {fit} shards")), "{text}");
        assert!(rings_within(fit, Some(8 * MIB)).is_some());
        assert!(rings_within(fit + 1, Some(8 * MIB)).is_none());
        let text = too_low(256 * 1024, 1).to_string();
        assert!(
            text.contains("needs 512 KiB") && !text.contains("at most"),
            "{text}"
        );
    }

    #[test]
    fn only_the_capability_of_the_initial_namespace_lifts_the_limit() {
        let status = |set: &str| format!("Name:\tx\nCapEff:\t{set}\n");
        let initial = "         0          0 4294967295\n";
        assert!(is_unlimited(&status("000001ffffffffff"), initial));
        assert!(!is_unlimited(&status("000001ffffffffff"), "0 1000 1\n"));
        assert!(!is_unlimited(&status("0000000000000000"), initial));
        assert!(!is_unlimited("", initial));
    }
}
