//! Being woken in time on a processor that others use too.

/// Ask the scheduler for short turns: this thread works in bursts of microseconds, and one with a long turn ahead of it,
/// such as the interpreter that feeds it, then gives way at once instead of after milliseconds. Takes no more of the
/// processor than before, needs no privilege, and has an effect from Linux 6.12 on (EEVDF's slices).
pub fn prefer_short_turns() {
    #[cfg(target_os = "linux")]
    {
        #[repr(C)]
        #[derive(Default)]
        struct Attributes {
            size: u32,
            policy: u32,
            flags: u64,
            nice: i32,
            priority: u32,
            runtime: u64, // of an ordinary thread: its slice, ns
            deadline: u64,
            period: u64,
        }
        const SHORTEST: u64 = 100_000;
        let size = std::mem::size_of::<Attributes>() as u32;
        let mut attributes = Attributes::default();
        // SAFETY: the kernel writes at most `size` bytes, which are there.
        if unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) } != 0 {
            return;
        }
        if attributes.policy == libc::SCHED_OTHER as u32 {
            attributes.runtime = SHORTEST;
            // SAFETY: the kernel reads `size` bytes. Where it refuses, the thread runs as it did.
            unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
        }
    }
}
