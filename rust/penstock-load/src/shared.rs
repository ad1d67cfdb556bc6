//! What the generator's thread and its handle have in common.

use crate::clock::Nanos;
use crate::job::Submission;
use crate::lag::Lag;
use crate::outcomes::Columns;
use crate::tls::Tls;
use mio::Token;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub(crate) const WAKER: Token = Token(0);
pub(crate) const ALARM: Token = Token(1);
pub(crate) const FIRST: usize = 2;

/// What all requests have in common.
#[derive(Clone)]
pub struct Target {
    /// Where to.
    pub address: SocketAddr,
    /// How to secure it.
    pub tls: Option<Tls>,
    /// Requests on their way at once, at most.
    pub slots: usize,
    /// From the sending to the answer's end.
    pub timeout: Nanos,
    /// Use connections again.
    pub keep_alive: bool,
    /// Keep what the answers say, up to so many bytes in all.
    pub keep_text: usize,
}

/// Counts that can be read while it runs.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Counters {
    pub sent: AtomicU64,
    pub finished: AtomicU64,
    pub failed: AtomicU64,
    pub pieces: AtomicU64,
    pub in_flight: AtomicU64,
    pub waiting: AtomicU64,
    pub retried: AtomicU64,
}

/// How the client itself fared.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// From due to sending began, where a slot was free.
    pub schedule: Lag,
    /// From a due wake-up to being awake, and from a wake-up to the last of its events.
    pub turn: Lag,
    /// Of the thread.
    pub cpu: Nanos,
    /// Ready to run, and another ran; `None` where the system doesn't tell.
    pub cpu_wait: Option<Nanos>,
    /// Of the clock.
    pub wall: Nanos,
}

#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) inbox: Mutex<Inbox>,
    pub(crate) out: Mutex<Out>,
    pub(crate) changed: Condvar,
    pub(crate) counters: Counters,
    pub(crate) drained: AtomicBool,
    pub(crate) cut: AtomicBool,
    pub(crate) eager: AtomicBool, // someone waits for each single ending
}

#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) submissions: Vec<Submission>,
    pub(crate) closed: bool,
}

#[derive(Default)]
pub(crate) struct Out {
    pub(crate) columns: Columns,
    pub(crate) health: Health,
    pub(crate) over: bool,
    pub(crate) failure: Option<String>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
