//! The thread that makes requests. Open loop: each at its due time, whatever became of those before. Closed loop: each
//! as soon as a slot is free. Latency counts from the moment a request was due, so a server that stalls can't hide it
//! by keeping later requests from being sent (coordinated omission).

use crate::alarm::Alarm;
use crate::job::Submission;
use crate::limits;
use crate::outcomes::Columns;
use crate::shared::{ALARM, Counters, Health, Out, Shared, Target, WAKER, locked};
use crate::turns::Turns;
use mio::{Poll, Waker};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A running generator.
pub struct Generator {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Generator {
    /// Start the thread.
    pub fn start(target: Target) -> io::Result<Self> {
        let open_files = limits::raise_open_files();
        let poll = Poll::new()?;
        limits::make_room(&poll, open_files);
        let waker = Waker::new(poll.registry(), WAKER)?;
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        let shared = Arc::new(Shared::default());
        let mut turns = Turns::new(target, limits::highest_file(open_files), Arc::clone(&shared), poll, alarm);
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
