//! One connection to the stub.

use super::behaviour::Fate;
use super::request::Generate;
use super::truth::Seen;
use crate::clock::Nanos;
use mio::net::TcpStream;
use std::io::Write;

/// A connection.
pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    pub(crate) inbox: Vec<u8>,
    outbox: Vec<u8>,
    pub(crate) answer: Option<Answer>,
    pub(crate) serial: u64, // of its current answer, so that a timer of an earlier one finds nothing
    pub(crate) close: bool, // after the answer
}

/// What is being answered.
pub(crate) struct Answer {
    pub(crate) to: Generate,
    pub(crate) fate: Fate,
    pub(crate) started: Option<Nanos>,
    pub(crate) next: usize,
    pub(crate) seen: Seen,
}

impl Client {
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self { socket, inbox: Vec::new(), outbox: Vec::new(), answer: None, serial: 0, close: false }
    }

    /// All is said.
    pub(crate) fn is_quiet(&self) -> bool {
        self.answer.is_none() && self.outbox.is_empty()
    }

    /// What the socket doesn't take now is kept for the next call. A broken socket tells itself when it is read.
    pub(crate) fn send(&mut self, mut data: &[u8]) {
        while !self.outbox.is_empty() {
            match self.socket.write(&self.outbox) {
                Ok(n) => drop(self.outbox.drain(..n)),
                Err(_) => return self.outbox.extend_from_slice(data),
            }
        }
        while !data.is_empty() {
            match self.socket.write(data) {
                Ok(n) => data = &data[n..],
                Err(_) => return self.outbox.extend_from_slice(data),
            }
        }
    }
}
