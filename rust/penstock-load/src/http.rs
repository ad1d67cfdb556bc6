//! An HTTP/1.1 response taken apart as it arrives (RFC 9112): head, then a body by length, in chunks, or until the
//! server closes.

/// What the bytes break.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The head's part that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// 200 and its kin.
    pub status: u16,
    /// The body is `text/event-stream`, `application/x-ndjson`, or something else.
    pub kind: Kind,
    /// The connection may carry another request.
    pub keep_alive: bool,
}

/// How a body holds its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Server-sent events.
    Events,
    /// A JSON value a line.
    Lines,
    /// One document.
    Whole,
}

enum State {
    Head,
    Length(u64),
    UntilClose,
    ChunkSize { size: u64, digits: u32, extension: bool },
    ChunkData(u64),
    ChunkEnd,
    Trailer { line: usize },
    Done,
}

const MAX_HEAD: usize = 64 * 1024;
const MAX_CHUNK_DIGITS: u32 = 12;

/// One response's reader.
pub struct Reader {
    state: State,
    buffer: Vec<u8>,
    head: Option<Head>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { state: State::Head, buffer: Vec::new(), head: None }
    }
}

impl Reader {
    /// The head, once it is there.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// Nothing more belongs to this response.
    pub fn done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Take `data` in; pieces of the body go to `body` in order. Bytes after the response's end are an error, as
    /// nothing was asked that they could answer.
    pub fn feed(&mut self, data: &[u8], mut body: impl FnMut(Head, &[u8])) -> Result<(), Malformed> {
        let mut rest = data;
        let moved;
        if matches!(self.state, State::Head) {
            self.buffer.extend_from_slice(rest);
            let Some(begin) = self.read_head()? else { return Ok(()) };
            moved = std::mem::take(&mut self.buffer);
            rest = &moved[begin..];
        }
        let head = self.head.ok_or(Malformed("no head"))?;
        while !rest.is_empty() {
            rest = self.step(rest, head, &mut body)?;
        }
        Ok(())
    }

    /// The server closed. Whether the response was whole by then.
    pub fn close(&mut self) -> bool {
        if matches!(self.state, State::UntilClose) {
            self.state = State::Done;
        }
        self.done()
    }

    fn read_head(&mut self) -> Result<Option<usize>, Malformed> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 100];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response.parse(&self.buffer).map_err(|_| Malformed("not an HTTP response"))?;
            let httparse::Status::Complete(length) = parsed else {
                if self.buffer.len() > MAX_HEAD {
                    return Err(Malformed("a response head over 64 KiB"));
                }
                return Ok(None);
            };
            let status = response.code.unwrap_or(0);
            if (100..200).contains(&status) {
                self.buffer.drain(..length); // only announces the real one
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                continue;
            }
            let (head, state) = read_fields(&response, status)?;
            self.head = Some(head);
            self.state = state;
            return Ok(Some(length));
        }
    }

    fn step<'a>(
        &mut self,
        rest: &'a [u8],
        head: Head,
        body: &mut impl FnMut(Head, &[u8]),
    ) -> Result<&'a [u8], Malformed> {
        let mut take = |left: u64| {
            let n = left.min(rest.len() as u64) as usize;
            body(head, &rest[..n]);
            n
        };
        match &mut self.state {
            State::Head => Err(Malformed("no head")),
            State::Done => Err(Malformed("bytes after the response's end")),
            State::UntilClose => {
                take(u64::MAX);
                Ok(&[])
            }
            State::Length(left) => {
                let n = take(*left);
                *left -= n as u64;
                if *left == 0 {
                    self.state = State::Done;
                }
                Ok(&rest[n..])
            }
            State::ChunkData(left) => {
                let n = take(*left);
                *left -= n as u64;
                if *left == 0 {
                    self.state = State::ChunkEnd;
                }
                Ok(&rest[n..])
            }
            State::ChunkEnd => {
                match rest[0] {
                    b'\r' => {}
                    b'\n' => self.state = State::ChunkSize { size: 0, digits: 0, extension: false },
                    _ => return Err(Malformed("a chunk longer than its size")),
                }
                Ok(&rest[1..])
            }
            State::ChunkSize { size, digits, extension } => {
                let byte = rest[0];
                match (byte, (byte as char).to_digit(16)) {
                    (b'\n', _) if *digits == 0 => return Err(Malformed("a chunk without a size")),
                    (b'\n', _) if *size == 0 => self.state = State::Trailer { line: 0 },
                    (b'\n', _) => self.state = State::ChunkData(*size),
                    (b'\r', _) => {}
                    _ if *extension => {}
                    (b';' | b' ' | b'\t', _) if *digits > 0 => *extension = true,
                    (_, Some(digit)) if *digits < MAX_CHUNK_DIGITS => {
                        *size = *size * 16 + u64::from(digit);
                        *digits += 1;
                    }
                    _ => return Err(Malformed("a chunk's size that is no hexadecimal number")),
                }
                Ok(&rest[1..])
            }
            State::Trailer { line } => {
                match rest[0] {
                    b'\n' if *line == 0 => self.state = State::Done,
                    b'\n' => *line = 0,
                    b'\r' => {}
                    _ => *line += 1,
                }
                Ok(&rest[1..])
            }
        }
    }
}

fn read_fields(response: &httparse::Response<'_, '_>, status: u16) -> Result<(Head, State), Malformed> {
    let mut keep_alive = response.version == Some(1);
    let (mut chunked, mut length, mut kind) = (false, None, Kind::Whole);
    for field in response.headers.iter() {
        let value = field.value.trim_ascii().to_ascii_lowercase();
        match field.name.to_ascii_lowercase().as_str() {
            "transfer-encoding" => chunked = value.ends_with(b"chunked"),
            "content-length" => {
                let text = std::str::from_utf8(&value).ok().and_then(|v| v.parse::<u64>().ok());
                length = Some(text.ok_or(Malformed("a Content-Length that is no number"))?);
            }
            "connection" => match value.as_slice() {
                b"close" => keep_alive = false,
                b"keep-alive" => keep_alive = true,
                _ => {}
            },
            "content-type" if value.starts_with(b"text/event-stream") => kind = Kind::Events,
            "content-type" if value.starts_with(b"application/x-ndjson") => kind = Kind::Lines,
            _ => {}
        }
    }
    let state = match (chunked, length) {
        _ if status == 204 || status == 304 => State::Done,
        (true, _) => State::ChunkSize { size: 0, digits: 0, extension: false },
        (false, Some(0)) => State::Done,
        (false, Some(length)) => State::Length(length),
        (false, None) => {
            keep_alive = false;
            State::UntilClose
        }
    };
    Ok((Head { status, kind, keep_alive }, state))
}
