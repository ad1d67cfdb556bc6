//! Waking an event loop at a given nanosecond. `epoll_wait` counts in milliseconds, which is as long as a fast
//! server's first token takes; on Linux a `timerfd` among the events is precise.

use crate::clock::{self, Nanos};
use mio::{Registry, Token};
use std::io;
use std::time::Duration;

/// One wake-up time at most.
pub struct Alarm {
    #[cfg(target_os = "linux")]
    timer: std::os::fd::OwnedFd,
    set: Option<Nanos>,
}

impl Alarm {
    /// An alarm whose events carry `token` where it needs events.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        {
            use mio::unix::SourceFd;
            use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
            // SAFETY: plain system call; a result that isn't negative is a descriptor nobody else owns.
            let raw = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
            if raw < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: as above.
            let timer = unsafe { OwnedFd::from_raw_fd(raw) };
            registry.register(&mut SourceFd(&timer.as_raw_fd()), token, mio::Interest::READABLE)?;
            Ok(Self { timer, set: None })
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (registry, token);
            Ok(Self { set: None })
        }
    }

    /// Wake at `when`, or not at all. Setting what is set already costs nothing.
    pub fn set(&mut self, when: Option<Nanos>) -> io::Result<()> {
        if self.set == when {
            return Ok(());
        }
        self.set = when;
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            let at = when.map_or(0, |when| when.max(1)); // zero would disarm
            let value = libc::timespec {
                tv_sec: (at / clock::SECOND) as libc::time_t,
                tv_nsec: (at % clock::SECOND) as libc::c_long,
            };
            let spec = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
            let (timer, absolute) = (self.timer.as_raw_fd(), libc::TFD_TIMER_ABSTIME);
            // SAFETY: the descriptor is ours and open, `spec` is valid for reading, no old value is asked for.
            if unsafe { libc::timerfd_settime(timer, absolute, &spec, std::ptr::null_mut()) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// When it rings; forgets it if that has passed.
    pub fn rang(&mut self, now: Nanos) -> Option<Nanos> {
        self.set.filter(|&when| when <= now).inspect(|_| self.set = None)
    }

    /// What to pass to `poll`: nothing where the alarm is an event, the time left elsewhere, rounded down so that a
    /// wake-up is early and the caller looks again, never late.
    pub fn timeout(&self) -> Option<Duration> {
        if cfg!(target_os = "linux") {
            return None;
        }
        let left = self.set?.saturating_sub(clock::now());
        Some(Duration::from_millis(left / clock::MILLISECOND))
    }
}
