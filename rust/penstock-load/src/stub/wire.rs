//! The bytes of the stub's answers.

use super::request::Generate;

/// The text of one token; a word, so that words count tokens.
pub const TOKEN: &str = " tok";

/// A response's head. `length` of a body, or chunks.
pub fn head(status: u16, kind: &str, length: Option<usize>) -> String {
    let body = length.map_or("transfer-encoding: chunked".to_owned(), |n| format!("content-length: {n}"));
    format!(
        "HTTP/1.1 {status} {}\r\ncontent-type: {kind}\r\n{body}\r\n\r\n",
        if status == 200 { "OK" } else { "Error" }
    )
}

/// A whole answer of another kind.
pub fn page(status: u16, kind: &str, body: &str) -> Vec<u8> {
    (head(status, kind, Some(body.len())) + body).into_bytes()
}

/// An error in OpenAI's form.
pub fn error(status: u16, message: &str) -> Vec<u8> {
    let body = format!(r#"{{"error":{{"message":"{message}","type":"stub","param":null,"code":null}}}}"#);
    page(status, "application/json", &body)
}

/// An HTTP chunk with one event.
pub fn event(data: &str) -> String {
    format!("{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8)
}

/// A stream's last bytes.
pub fn done() -> String {
    event("[DONE]") + "0\r\n\r\n"
}

/// One piece of text, or the one without that says why it ends.
pub fn piece(to: &Generate, tokens: u32, finish: Option<&str>) -> String {
    let text = TOKEN.repeat(tokens as usize);
    let finish = finish.map_or("null".to_owned(), |reason| format!("\"{reason}\""));
    let (object, said) = if to.chat {
        (
            "chat.completion.chunk",
            if tokens > 0 { format!(r#""delta":{{"content":"{text}"}}"#) } else { r#""delta":{}"#.into() },
        )
    } else {
        ("text_completion", format!(r#""text":"{text}""#))
    };
    event(&format!(
        r#"{{"id":"stub","object":"{object}","created":0,"model":"stub","choices":[{{"index":0,{said},"logprobs":null,"finish_reason":{finish}}}],"usage":null}}"#
    ))
}

/// The usage event.
pub fn usage(to: &Generate, tokens: u32) -> String {
    let object = if to.chat { "chat.completion.chunk" } else { "text_completion" };
    event(&format!(
        r#"{{"id":"stub","object":"{object}","created":0,"model":"stub","choices":[],"usage":{}}}"#,
        counts(to, tokens)
    ))
}

/// An answer in one piece.
pub fn whole(to: &Generate, tokens: u32, finish: &str, with_usage: bool) -> Vec<u8> {
    let text = TOKEN.repeat(tokens as usize);
    let (object, said) = if to.chat {
        ("chat.completion", format!(r#""message":{{"role":"assistant","content":"{text}"}}"#))
    } else {
        ("text_completion", format!(r#""text":"{text}""#))
    };
    let usage = if with_usage { counts(to, tokens) } else { "null".into() };
    let body = format!(
        r#"{{"id":"stub","object":"{object}","created":0,"model":"stub","choices":[{{"index":0,{said},"finish_reason":"{finish}"}}],"usage":{usage}}}"#
    );
    page(200, "application/json", &body)
}

fn counts(to: &Generate, tokens: u32) -> String {
    let prompt = to.prompt_tokens;
    format!(r#"{{"prompt_tokens":{prompt},"completion_tokens":{tokens},"total_tokens":{}}}"#, prompt + tokens)
}
