//! What happens on the connections: requests out, answers in, and all the ways in which that ends.

use super::Turns;
use crate::clock::{self, Nanos};
use crate::connection::{Connection, Transport};
use crate::job::Job;
use crate::limits;
use crate::outcomes::Ending;
use crate::shared::FIRST;
use mio::event::Event;
use mio::{Interest, Token};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::Relaxed;

impl Turns {
    /// Put a request on a connection that is there, or on a new one.
    pub(super) fn place(&mut self, mut job: Job) {
        while let Some(index) = self.idle.pop() {
            if let Some(connection) = self.connections.get_mut(index).filter(|connection| connection.job.is_none()) {
                let sent = job.sent;
                job.connected = sent;
                connection.job = Some(job);
                self.deadlines.push_back((sent + self.target.timeout, index, sent));
                return self.progress(index, Hint { readable: false, closed: false });
            }
        }
        self.place_anew(job);
    }

    fn place_anew(&mut self, mut job: Job) {
        let transport = Transport::connect(self.target.address, self.target.tls.as_ref()).and_then(|mut transport| {
            let spare = transport.socket().as_raw_fd() <= self.highest_file; // files take the lowest number that is free
            if spare { Ok(transport) } else { Err(io::Error::from_raw_os_error(libc::EMFILE)) }
        });
        let transport = match transport {
            Ok(transport) => transport,
            Err(error) => {
                job.fail(Ending::Connect, limits::explain(&error));
                return self.finish(job);
            }
        };
        let sent = job.sent;
        let index = self.connections.insert(Connection { transport, job: Some(job), connecting: true, used: false });
        self.deadlines.push_back((sent + self.target.timeout, index, sent));
        let Some(connection) = self.connections.get_mut(index) else { return };
        let interest = Interest::READABLE | Interest::WRITABLE;
        let socket = connection.transport.socket();
        if let Err(error) = self.poll.registry().register(socket, Token(index + FIRST), interest) {
            self.fail(index, Ending::Connect, error.to_string());
        }
    }

    pub(super) fn on_event(&mut self, event: &Event) {
        let index = event.token().0 - FIRST;
        let Some(connection) = self.connections.get_mut(index) else { return };
        if connection.connecting {
            if let Err(error) = connection.transport.socket().take_error().and_then(|error| error.map_or(Ok(()), Err)) {
                return self.fail(index, Ending::Connect, limits::explain(&error));
            }
            match connection.transport.socket().peer_addr() {
                Ok(_) => connection.connecting = false,
                Err(error) if error.kind() == ErrorKind::NotConnected => return,
                Err(error) => return self.fail(index, Ending::Connect, limits::explain(&error)),
            }
            if let Some(job) = &mut connection.job {
                job.connected = clock::now();
            }
        }
        let closed = event.is_read_closed() || event.is_error();
        self.progress(index, Hint { readable: event.is_readable() || closed, closed });
    }

    /// Write what is left of the request, read what there is of the answer.
    fn progress(&mut self, index: usize, hint: Hint) {
        let Some(connection) = self.connections.get_mut(index).filter(|connection| !connection.connecting) else {
            return;
        };
        let written = connection.write();
        let plain = matches!(connection.transport, Transport::Plain(_));
        // A secure session also has to be agreed on, whichever side is to speak next.
        if (hint.readable || !plain || written.is_err()) && !self.read(index, hint.closed) {
            return;
        }
        // A server that refuses a request before it has all of it closes, but may have answered: that counts.
        if let Err(error) = written {
            self.broke(index, &error);
        }
    }

    /// Whether the connection is still there and its answer not over.
    fn read(&mut self, index: usize, to_the_end: bool) -> bool {
        loop {
            let Some(connection) = self.connections.get_mut(index) else { return false };
            let plain = matches!(connection.transport, Transport::Plain(_));
            match connection.transport.read(&mut self.buffer) {
                Ok(0) => {
                    self.hung_up(index);
                    return false;
                }
                Ok(n) => {
                    let now = clock::now();
                    let Some(job) = &mut connection.job else {
                        self.drop_connection(index); // nobody asked
                        return false;
                    };
                    if let Some(reusable) = job.feed(now, &self.buffer[..n]) {
                        self.answered(index, reusable && !to_the_end);
                        return false;
                    }
                    // A short read means an empty socket, unless its end stands behind.
                    if plain && n < self.buffer.len() && !to_the_end {
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.broke(index, &error);
                    return false;
                }
            }
        }
    }

    /// The answer is over, well or not.
    fn answered(&mut self, index: usize, reusable: bool) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let whole_request = connection.job.as_ref().is_some_and(Job::is_written);
        if let Some(job) = connection.job.take() {
            connection.used = true;
            if reusable && whole_request && self.target.keep_alive {
                self.idle.push(index);
            } else {
                self.drop_connection(index);
            }
            self.finish(job);
        }
    }

    fn hung_up(&mut self, index: usize) {
        let now = clock::now();
        if self.retried(index, now) {
            return;
        }
        if let Some(job) = self.connections.get_mut(index).and_then(|connection| connection.job.as_mut()) {
            job.closed(now);
        }
        self.give_up(index);
    }

    fn broke(&mut self, index: usize, error: &io::Error) {
        if self.retried(index, clock::now()) {
            return;
        }
        let handshaking = self.connections.get_mut(index).is_some_and(|found| found.transport.is_handshaking());
        let tls = handshaking || error.kind() == ErrorKind::InvalidData; // how rustls reports its own errors
        self.fail(index, if tls { Ending::Tls } else { Ending::Broken }, error.to_string());
    }

    /// A server may close a connection between two requests just as the second is sent: that one is made again.
    fn retried(&mut self, index: usize, now: Nanos) -> bool {
        let Some(connection) = self.connections.get_mut(index) else { return false };
        if !(connection.used && connection.job.as_ref().is_some_and(Job::unanswered)) {
            return false;
        }
        let Some(job) = connection.job.take() else { return false };
        self.drop_connection(index);
        self.shared.counters.retried.fetch_add(1, Relaxed);
        self.place_anew(job.again(now));
        true
    }

    pub(super) fn fail(&mut self, index: usize, ending: Ending, detail: String) {
        if let Some(job) = self.connections.get_mut(index).and_then(|connection| connection.job.as_mut()) {
            job.fail(ending, detail);
        }
        self.give_up(index);
    }

    fn give_up(&mut self, index: usize) {
        let job = self.connections.get_mut(index).and_then(|connection| connection.job.take());
        self.drop_connection(index);
        if let Some(job) = job {
            self.finish(job);
        }
    }

    fn drop_connection(&mut self, index: usize) {
        self.connections.remove(index); // closing takes it off the poll
    }
}

/// What an event tells of a socket.
struct Hint {
    readable: bool,
    closed: bool,
}
