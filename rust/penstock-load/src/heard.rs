//! What an answer has said so far, and when.

use crate::answer::{self, Usage};
use crate::clock::Nanos;
use crate::http::{Head, Kind, Malformed};
use crate::outcomes::{Ending, Piece};
use crate::sse::Splitter;

const MAX_WHOLE: usize = 64 << 20;
const SHOWN: usize = 300; // bytes of what a server said instead of an answer

/// One answer.
pub(crate) struct Heard {
    due: Nanos,
    splitter: Splitter,
    whole: Vec<u8>,
    counted: u32,
    uncounted: u32, // tokens told of since the last piece of text
    ended: bool,
    pub(crate) first_text: Nanos,
    pub(crate) last_text: Nanos,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) text: Option<String>,
    pub(crate) bytes: u32,
    pub(crate) usage: Usage,
    pub(crate) finish: u8,
    pub(crate) fault: Option<(Ending, String)>,
}

impl Heard {
    /// Nothing yet.
    pub(crate) fn new(due: Nanos, keep_text: bool) -> Self {
        Self {
            due,
            splitter: Splitter::default(),
            whole: Vec::new(),
            counted: 0,
            uncounted: 0,
            ended: false,
            first_text: 0,
            last_text: 0,
            pieces: Vec::new(),
            text: keep_text.then(String::new),
            bytes: 0,
            usage: Usage::default(),
            finish: 0,
            fault: None,
        }
    }

    pub(crate) fn keeps_text(&self) -> bool {
        self.text.is_some()
    }

    /// The first thing that went wrong stays.
    pub(crate) fn fail(&mut self, ending: Ending, detail: String) {
        self.fault.get_or_insert((ending, detail));
    }

    pub(crate) fn is_malformed(&self) -> bool {
        self.fault.as_ref().is_some_and(|(ending, _)| *ending == Ending::Malformed)
    }

    /// A piece of the body.
    pub(crate) fn body(&mut self, now: Nanos, head: Head, body: &[u8]) {
        if head.status != 200 || head.kind == Kind::Whole {
            if self.whole.len() + body.len() > MAX_WHOLE {
                return self.fail(Ending::Malformed, "an answer over 64 MiB".into());
            }
            return self.whole.extend_from_slice(body);
        }
        let mut splitter = std::mem::take(&mut self.splitter);
        let each = |data: &[u8]| self.event(now, data);
        let fed = match head.kind {
            Kind::Lines => splitter.feed_lines(body, each),
            _ => splitter.feed(body, each),
        };
        self.splitter = splitter;
        if let Err(Malformed(why)) = fed {
            self.fail(Ending::Malformed, why.into());
        }
    }

    /// The framing is complete: is the answer?
    pub(crate) fn conclude(&mut self, now: Nanos, head: Head) {
        if head.status != 200 {
            let said = String::from_utf8_lossy(&self.whole[..self.whole.len().min(SHOWN)]).into_owned();
            return self.fail(Ending::Status, said);
        }
        let mut splitter = std::mem::take(&mut self.splitter);
        match head.kind {
            Kind::Events => splitter.finish(|data| self.event(now, data)),
            Kind::Lines => splitter.finish_lines(|data| self.event(now, data)),
            Kind::Whole => {
                let whole = std::mem::take(&mut self.whole);
                self.event(now, &whole);
                self.ended = true;
            }
        }
        if !self.ended {
            self.fail(Ending::Truncated, "the stream ended without a finish reason or [DONE]".into());
        } else if self.first_text == 0 {
            self.fail(Ending::Empty, "the answer held no text".into());
        }
    }

    fn event(&mut self, now: Nanos, data: &[u8]) {
        if data == b"[DONE]" {
            self.ended = true;
            return;
        }
        let said = match answer::read(data) {
            Ok(said) => said,
            Err(why) => {
                let shown = String::from_utf8_lossy(&data[..data.len().min(SHOWN)]).into_owned();
                return self.fail(Ending::Malformed, format!("an event that can't be read ({why}): {shown}"));
            }
        };
        if let Some(error) = said.error {
            self.fail(Ending::InStream, error);
        }
        if let Some(usage) = said.usage {
            let total = usage.completion.unwrap_or(self.counted);
            self.uncounted += total.saturating_sub(self.counted);
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
            self.piece(now, &said.text);
        }
    }

    fn piece(&mut self, now: Nanos, text: &str) {
        let short = |n: usize| n.min(u16::MAX as usize) as u16;
        let since = if self.first_text == 0 { self.due } else { self.last_text };
        if self.first_text == 0 {
            self.first_text = now;
        }
        self.last_text = now;
        let tokens = std::mem::take(&mut self.uncounted);
        self.pieces.push(Piece {
            gap: (now.saturating_sub(since) as f64 / 1e9) as f32,
            tokens: short(tokens as usize),
            bytes: short(text.len()),
        });
        self.bytes = self.bytes.saturating_add(text.len() as u32);
        if let Some(kept) = &mut self.text {
            kept.push_str(text);
        }
    }
}
