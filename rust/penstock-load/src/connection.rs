//! One socket, and the request that is on it.

use crate::answer::{self, Usage};
use crate::clock::Nanos;
use crate::http::{Head, Kind, Reader};
use crate::outcomes::{Ending, Finished, Outcome, Piece};
use crate::sse::Splitter;
use crate::tls::Tls;
use mio::net::TcpStream;
use rustls::{ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

/// Plain or secured.
pub enum Transport {
    /// `http:`
    Plain(TcpStream),
    /// `https:`
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Transport {
    /// Begin to connect.
    pub fn connect(address: SocketAddr, tls: Option<&Tls>) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        let _ = socket.set_nodelay(true); // refused by a socket that failed already, which the next write tells
        let Some((config, name)) = tls else { return Ok(Self::Plain(socket)) };
        let session = ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(session, socket))))
    }

    /// The socket under it.
    pub fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &mut stream.sock,
        }
    }

    /// What the encryption layer holds back is on its way.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }

    /// Read into `buffer`.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    /// Write some of `data`.
    pub fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(data),
            Self::Tls(stream) => stream.write(data),
        }
    }
}

/// A connection, busy or waiting for work.
pub struct Connection {
    /// Its socket.
    pub transport: Transport,
    /// The request on it.
    pub job: Option<Job>,
    /// The TCP handshake isn't over.
    pub connecting: bool,
    /// It has carried a whole answer before.
    pub used: bool,
}

/// A request to make.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The caller's number for it.
    pub id: u64,
    /// When it is to be sent; `None`: in the place of one that has ended, and due at that moment.
    pub due: Option<Nanos>,
    /// The whole HTTP request.
    pub wire: Vec<u8>,
}

/// A request under way.
pub struct Job {
    /// What was asked for.
    pub submission: Submission,
    /// When it was due: latency counts from here.
    pub due: Nanos,
    /// When its sending began.
    pub sent: Nanos,
    /// When the connection stood.
    pub connected: Nanos,
    /// Bytes of the request that are out.
    pub written: usize,
    first_byte: Nanos,
    first_text: Nanos,
    last_text: Nanos,
    reader: Reader,
    said: Heard,
}

/// What the answer has said so far.
#[derive(Default)]
struct Heard {
    splitter: Splitter,
    whole: Vec<u8>,
    pieces: Vec<Piece>,
    text: Option<String>,
    usage: Usage,
    counted: u32,
    finish: u8,
    ended: bool,
    fault: Option<(Ending, String)>,
}

const MAX_WHOLE: usize = 64 << 20;

impl Job {
    /// A request whose sending begins now.
    pub fn new(submission: Submission, due: Nanos, sent: Nanos, keep_text: bool) -> Self {
        Self {
            submission,
            due,
            sent,
            connected: 0,
            written: 0,
            first_byte: 0,
            first_text: 0,
            last_text: 0,
            reader: Reader::default(),
            said: Heard { text: keep_text.then(String::new), ..Heard::default() },
        }
    }

    /// Nothing of the answer has come.
    pub fn unanswered(&self) -> bool {
        self.first_byte == 0
    }

    /// The same request to be made again, on another connection; it is due when it was.
    pub fn again(self, sent: Nanos) -> Self {
        let keep = self.said.text.is_some();
        Self::new(self.submission, self.due, sent, keep)
    }

    /// Bytes that were read at `now`. Whether the answer is over, and if so whether the connection can be used again.
    pub fn feed(&mut self, now: Nanos, data: &[u8]) -> Option<bool> {
        if self.first_byte == 0 {
            self.first_byte = now;
        }
        let Self { reader, said, first_text, last_text, due, .. } = self;
        let fed = reader.feed(data, |head, body| {
            said.hear(head, body, |heard, text, tokens| {
                let since = if *first_text == 0 { *due } else { *last_text };
                if *first_text == 0 {
                    *first_text = now;
                }
                *last_text = now;
                heard.piece(now.saturating_sub(since), text, tokens);
            })
        });
        if let Err(malformed) = fed {
            said.fault.get_or_insert((Ending::Malformed, malformed.0.to_owned()));
        }
        if said.fault.as_ref().is_some_and(|(ending, _)| *ending == Ending::Malformed) {
            return Some(false);
        }
        if !reader.done() {
            return None;
        }
        self.conclude(now);
        Some(self.reader.head().is_some_and(|head| head.keep_alive))
    }

    /// The server closed at `now`.
    pub fn closed(&mut self, now: Nanos) {
        let had_head = self.reader.head().is_some();
        if self.reader.close() {
            self.conclude(now);
        } else if had_head {
            self.fail(Ending::Truncated, "the server closed the connection before the answer's end".into());
        } else {
            self.fail(Ending::Broken, "the server closed the connection without an answer".into());
        }
    }

    /// It has failed, unless it had before.
    pub fn fail(&mut self, ending: Ending, detail: String) {
        self.said.fault.get_or_insert((ending, detail));
    }

    /// The framing is complete: is the answer?
    fn conclude(&mut self, now: Nanos) {
        let Some(head) = self.reader.head() else { return };
        if head.status != 200 {
            let body = String::from_utf8_lossy(&self.said.whole[..self.said.whole.len().min(300)]).into_owned();
            return self.fail(Ending::Status, body);
        }
        if head.kind == Kind::Whole {
            let whole = std::mem::take(&mut self.said.whole);
            let due = self.due;
            let Self { said, first_text, last_text, .. } = self;
            said.event(&whole, |heard, text, tokens| {
                (*first_text, *last_text) = (now, now);
                heard.piece(now.saturating_sub(due), text, tokens);
            });
            said.ended = true;
        }
        if !self.said.ended {
            self.fail(Ending::Truncated, "the stream ended without a finish reason or [DONE]".into());
        } else if self.first_text == 0 {
            self.fail(Ending::Empty, "the answer held no text".into());
        }
    }

    /// All that is known of it.
    pub fn finished(self, end: Nanos) -> Finished {
        let Heard { usage, finish, mut fault, pieces, text, .. } = self.said;
        let told = |count: Option<u32>| count.map_or(-1, |count| count.min(i32::MAX as u32) as i32);
        let ending = fault.as_ref().map_or(Ending::Whole, |(ending, _)| *ending);
        if let Some((_, detail)) = &mut fault {
            *detail = detail.chars().take(500).collect();
        }
        let outcome = Outcome {
            id: self.submission.id,
            due: self.due,
            sent: self.sent,
            connected: self.connected,
            first_byte: self.first_byte,
            first_text: self.first_text,
            last_text: self.last_text,
            end,
            ending,
            status: self.reader.head().map_or(0, |head| head.status),
            finish,
            prompt_tokens: told(usage.prompt),
            completion_tokens: told(usage.completion),
            cached_tokens: told(usage.cached),
            text_bytes: pieces.iter().map(|piece| u32::from(piece.bytes)).sum(),
        };
        Finished { outcome, pieces, text, detail: fault.map(|(_, detail)| detail) }
    }
}

impl Heard {
    fn hear(&mut self, head: Head, body: &[u8], mut on_text: impl FnMut(&mut Self, &str, u32)) {
        if head.status != 200 || head.kind == Kind::Whole {
            if self.whole.len() + body.len() > MAX_WHOLE {
                self.fault.get_or_insert((Ending::Malformed, "an answer over 64 MiB".into()));
                return;
            }
            return self.whole.extend_from_slice(body);
        }
        let mut splitter = std::mem::take(&mut self.splitter);
        let each = |data: &[u8]| self.event(data, &mut on_text);
        match head.kind {
            Kind::Lines => splitter.feed_lines(body, each),
            _ => splitter.feed(body, each),
        }
        self.splitter = splitter;
    }

    fn event(&mut self, data: &[u8], mut on_text: impl FnMut(&mut Self, &str, u32)) {
        if data == b"[DONE]" {
            self.ended = true;
            return;
        }
        let said = match answer::read(data) {
            Ok(said) => said,
            Err(why) => {
                let shown = String::from_utf8_lossy(&data[..data.len().min(100)]).into_owned();
                self.fault.get_or_insert((Ending::Malformed, format!("an event that can't be read ({why}): {shown}")));
                return;
            }
        };
        if let Some(error) = said.error {
            self.fault.get_or_insert((Ending::InStream, error));
        }
        let mut tokens = 0;
        if let Some(usage) = said.usage {
            let total = usage.completion.unwrap_or(self.counted);
            tokens = total.saturating_sub(self.counted);
            self.counted = total;
            self.usage = Usage {
                prompt: usage.prompt.or(self.usage.prompt),
                completion: usage.completion.or(self.usage.completion),
                cached: usage.cached.or(self.usage.cached),
            };
        }
        if let Some(finish) = said.finish {
            self.finish = finish as u8;
            self.ended = true;
        }
        self.ended |= said.bare;
        if !said.text.is_empty() {
            on_text(self, &said.text, tokens);
        }
    }

    fn piece(&mut self, gap: Nanos, text: &str, tokens: u32) {
        let short = |n: usize| n.min(u16::MAX as usize) as u16;
        self.pieces.push(Piece {
            gap: (gap as f64 / 1e9) as f32,
            tokens: short(tokens as usize),
            bytes: short(text.len()),
        });
        if let Some(kept) = &mut self.text {
            kept.push_str(text);
        }
    }
}
