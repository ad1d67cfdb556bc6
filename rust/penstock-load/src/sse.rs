//! Server-sent events out of a body's pieces (WHATWG HTML, 9.2.6): only what `data:` lines carry.

use crate::http::Malformed;
use memchr::memchr;

const MAX_EVENT: usize = 64 << 20;

/// A stream's splitter. Lines end in LF or CRLF; a CR alone, which no server sends, ends none.
#[derive(Default)]
pub struct Splitter {
    partial: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
}

impl Splitter {
    /// Take a piece in; each finished event's data goes to `event`. An error: an event over 64 MiB.
    pub fn feed(&mut self, mut piece: &[u8], mut event: impl FnMut(&[u8])) -> Result<(), Malformed> {
        while let Some(end) = memchr(b'\n', piece) {
            if self.partial.is_empty() {
                self.line(&piece[..end], &mut event);
            } else {
                let mut line = std::mem::take(&mut self.partial);
                line.extend_from_slice(&piece[..end]);
                self.line(&line, &mut event);
                line.clear();
                self.partial = line;
            }
            piece = &piece[end + 1..];
        }
        self.keep(piece)
    }

    /// Take a piece of lines in, one JSON value each; each line that isn't blank goes to `event`.
    pub fn feed_lines(&mut self, mut piece: &[u8], mut event: impl FnMut(&[u8])) -> Result<(), Malformed> {
        while let Some(end) = memchr(b'\n', piece) {
            self.partial.extend_from_slice(&piece[..end]);
            if !self.partial.trim_ascii().is_empty() {
                event(&self.partial);
            }
            self.partial.clear();
            piece = &piece[end + 1..];
        }
        self.keep(piece)
    }

    /// The body is over, whole: a last event that no blank line ends is one all the same, unlike in a browser, as the
    /// framing tells that nothing is missing.
    pub fn finish(&mut self, mut event: impl FnMut(&[u8])) {
        let rest = std::mem::take(&mut self.partial);
        self.line(&rest, &mut event);
        self.line(b"", &mut event);
    }

    /// The same of lines: the last needs no LF.
    pub fn finish_lines(&mut self, mut event: impl FnMut(&[u8])) {
        let rest = std::mem::take(&mut self.partial);
        if !rest.trim_ascii().is_empty() {
            event(&rest);
        }
    }

    fn keep(&mut self, rest: &[u8]) -> Result<(), Malformed> {
        self.partial.extend_from_slice(rest);
        if self.partial.len() + self.data.len() > MAX_EVENT {
            return Err(Malformed("an event over 64 MiB"));
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], event: &mut impl FnMut(&[u8])) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            if !self.data.trim_ascii().is_empty() {
                event(&self.data);
            }
            self.data.clear();
            self.has_data = false;
        } else if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            if self.has_data {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value);
            self.has_data = true;
        }
    }
}
