//! What an event says: text, usage, an end, an error. Understands OpenAI's completions and chat, streamed and whole,
//! and the generate extension of the KServe protocol (`text_output`).

use serde::Deserialize;
use std::borrow::Cow;

/// What one event adds.
#[derive(Debug, Default, PartialEq)]
pub struct Said<'a> {
    /// Text of any kind: content, reasoning, a tool call's arguments.
    pub text: Cow<'a, str>,
    /// Counts so far, if it carries any.
    pub usage: Option<Usage>,
    /// Why the answer ended, if it says so.
    pub finish: Option<Finish>,
    /// An error in the stream's place.
    pub error: Option<String>,
    /// It is of a protocol whose streams have no mark at their end.
    pub bare: bool,
}

/// Token counts as the server gives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt: Option<u32>,
    /// Generated.
    pub completion: Option<u32>,
    /// Of the prompt, found in a prefix cache.
    pub cached: Option<u32>,
}

/// `finish_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Finish {
    Stop = 1,
    Length = 2,
    ToolCalls = 3,
    ContentFilter = 4,
    Other = 5,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<RawUsage>,
    #[serde(borrow, default)]
    text_output: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error: Option<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    delta: Option<Message<'a>>,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow, default)]
    arguments: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct RawUsage {
    #[serde(default)]
    prompt_tokens: Option<u32>,
    #[serde(default)]
    completion_tokens: Option<u32>,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

/// Read one event's JSON. `Err` names why it is none of the shapes known here.
pub fn read(data: &[u8]) -> Result<Said<'_>, String> {
    let chunk: Chunk<'_> = serde_json::from_slice(data).map_err(|error| error.to_string())?;
    let mut said = Said {
        error: chunk.error.filter(|raw| raw.get() != "null").map(|raw| message_of(raw.get())),
        ..Said::default()
    };
    if chunk.choices.is_none() && chunk.text_output.is_none() && chunk.usage.is_none() && said.error.is_none() {
        return Err("neither choices, text_output, usage nor error".into());
    }
    said.usage = chunk.usage.map(|usage| Usage {
        prompt: usage.prompt_tokens,
        completion: usage.completion_tokens,
        cached: usage.prompt_tokens_details.and_then(|details| details.cached_tokens),
    });
    said.bare = chunk.text_output.is_some();
    append(&mut said.text, chunk.text_output);
    for choice in chunk.choices.into_iter().flatten() {
        append(&mut said.text, choice.text);
        for message in choice.delta.into_iter().chain(choice.message) {
            append(&mut said.text, message.reasoning_content.or(message.reasoning));
            append(&mut said.text, message.content);
            for call in message.tool_calls.into_iter().flatten() {
                append(&mut said.text, call.function.and_then(|function| function.arguments));
            }
        }
        said.finish = choice.finish_reason.as_deref().map(finish).or(said.finish);
    }
    Ok(said)
}

fn append<'a>(text: &mut Cow<'a, str>, more: Option<Cow<'a, str>>) {
    match more {
        Some(more) if text.is_empty() => *text = more,
        Some(more) if !more.is_empty() => text.to_mut().push_str(&more),
        _ => {}
    }
}

fn finish(reason: &str) -> Finish {
    match reason {
        "stop" => Finish::Stop,
        "length" => Finish::Length,
        "tool_calls" | "function_call" => Finish::ToolCalls,
        "content_filter" => Finish::ContentFilter,
        _ => Finish::Other,
    }
}

fn message_of(raw: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(raw).unwrap_or_default();
    let text = value.get("message").and_then(|message| message.as_str()).or(value.as_str());
    text.unwrap_or(raw).to_owned()
}
