//! Time as Python's `time.monotonic_ns()` tells it, so that both sides speak of the same instants.

#[cfg(target_os = "macos")]
const MONOTONIC: libc::clockid_t = libc::CLOCK_UPTIME_RAW; // what CPython's monotonic clock counts there
#[cfg(not(target_os = "macos"))]
const MONOTONIC: libc::clockid_t = libc::CLOCK_MONOTONIC;

/// Nanoseconds.
pub type Nanos = u64;

/// One millisecond.
pub const MILLISECOND: Nanos = 1_000_000;
/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// The monotonic clock.
pub fn now() -> Nanos {
    read(MONOTONIC)
}

/// CPU time of the calling thread, user and system.
pub fn thread_cpu() -> Nanos {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// How long the calling thread was ready to run while another ran; `None` where the system doesn't tell.
pub fn thread_wait() -> Option<Nanos> {
    // Linux: time on the processor, time waiting for it, slices (Documentation/scheduler/sched-stats).
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    told.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn read(clock: libc::clockid_t) -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing; both clocks exist on every system this is built for.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as Nanos * SECOND + time.tv_nsec as Nanos
}
