//! The thread that makes requests. Open loop: each at its due time, whatever became of those before. Closed loop: each
//! as soon as a slot is free. Latency counts from the moment a request was due, so a server that stalls can't hide it
//! by keeping later requests from being sent (coordinated omission).

use crate::alarm::Alarm;
use crate::clock::Nanos;
use crate::job::Submission;
use crate::lag::Lag;
use crate::limits;
use crate::outcomes::Columns;
use crate::tls::Tls;
use crate::turns::Turns;
use mio::{Poll, Token, Waker};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const WAKER: Token = Token(0);
const ALARM: Token = Token(1);
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
    over: bool,
    failure: Option<String>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running generator.
pub struct Generator {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Generator {
    /// Start the thread.
    pub fn start(target: Target) -> io::Result<Self> {
        limits::raise_open_files();
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        let shared = Arc::new(Shared::default());
        let mut turns = Turns::new(target, Arc::clone(&shared), poll, alarm);
        let thread = std::thread::Builder::new().name("penstock-load".into()).spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| turns.run()))
                .unwrap_or_else(|_| Err(io::Error::other("the load generator's thread panicked")));
            let mut out = locked(&turns.shared.out);
            out.over = true;
            out.failure = ended.err().map(|error| error.to_string());
            turns.shared.changed.notify_all();
        })?;
        Ok(Self { shared, waker, thread: Some(thread) })
    }

    /// Add requests. Those with due times may come in any order, each before it is due.
    pub fn submit(&self, submissions: Vec<Submission>) -> io::Result<()> {
        self.shared.counters.waiting.fetch_add(submissions.len() as u64, Relaxed);
        locked(&self.shared.inbox).submissions.extend(submissions);
        self.waker.wake()
    }

    /// No more will come: the thread ends with the last answer.
    pub fn close(&self) -> io::Result<()> {
        locked(&self.shared.inbox).closed = true;
        self.waker.wake()
    }

    /// What isn't sent yet is dropped; what is under way may end.
    pub fn drain(&self) -> io::Result<()> {
        self.shared.drained.store(true, Relaxed);
        self.waker.wake()
    }

    /// End at once; what is under way is noted as cut, what isn't sent is dropped.
    pub fn cut(&self) -> io::Result<()> {
        self.shared.cut.store(true, Relaxed);
        self.waker.wake()
    }

    /// Wait until the thread is over or, where that is of interest, until something has ended that wasn't taken yet.
    /// Whether the thread is over. Being woken for every ending costs the thread more than the endings themselves.
    pub fn wait(&self, timeout: Duration, for_endings: bool) -> Result<bool, String> {
        self.shared.eager.store(for_endings, Relaxed);
        let ready = |out: &mut Out| (!for_endings || out.columns.outcomes.is_empty()) && !out.over;
        let waited = self.shared.changed.wait_timeout_while(locked(&self.shared.out), timeout, ready);
        let out = waited.unwrap_or_else(PoisonError::into_inner).0;
        match &out.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(out.over),
        }
    }

    /// What has ended since the last call.
    pub fn take(&self) -> Columns {
        std::mem::take(&mut locked(&self.shared.out).columns)
    }

    /// How the client fared; complete once the thread is over.
    pub fn health(&self) -> Health {
        locked(&self.shared.out).health.clone()
    }

    /// Live counts.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Where waking fails the thread still sees the flag at its next heartbeat.
            let _ = self.cut();
            let _ = thread.join();
        }
    }
}
