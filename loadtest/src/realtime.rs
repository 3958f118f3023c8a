//! Threads that come before all others of this program, to measure what a server does beside a load.

#![expect(unsafe_code, reason = "no safe interface has sched_setscheduler")]

/// Above the load's threads, which have none.
const PRIORITY: libc::c_int = 10;

/// Puts the calling thread before all others of its core; false where that is not permitted.
pub(crate) fn become_realtime() -> bool {
    let priority = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: the address is that of `priority`, alive over the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
    result == 0
}
