//! The stub's event loop: one thread, one timer for all pieces of all answers.

use super::behaviour::{Behaviour, Fault};
use super::client::{Answer, Client};
use super::request::{self, Request, Route};
use super::truth::{Seen, Truth};
use super::wire;
use crate::alarm::Alarm;
use crate::clock::{self, MILLISECOND, Nanos, SECOND};
use crate::limits;
use crate::sched;
use crate::slots::Slots;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

const WAKER: Token = Token(0);
const ALARM: Token = Token(1);
const LISTENER: Token = Token(2);
const FIRST: usize = 3;
const BACKLOG: libc::c_int = 4096;
const WRITING: Nanos = MILLISECOND / 20; // at a stretch: what comes meanwhile is received when it is read
const NEAR: Nanos = MILLISECOND / 50; // sooner than a timer is set and rings, in a virtual machine above all
const ACCEPT_AGAIN: Nanos = 10 * MILLISECOND; // after the process ran out of files

/// A running stub.
pub struct Stub {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Stub {
    /// Listen on `address` (port 0: any free one) and serve in a thread.
    pub fn start(address: SocketAddr, behaviour: Behaviour) -> io::Result<Self> {
        let open_files = limits::raise_open_files();
        let mut listener = TcpListener::bind(address)?;
        // mio lets 128 wait to be accepted: of thousands that connect at once most would be tried again a second later.
        // SAFETY: plain system call on a socket that is ours; where it fails, 128 may wait.
        unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) };
        let address = listener.local_addr()?;
        let poll = Poll::new()?;
        limits::make_room(&poll, open_files);
        let waker = Waker::new(poll.registry(), WAKER)?;
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut server = Server {
            behaviour,
            poll,
            alarm,
            listener,
            clients: Slots::default(),
            timers: BinaryHeap::new(),
            waiting: VecDeque::new(),
            truth: Truth::default(),
            began: None,
            stalls_over: 0,
            accept_at: None,
            received: 0,
            buffer: vec![0; 64 * 1024],
        };
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("penstock-stub".into()).spawn(move || server.run(&stopping))?;
        Ok(Self { address, stop, waker, thread: Some(thread) })
    }
}

impl Stub {
    /// End it; connections break. What it died of, if it did before.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.stop.store(true, Relaxed);
        self.waker.wake()?;
        thread.thread().unpark(); // out of a stall
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the stub's thread panicked")))
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        let _ = self.end(); // whoever wants to know calls `stop`
    }
}

struct Server {
    behaviour: Behaviour,
    poll: Poll,
    alarm: Alarm,
    listener: TcpListener,
    clients: Slots<Client>,
    timers: BinaryHeap<Reverse<(Nanos, usize, u64)>>,
    waiting: VecDeque<(usize, u64)>,
    truth: Truth,
    began: Option<Nanos>,
    stalls_over: usize,
    accept_at: Option<Nanos>,
    received: u64,
    buffer: Vec<u8>,
}

impl Server {
    fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        sched::prefer_short_turns();
        let mut events = Events::with_capacity(1024);
        while !stop.load(Relaxed) {
            let first = self.timers.peek().map(|Reverse(first)| first.0);
            let timeout = if first.is_some_and(|first| first <= clock::now() + NEAR) {
                Some(Duration::ZERO)
            } else {
                self.alarm.set(first.into_iter().chain(self.accept_at).min())?;
                self.alarm.timeout()
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            self.alarm.rang(clock::now());
            self.stall(stop);
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_at = Some(0),
                    Token(n) if n >= FIRST => self.on_client(n - FIRST),
                    _ => {}
                }
            }
            if self.accept_at.is_some_and(|at| at <= clock::now()) {
                self.accept()?;
            }
            self.ring();
        }
        Ok(())
    }

    /// Stand still, if it is time for that.
    fn stall(&mut self, stop: &AtomicBool) {
        let Some(began) = self.began else { return };
        while let Some(&(at, length)) = self.behaviour.stalls.get(self.stalls_over) {
            let from = began + (at * SECOND as f64) as Nanos;
            let until = from + (length * SECOND as f64) as Nanos;
            let now = clock::now();
            if now < from {
                return;
            }
            self.stalls_over += 1;
            while !stop.load(Relaxed) && clock::now() < until {
                std::thread::park_timeout(Duration::from_nanos(until.saturating_sub(clock::now())));
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        self.accept_at = None;
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    let _ = socket.set_nodelay(true); // fails on a client that is gone, which reading tells
                    let index = self.clients.insert(Client::new(socket));
                    if let Some(client) = self.clients.get_mut(index) {
                        let interest = Interest::READABLE | Interest::WRITABLE;
                        self.poll.registry().register(&mut client.socket, Token(index + FIRST), interest)?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error)
                    if error.kind() == ErrorKind::Interrupted || error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if limits::is_out_of_files(&error) => {
                    self.accept_at = Some(clock::now() + ACCEPT_AGAIN);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn on_client(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        loop {
            match client.socket.read(&mut self.buffer) {
                Ok(0) => return self.hung_up(index),
                Ok(n) => client.inbox.extend_from_slice(&self.buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.hung_up(index),
            }
        }
        self.send(index, &[]);
        if self.clients.get_mut(index).is_some_and(|client| client.close && client.is_quiet()) {
            return self.hung_up(index);
        }
        self.next_request(index);
    }

    /// Begin with what the client sent, unless an answer is under way.
    fn next_request(&mut self, index: usize) {
        while let Some(client) = self.clients.get_mut(index) {
            if client.answer.is_some() || client.inbox.is_empty() || client.close {
                return;
            }
            match request::take(&client.inbox) {
                Ok(None) => return,
                Ok(Some((request, length))) => {
                    client.inbox.drain(..length);
                    self.answer(index, request);
                }
                Err(malformed) => {
                    self.reply(index, &wire::error(400, malformed.0), true);
                }
            }
        }
    }

    fn answer(&mut self, index: usize, request: Request) {
        let now = clock::now();
        match request.route {
            Route::Page(page) => {
                let answer = self.page(&page);
                self.reply(index, &answer, request.close);
            }
            Route::Unknown => {
                self.reply(index, &wire::error(404, "no such page, or a body that can't be read"), request.close);
            }
            Route::Generate(to) => {
                self.began.get_or_insert(now);
                let fate = self.behaviour.fate(self.received, to.max_tokens);
                self.received += 1;
                let serial = self.received;
                let Some(client) = self.clients.get_mut(index) else { return };
                client.serial = serial;
                client.close = request.close;
                let seen =
                    Seen { id: request.id, received: now, started: 0, first: 0, last: 0, tokens: 0, whole: false };
                client.answer = Some(Answer { to, fate, started: None, next: 0, seen });
                if self.behaviour.slots.is_none_or(|slots| self.truth.running < slots) {
                    self.begin(index, serial, now);
                } else {
                    self.truth.waiting += 1;
                    self.waiting.push_back((index, serial));
                }
            }
        }
    }

    fn reply(&mut self, index: usize, answer: &[u8], close: bool) {
        self.send(index, answer);
        let Some(client) = self.clients.get_mut(index) else { return };
        client.close = close;
        if close && client.is_quiet() {
            self.hung_up(index);
        }
    }

    fn page(&self, page: &str) -> Vec<u8> {
        match page {
            "/health" => wire::page(200, "text/plain", "ok"),
            "/metrics" => wire::page(200, "text/plain; version=0.0.4", &self.truth.metrics()),
            "/truth" => wire::page(200, "application/x-ndjson", &self.truth.lines()),
            "/v1/models" => {
                let body = r#"{"object":"list","data":[{"id":"stub","object":"model","created":0,"owned_by":"stub"}]}"#;
                wire::page(200, "application/json", body)
            }
            _ => wire::error(404, "no such page"),
        }
    }

    /// Service begins.
    fn begin(&mut self, index: usize, serial: u64, now: Nanos) {
        self.truth.running += 1;
        let Some(answer) = self.clients.get_mut(index).and_then(|client| client.answer.as_mut()) else { return };
        answer.started = Some(now);
        answer.seen.started = now;
        let first = match answer.fate.fault {
            Some(Fault::Hang) => return,
            Some(Fault::Status(_)) => now, // not from here: thousands that wait would be refused one within another
            _ => now + answer.fate.pieces[0],
        };
        self.timers.push(Reverse((first, index, serial)));
    }

    /// Write what is due, for a while.
    fn ring(&mut self) {
        let mut now = clock::now();
        let until = now + WRITING;
        while let Some(&Reverse((due, index, serial))) = self.timers.peek().filter(|_| now < until) {
            if due > now {
                return;
            }
            self.timers.pop();
            if self.clients.get_mut(index).is_some_and(|client| client.serial == serial && client.answer.is_some()) {
                self.piece(index, serial);
            }
            now = clock::now();
        }
    }

    fn piece(&mut self, index: usize, serial: u64) {
        let (per_piece, usage) = (self.behaviour.tokens_per_piece.max(1), self.behaviour.usage);
        let Some(answer) = self.clients.get_mut(index).and_then(|client| client.answer.as_mut()) else { return };
        if let Some(Fault::Status(status)) = answer.fate.fault {
            self.send(index, &wire::error(status, "as told"));
            return self.over(index, false);
        }
        let (i, count, to) = (answer.next, answer.fate.pieces.len(), &answer.to);
        let tokens = per_piece.min(answer.fate.tokens - i as u32 * per_piece);
        let last = i + 1 == count;
        let finish = if answer.fate.tokens == to.max_tokens { "length" } else { "stop" };
        let mut out = Vec::new();
        let half_way = answer.fate.fault.filter(|_| i == count / 2);
        if to.stream {
            if i == 0 {
                out.extend_from_slice(wire::head(200, "text/event-stream", None).as_bytes());
            }
            match half_way {
                Some(Fault::Malformed) => out.extend_from_slice(wire::event("{\"choices\":[{\"tex").as_bytes()),
                Some(Fault::InStream) => {
                    out.extend_from_slice(wire::event(r#"{"error":{"message":"as told"}}"#).as_bytes())
                }
                _ => {}
            }
            out.extend_from_slice(wire::piece(to, tokens, None).as_bytes());
            if last && half_way != Some(Fault::Cut) {
                out.extend_from_slice(wire::piece(to, 0, Some(finish)).as_bytes());
                if to.usage && usage {
                    out.extend_from_slice(wire::usage(to, answer.fate.tokens).as_bytes());
                }
                out.extend_from_slice(wire::done().as_bytes());
            }
        } else if last {
            out = match answer.fate.fault {
                Some(Fault::Malformed) => wire::page(200, "application/json", "{\"choices\":[{\"tex"),
                Some(Fault::InStream) => wire::page(200, "application/json", r#"{"error":{"message":"as told"}}"#),
                _ => wire::whole(to, answer.fate.tokens, finish, usage),
            };
        }
        let next = answer.fate.pieces.get(i + 1).map(|at| answer.started.unwrap_or(0) + at);
        answer.next += 1;
        let now = clock::now(); // before the client can have it
        self.send(index, &out);
        let Some(answer) = self.clients.get_mut(index).and_then(|client| client.answer.as_mut()) else { return };
        if answer.seen.first == 0 {
            answer.seen.first = now;
        }
        answer.seen.last = now;
        answer.seen.tokens += tokens;
        match (half_way, next) {
            (Some(Fault::Cut), _) => self.hung_up(index),
            (_, Some(next)) => self.timers.push(Reverse((next, index, serial))),
            (_, None) => self.over(index, true),
        }
    }

    /// An answer is out: the slot is free, the client may ask again.
    fn over(&mut self, index: usize, whole: bool) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let Some(answer) = client.answer.take() else { return };
        let close = client.close;
        self.truth.running -= 1;
        self.truth.add(Seen { whole, ..answer.seen });
        self.next_waiting();
        if close && self.clients.get_mut(index).is_some_and(|client| client.is_quiet()) {
            return self.hung_up(index);
        }
        self.next_request(index);
    }

    fn next_waiting(&mut self) {
        while self.behaviour.slots.is_none_or(|slots| self.truth.running < slots) {
            let Some((index, serial)) = self.waiting.pop_front() else { return };
            self.truth.waiting -= 1;
            if self.clients.get_mut(index).is_some_and(|client| client.serial == serial && client.answer.is_some()) {
                self.begin(index, serial, clock::now());
            }
        }
    }

    fn send(&mut self, index: usize, data: &[u8]) {
        if let Some(client) = self.clients.get_mut(index) {
            client.send(data);
        }
    }

    fn hung_up(&mut self, index: usize) {
        let Some(mut client) = self.clients.remove(index) else { return };
        // Closing takes it off the poll anyway.
        let _ = self.poll.registry().deregister(&mut client.socket);
        if let Some(answer) = client.answer
            && answer.started.is_some()
        {
            self.truth.running -= 1;
            self.truth.add(answer.seen);
            self.next_waiting();
        }
    }
}
