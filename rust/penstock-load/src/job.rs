//! A request under way, from its first byte out to its answer's end.

use crate::clock::Nanos;
use crate::heard::Heard;
use crate::http::Reader;
use crate::outcomes::{Ending, Finished, Outcome};

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
    reader: Reader,
    heard: Heard,
}

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
            reader: Reader::default(),
            heard: Heard::new(due, keep_text),
        }
    }

    /// Its last byte is out.
    pub fn is_written(&self) -> bool {
        self.written == self.submission.wire.len()
    }

    /// Nothing of the answer has come.
    pub fn unanswered(&self) -> bool {
        self.first_byte == 0
    }

    /// The same request to be made again, on another connection; it is due when it was.
    pub fn again(self, sent: Nanos) -> Self {
        let keep = self.heard.keeps_text();
        Self::new(self.submission, self.due, sent, keep)
    }

    /// Bytes that were read at `now`. Whether the answer is over, and if so whether the connection can be used again.
    pub fn feed(&mut self, now: Nanos, data: &[u8]) -> Option<bool> {
        if self.first_byte == 0 {
            self.first_byte = now;
        }
        let Self { reader, heard, .. } = self;
        if let Err(malformed) = reader.feed(data, |head, body| heard.body(now, head, body)) {
            heard.fail(Ending::Malformed, malformed.0.to_owned());
        }
        if heard.is_malformed() {
            return Some(false);
        }
        if !reader.done() {
            return None;
        }
        let head = reader.head()?;
        heard.conclude(now, head);
        Some(head.keep_alive && !heard.is_malformed())
    }

    /// The server closed at `now`.
    pub fn closed(&mut self, now: Nanos) {
        match (self.reader.close(), self.reader.head()) {
            (true, Some(head)) => self.heard.conclude(now, head),
            (false, Some(_)) => {
                self.fail(Ending::Truncated, "the server closed the connection before the answer's end".into());
            }
            (_, None) => self.fail(Ending::Broken, "the server closed the connection without an answer".into()),
        }
    }

    /// It has failed, unless it had before.
    pub fn fail(&mut self, ending: Ending, detail: String) {
        self.heard.fail(ending, detail);
    }

    /// All that is known of it.
    pub fn finished(self, end: Nanos) -> Finished {
        let heard = self.heard;
        let told = |count: Option<u32>| count.map_or(-1, |count| count.min(i32::MAX as u32) as i32);
        let outcome = Outcome {
            id: self.submission.id,
            due: self.due,
            sent: self.sent,
            connected: self.connected,
            first_byte: self.first_byte,
            first_text: heard.first_text,
            last_text: heard.last_text,
            end,
            ending: heard.fault.as_ref().map_or(Ending::Whole, |(ending, _)| *ending),
            status: self.reader.head().map_or(0, |head| head.status),
            finish: heard.finish,
            prompt_tokens: told(heard.usage.prompt),
            completion_tokens: told(heard.usage.completion),
            cached_tokens: told(heard.usage.cached),
            text_bytes: heard.bytes,
        };
        let detail = heard.fault.map(|(_, detail)| detail.chars().take(500).collect());
        Finished { outcome, pieces: heard.pieces, text: heard.text, detail }
    }
}
