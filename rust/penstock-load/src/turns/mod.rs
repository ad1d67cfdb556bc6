//! The generator's thread, turn by turn: take what was submitted, start what is due, wait, read what came.

mod wires;

use crate::alarm::Alarm;
use crate::clock::{self, MILLISECOND, Nanos};
use crate::connection::Connection;
use crate::job::{Job, Submission};
use crate::outcomes::{Columns, Ending};
use crate::sched;
use crate::shared::{FIRST, Health, Shared, Target, locked};
use crate::slots::Slots;
use crate::timed::Timed;
use mio::{Events, Poll};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const HEARTBEAT: Nanos = 10 * MILLISECOND; // its lateness tells whether this thread gets the processor

/// The thread's clocks at its start.
struct Began {
    wall: Nanos,
    cpu: Nanos,
    cpu_wait: Option<Nanos>,
}

/// The thread's own state.
pub(crate) struct Turns {
    target: Target,
    highest_file: RawFd,
    pub(crate) shared: Arc<Shared>,
    poll: Poll,
    alarm: Alarm,
    connections: Slots<Connection>,
    idle: Vec<usize>, // may hold some that are gone or busy again; finding those on closing would cost a search
    timed: BinaryHeap<Reverse<Timed>>,
    untimed: VecDeque<Submission>,
    freed: VecDeque<Nanos>, // when each request ended that none has followed yet
    deadlines: VecDeque<(Nanos, usize, u64)>,
    in_flight: usize,
    slot_since: Nanos, // when the last free slot became free
    text_left: usize,
    arrived: u64,
    closed: bool,
    health: Health,
    done: Columns,
    buffer: Vec<u8>,
}

impl Turns {
    pub(crate) fn new(target: Target, highest_file: RawFd, shared: Arc<Shared>, poll: Poll, alarm: Alarm) -> Self {
        Self {
            text_left: target.keep_text,
            target,
            highest_file,
            shared,
            poll,
            alarm,
            connections: Slots::default(),
            idle: Vec::new(),
            timed: BinaryHeap::new(),
            untimed: VecDeque::new(),
            freed: VecDeque::new(),
            deadlines: VecDeque::new(),
            in_flight: 0,
            slot_since: 0,
            arrived: 0,
            closed: false,
            health: Health::default(),
            done: Columns::default(),
            buffer: vec![0; 256 * 1024],
        }
    }

    pub(crate) fn run(&mut self) -> io::Result<()> {
        sched::prefer_short_turns();
        let began = Began { wall: clock::now(), cpu: clock::thread_cpu(), cpu_wait: clock::thread_wait() };
        let mut events = Events::with_capacity(1024);
        let mut heartbeat = began.wall + HEARTBEAT;
        loop {
            self.collect();
            if self.shared.drained.load(Relaxed) {
                self.drop_waiting();
            }
            if self.shared.cut.load(Relaxed) {
                self.cut_all();
            }
            self.start_due();
            self.hand_over(&began);
            if self.over() {
                return Ok(());
            }
            let next = self.timed.peek().map(|Reverse(first)| first.0).filter(|_| self.in_flight < self.target.slots);
            self.alarm.set(Some(next.map_or(heartbeat, |next| next.min(heartbeat))))?;
            match self.poll.poll(&mut events, self.alarm.timeout()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            let woke = clock::now();
            if let Some(rang) = self.alarm.rang(woke) {
                self.health.turn.add(woke - rang);
            }
            if heartbeat <= woke {
                heartbeat = woke + HEARTBEAT;
                self.expire(woke);
            }
            for event in &events {
                if event.token().0 >= FIRST {
                    self.on_event(event);
                }
            }
            self.health.turn.add(clock::now() - woke);
        }
    }

    fn over(&self) -> bool {
        self.closed && self.in_flight == 0 && self.timed.is_empty() && self.untimed.is_empty()
    }

    fn collect(&mut self) {
        let mut inbox = locked(&self.shared.inbox);
        self.closed = inbox.closed;
        for submission in inbox.submissions.drain(..) {
            match submission.due {
                Some(due) => {
                    self.arrived += 1;
                    self.timed.push(Reverse(Timed(due, self.arrived, submission)));
                }
                None => self.untimed.push_back(submission),
            }
        }
    }

    fn start_due(&mut self) {
        while self.in_flight < self.target.slots {
            let now = clock::now();
            let nothing_else = self.in_flight == 0 && self.timed.is_empty(); // that they could follow
            if self.timed.peek().is_some_and(|Reverse(first)| first.0 <= now) {
                let Some(Reverse(Timed(due, _, submission))) = self.timed.pop() else { return };
                self.start(submission, due, now);
            } else if let Some(due) = self.freed.front().copied().or(nothing_else.then_some(now)) {
                let Some(submission) = self.untimed.pop_front() else { return };
                self.start(submission, due, now);
            } else {
                return;
            }
        }
    }

    fn start(&mut self, submission: Submission, due: Nanos, now: Nanos) {
        // What waits for a slot isn't late by this thread's fault.
        self.health.schedule.add(now.saturating_sub(due.max(self.slot_since)));
        self.freed.pop_front();
        self.in_flight += 1;
        self.shared.counters.sent.fetch_add(1, Relaxed);
        let job = Job::new(submission, due, now, self.text_left > 0);
        self.place(job);
    }

    fn finish(&mut self, job: Job) {
        let now = clock::now();
        let finished = job.finished(now);
        let counters = &self.shared.counters;
        counters.finished.fetch_add(1, Relaxed);
        counters.pieces.fetch_add(finished.pieces.len() as u64, Relaxed);
        if finished.outcome.ending != Ending::Whole {
            counters.failed.fetch_add(1, Relaxed);
        }
        self.text_left = self.text_left.saturating_sub(finished.text.as_ref().map_or(0, String::len));
        if self.in_flight == self.target.slots {
            self.slot_since = now;
        }
        self.in_flight -= 1;
        self.freed.push_back(now);
        if self.freed.len() > self.target.slots {
            self.freed.pop_front();
        }
        self.done.push(finished);
    }

    fn expire(&mut self, now: Nanos) {
        while let Some(&(deadline, index, sent)) = self.deadlines.front() {
            let job = self.connections.get_mut(index).and_then(|connection| connection.job.as_ref());
            let open = job.is_some_and(|job| job.sent == sent);
            if open && deadline > now {
                return;
            }
            self.deadlines.pop_front();
            if open {
                let seconds = self.target.timeout as f64 / 1e9;
                self.fail(index, Ending::Timeout, format!("no whole answer within {seconds} s"));
            }
        }
    }

    fn drop_waiting(&mut self) {
        self.closed = true;
        self.timed.clear();
        self.untimed.clear();
    }

    fn cut_all(&mut self) {
        self.drop_waiting();
        for index in self.connections.indices() {
            self.fail(index, Ending::Cut, "the run was cut".into());
        }
    }

    fn hand_over(&mut self, began: &Began) {
        let counters = &self.shared.counters;
        counters.in_flight.store(self.in_flight as u64, Relaxed);
        counters.waiting.store((self.timed.len() + self.untimed.len()) as u64, Relaxed);
        let over = self.over();
        if self.done.outcomes.is_empty() && !over {
            return;
        }
        let mut out = locked(&self.shared.out);
        let done = std::mem::take(&mut self.done);
        out.columns.append(done);
        if over {
            self.health.cpu = clock::thread_cpu() - began.cpu;
            self.health.cpu_wait = clock::thread_wait().zip(began.cpu_wait).map(|(now, then)| now.saturating_sub(then));
            self.health.wall = clock::now() - began.wall;
            out.health = self.health.clone();
        }
        drop(out);
        if over || self.shared.eager.load(Relaxed) {
            self.shared.changed.notify_all();
        }
    }
}
