//! What the stub reads of a request.

use crate::http::Malformed;
use serde::Deserialize;

/// A request, as far as it changes the answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// Where to.
    pub route: Route,
    /// Of the client's own making, to tell its requests apart.
    pub id: Option<String>,
    /// The connection is to be closed after the answer.
    pub close: bool,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// Text.
    Generate(Generate),
    /// `GET` of a page.
    Page(String),
    /// Something else.
    Unknown,
}

/// A request for text.
#[derive(Debug, PartialEq, Eq)]
pub struct Generate {
    /// Chat rather than completions.
    pub chat: bool,
    /// Server-sent events.
    pub stream: bool,
    /// Usage at the stream's end.
    pub usage: bool,
    /// Tokens at most.
    pub max_tokens: u32,
    /// Words of the prompt, which stand for its tokens.
    pub prompt_tokens: u32,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    prompt: serde_json::Value,
    #[serde(default)]
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: serde_json::Value,
}

const DEFAULT_TOKENS: u32 = 16;
const MAX_BODY: usize = 64 << 20;

/// Take one request off the front of `buffer`: it and its length, `None` while it isn't whole.
pub fn take(buffer: &[u8]) -> Result<Option<(Request, usize)>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = parsed.parse(buffer).map_err(|_| Malformed("not a request"))? else {
        return Ok(None);
    };
    let field = |name: &str| {
        let found = parsed.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        found.and_then(|field| std::str::from_utf8(field.value).ok()).map(str::trim)
    };
    let length = field("content-length")
        .map_or(Ok(0), |value| value.parse::<usize>().map_err(|_| Malformed("a Content-Length that is no number")))?;
    if length > MAX_BODY {
        return Err(Malformed("a body over 64 MiB"));
    }
    let Some(body) = buffer.get(head..head + length) else { return Ok(None) };
    let path = parsed.path.unwrap_or("").split('?').next().unwrap_or("");
    let route = match (parsed.method, path) {
        (Some("POST"), "/v1/completions") => generate(body, false),
        (Some("POST"), "/v1/chat/completions") => generate(body, true),
        (Some("GET"), page) => Route::Page(page.to_owned()),
        _ => Route::Unknown,
    };
    let close = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some((Request { route, id: field("x-request-id").map(str::to_owned), close }, head + length)))
}

fn generate(body: &[u8], chat: bool) -> Route {
    let Ok(body) = serde_json::from_slice::<Body>(body) else { return Route::Unknown };
    let words = match (&body.prompt, chat) {
        (serde_json::Value::Array(ids), false) => ids.len(),
        (prompt, false) => words_of(prompt),
        (_, true) => body.messages.iter().map(|message| words_of(&message.content)).sum(),
    };
    Route::Generate(Generate {
        chat,
        stream: body.stream,
        usage: body.stream_options.is_some_and(|options| options.include_usage),
        max_tokens: body.max_completion_tokens.or(body.max_tokens).unwrap_or(DEFAULT_TOKENS),
        prompt_tokens: words as u32,
    })
}

fn words_of(value: &serde_json::Value) -> usize {
    value.as_str().map_or(0, |text| text.split_whitespace().count())
}
