//! What was observed, a column a quantity, so that a million requests are a few arrays.

use crate::clock::Nanos;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ending {
    /// Whole, with text.
    Whole = 0,
    /// No connection.
    Connect = 1,
    /// No secure connection.
    Tls = 2,
    /// Not within its time.
    Timeout = 3,
    /// The connection broke before the answer's end.
    Broken = 4,
    /// Another status than 200; the column `status` says which.
    Status = 5,
    /// The server ended the stream without saying that the answer was whole.
    Truncated = 6,
    /// Bytes that are no HTTP, no events, or no known JSON.
    Malformed = 7,
    /// An error in the middle of a stream.
    InStream = 8,
    /// Whole, without any text.
    Empty = 9,
    /// The run was cut before its end.
    Cut = 10,
}

/// One request's end, with its times on the monotonic clock. 0: never happened.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Outcome {
    pub id: u64,
    pub due: Nanos,
    pub sent: Nanos, // the first byte was about to be written, connection included where one was made
    pub connected: Nanos, // equal to `sent` on a connection that was there
    pub first_byte: Nanos,
    pub first_text: Nanos,
    pub last_text: Nanos,
    pub end: Nanos,
    pub ending: Ending,
    pub status: u16,
    pub finish: u8,
    pub prompt_tokens: i32, // -1: not told; so the next two
    pub completion_tokens: i32,
    pub cached_tokens: i32,
    pub text_bytes: u32,
}

/// One event that carried text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// Seconds since the piece before; of the first, since `due`.
    pub gap: f32,
    /// Generated since the piece before, where the server counts as it goes; else 0.
    pub tokens: u16,
    /// Of UTF-8 text.
    pub bytes: u16,
}

/// A request's end with all that belongs to it.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Finished {
    pub outcome: Outcome,
    pub pieces: Vec<Piece>,
    pub text: Option<String>,
    pub detail: Option<String>, // what went wrong, for people
}

/// All ends since they were last taken.
#[derive(Default)]
pub struct Columns {
    /// In order of ending.
    pub outcomes: Vec<Outcome>,
    /// Of all requests, one after the other.
    pub pieces: Vec<Piece>,
    /// How many of `pieces` belong to each.
    pub piece_counts: Vec<u32>,
    /// Kept texts by request id.
    pub texts: Vec<(u64, String)>,
    /// What went wrong by request id.
    pub details: Vec<(u64, String)>,
}

impl Columns {
    /// Add one.
    pub fn push(&mut self, finished: Finished) {
        let id = finished.outcome.id;
        self.piece_counts.push(finished.pieces.len() as u32);
        self.pieces.extend_from_slice(&finished.pieces);
        self.outcomes.push(finished.outcome);
        self.texts.extend(finished.text.map(|text| (id, text)));
        self.details.extend(finished.detail.map(|detail| (id, detail)));
    }
}

impl Columns {
    /// Add all of `more`.
    pub fn append(&mut self, mut more: Self) {
        if self.outcomes.is_empty() {
            *self = more;
            return;
        }
        self.outcomes.append(&mut more.outcomes);
        self.pieces.append(&mut more.pieces);
        self.piece_counts.append(&mut more.piece_counts);
        self.texts.append(&mut more.texts);
        self.details.append(&mut more.details);
    }
}
