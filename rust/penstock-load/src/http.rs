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
const MAX_FIELDS: usize = 256;
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

    /// Take `data` in; pieces of the body go to `body` in order. Bytes after the response's end belong to nothing that
    /// was asked: they are dropped, and the connection with them.
    pub fn feed(&mut self, data: &[u8], mut body: impl FnMut(Head, &[u8])) -> Result<(), Malformed> {
        let mut rest = data;
        let moved;
        if matches!(self.state, State::Head) {
            let seen = self.buffer.len();
            self.buffer.extend_from_slice(rest);
            // A head that comes byte by byte is parsed only when a line ends, not at every byte.
            if seen > 0 && memchr::memchr(b'\n', &self.buffer[seen..]).is_none() && self.buffer.len() <= MAX_HEAD {
                return Ok(());
            }
            let Some(begin) = self.read_head()? else { return Ok(()) };
            moved = std::mem::take(&mut self.buffer);
            rest = &moved[begin..];
        }
        let Some(head) = self.head else { return Ok(()) };
        while !rest.is_empty() && !self.done() {
            rest = self.step(rest, head, &mut body)?;
        }
        if let Some(head) = self.head.as_mut().filter(|_| !rest.is_empty()) {
            head.keep_alive = false;
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
            let mut headers = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response.parse(&self.buffer).map_err(|error| match error {
                httparse::Error::TooManyHeaders => Malformed("a response head of over 256 fields"),
                _ => Malformed("not an HTTP response"),
            })?;
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
            State::Head | State::Done => Ok(&[]), // `feed` doesn't come here
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
        let listed = || value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        match field.name.to_ascii_lowercase().as_str() {
            "transfer-encoding" => {
                if listed().any(|coding| !matches!(coding, b"chunked" | b"identity")) {
                    return Err(Malformed("a Transfer-Encoding that wasn't asked for"));
                }
                chunked |= listed().any(|coding| coding == b"chunked");
            }
            "content-encoding" if !matches!(value.as_slice(), b"" | b"identity") => {
                return Err(Malformed("a compressed answer, which wasn't asked for"));
            }
            "content-length" => {
                let told = number(&value).ok_or(Malformed("a Content-Length that is no number"))?;
                if length.is_some_and(|length| length != told) {
                    return Err(Malformed("two Content-Lengths that differ"));
                }
                length = Some(told);
            }
            "connection" => {
                for option in listed() {
                    match option {
                        b"close" => keep_alive = false,
                        b"keep-alive" => keep_alive = true,
                        _ => {}
                    }
                }
            }
            "content-type" => kind = kind_of(&value),
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

fn kind_of(content_type: &[u8]) -> Kind {
    match content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii() {
        b"text/event-stream" => Kind::Events,
        b"application/x-ndjson" | b"application/ndjson" | b"application/jsonl" | b"application/x-jsonlines" => {
            Kind::Lines
        }
        _ => Kind::Whole,
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}
