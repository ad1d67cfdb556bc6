//! The stub's event loop: one thread, one timer for all pieces of all answers.

use super::behaviour::{Behaviour, Fate, Fault};
use super::request::{self, Generate, Request, Route};
use super::truth::{Seen, Truth};
use super::wire;
use crate::alarm::Alarm;
use crate::clock::{self, Nanos, SECOND};
use crate::slots::Slots;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

const WAKER: Token = Token(0);
const ALARM: Token = Token(1);
const LISTENER: Token = Token(2);
const FIRST: usize = 3;

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
        let mut listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let poll = Poll::new()?;
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
            received: 0,
            buffer: vec![0; 64 * 1024],
        };
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("penstock-stub".into()).spawn(move || server.run(&stopping))?;
        Ok(Self { address, stop, waker, thread: Some(thread) })
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take()
            && self.waker.wake().is_ok()
        {
            let _ = thread.join();
        }
    }
}

/// A connection.
struct Client {
    socket: TcpStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    answer: Option<Answer>,
    serial: u64, // of its current answer, so that a timer of an earlier one finds nothing
    close: bool, // after the answer
}

struct Answer {
    to: Generate,
    fate: Fate,
    started: Option<Nanos>,
    next: usize,
    seen: Seen,
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
    received: u64,
    buffer: Vec<u8>,
}

impl Server {
    fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        while !stop.load(Relaxed) {
            self.alarm.set(self.timers.peek().map(|Reverse(first)| first.0))?;
            match self.poll.poll(&mut events, self.alarm.timeout()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            self.alarm.rang(clock::now());
            self.stall();
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(n) if n >= FIRST => self.on_client(n - FIRST),
                    _ => {}
                }
            }
            self.ring();
        }
        Ok(())
    }

    /// Stand still, if it is time for that.
    fn stall(&mut self) {
        let Some(began) = self.began else { return };
        while let Some(&(at, length)) = self.behaviour.stalls.get(self.stalls_over) {
            let from = began + (at * SECOND as f64) as Nanos;
            let until = from + (length * SECOND as f64) as Nanos;
            let now = clock::now();
            if now < from {
                return;
            }
            self.stalls_over += 1;
            std::thread::sleep(Duration::from_nanos(until.saturating_sub(now)));
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    let _ = socket.set_nodelay(true); // fails on a client that is gone, which reading tells
                    let client =
                        Client { socket, inbox: Vec::new(), outbox: Vec::new(), answer: None, serial: 0, close: false };
                    let index = self.clients.insert(client);
                    if let Some(client) = self.clients.get_mut(index) {
                        let interest = Interest::READABLE | Interest::WRITABLE;
                        self.poll.registry().register(&mut client.socket, Token(index + FIRST), interest)?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error)
                    if error.kind() == ErrorKind::Interrupted || error.kind() == ErrorKind::ConnectionAborted => {}
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
        self.next_request(index);
    }

    /// Begin with what the client sent, unless an answer is under way.
    fn next_request(&mut self, index: usize) {
        while let Some(client) = self.clients.get_mut(index) {
            if client.answer.is_some() || client.inbox.is_empty() {
                return;
            }
            match request::take(&client.inbox) {
                Ok(None) => return,
                Ok(Some((request, length))) => {
                    client.inbox.drain(..length);
                    self.answer(index, request);
                }
                Err(malformed) => {
                    self.send(index, &wire::error(400, malformed.0));
                    return self.hung_up(index);
                }
            }
        }
    }

    fn answer(&mut self, index: usize, request: Request) {
        let now = clock::now();
        match request.route {
            Route::Page(page) => {
                let answer = self.page(&page);
                self.send(index, &answer);
                if request.close {
                    self.hung_up(index);
                }
            }
            Route::Unknown => self.send(index, &wire::error(404, "no such page, or a body that can't be read")),
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
        match answer.fate.fault {
            Some(Fault::Status(status)) => {
                self.send(index, &wire::error(status, "as told"));
                self.over(index, false);
            }
            Some(Fault::Hang) => {}
            _ => self.timers.push(Reverse((now + answer.fate.pieces[0], index, serial))),
        }
    }

    /// Write all that is due.
    fn ring(&mut self) {
        while let Some(&Reverse((due, index, serial))) = self.timers.peek() {
            if due > clock::now() {
                return;
            }
            self.timers.pop();
            if self.clients.get_mut(index).is_some_and(|client| client.serial == serial && client.answer.is_some()) {
                self.piece(index, serial);
            }
        }
    }

    fn piece(&mut self, index: usize, serial: u64) {
        let (per_piece, usage) = (self.behaviour.tokens_per_piece.max(1), self.behaviour.usage);
        let Some(answer) = self.clients.get_mut(index).and_then(|client| client.answer.as_mut()) else { return };
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
            if last {
                out.extend_from_slice(wire::piece(to, 0, Some(finish)).as_bytes());
                if to.usage && usage {
                    out.extend_from_slice(wire::usage(to, answer.fate.tokens).as_bytes());
                }
                out.extend_from_slice(wire::done().as_bytes());
            }
        } else if last {
            out = wire::whole(to, answer.fate.tokens, finish, usage);
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
        if close && self.clients.get_mut(index).is_some_and(|client| client.outbox.is_empty()) {
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
        let Some(client) = self.clients.get_mut(index) else { return };
        if client.outbox.is_empty() && !data.is_empty() {
            match client.socket.write(data) {
                Ok(n) => client.outbox.extend_from_slice(&data[n..]),
                Err(_) => client.outbox.extend_from_slice(data), // a broken socket tells itself when it is read
            }
        } else {
            client.outbox.extend_from_slice(data);
        }
        while !client.outbox.is_empty() {
            match client.socket.write(&client.outbox) {
                Ok(n) => {
                    client.outbox.drain(..n);
                }
                Err(_) => return,
            }
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
