//! What an event says: text, usage, an end, an error. OpenAI's completions and chat, streamed and whole, are read here,
//! text borrowed from the bytes; all other shapes in [`other`].

mod other;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

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

/// A string that may be null or in parts (`[{"text": …}, …]`). `Option<Cow<str>>` would copy every one of them.
#[derive(Default)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("text")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text.to_owned()))) // it had escapes
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Text::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        struct Part<'a> {
            #[serde(borrow, default)]
            text: Text<'a>,
        }
        let mut text = Cow::default();
        while let Some(part) = parts.next_element::<Part<'de>>()? {
            append(&mut text, part.text);
        }
        Ok(Text(text))
    }
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<RawUsage>,
    #[serde(borrow, default)]
    error: Option<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    text: Text<'a>,
    #[serde(borrow, default)]
    delta: Option<Message<'a>>,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    finish_reason: Text<'a>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Text<'a>,
    #[serde(borrow, default)]
    reasoning_content: Text<'a>,
    #[serde(borrow, default)]
    reasoning: Text<'a>,
    #[serde(borrow, default)]
    refusal: Text<'a>,
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
    name: Text<'a>,
    #[serde(borrow, default)]
    arguments: Text<'a>,
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
    let chunk = match serde_json::from_slice::<Chunk<'_>>(data) {
        Ok(chunk) if chunk.choices.is_some() => chunk,
        Ok(_) => return other::read(data),
        // Other APIs use the same names for other things.
        Err(error) => return other::read(data).map_err(|_| error.to_string()),
    };
    let mut said = Said {
        error: chunk.error.filter(|raw| raw.get() != "null").map(|raw| {
            let value = serde_json::from_str(raw.get()).unwrap_or_default();
            message_of(&value)
        }),
        ..Said::default()
    };
    said.usage = chunk.usage.map(|usage| Usage {
        prompt: usage.prompt_tokens,
        completion: usage.completion_tokens,
        cached: usage.prompt_tokens_details.and_then(|details| details.cached_tokens),
    });
    for choice in chunk.choices.into_iter().flatten() {
        append(&mut said.text, choice.text);
        for message in choice.delta.into_iter().chain(choice.message) {
            // Some servers send the same thoughts under both names.
            let twice = !message.reasoning_content.0.is_empty();
            append(&mut said.text, if twice { message.reasoning_content } else { message.reasoning });
            append(&mut said.text, message.content);
            append(&mut said.text, message.refusal);
            for function in message.tool_calls.into_iter().flatten().filter_map(|call| call.function) {
                append(&mut said.text, function.name);
                append(&mut said.text, function.arguments);
            }
        }
        if !choice.finish_reason.0.is_empty() {
            said.finish = Some(finish(&choice.finish_reason.0));
        }
    }
    Ok(said)
}

fn append<'a>(text: &mut Cow<'a, str>, Text(more): Text<'a>) {
    if text.is_empty() {
        *text = more;
    } else if !more.is_empty() {
        text.to_mut().push_str(&more);
    }
}

fn finish(reason: &str) -> Finish {
    match reason {
        "stop" | "eos_token" | "stop_sequence" | "end_turn" | "eos" | "word" | "completed" => Finish::Stop,
        "length" | "max_tokens" | "max_output_tokens" | "limit" => Finish::Length,
        "tool_calls" | "function_call" | "tool_use" => Finish::ToolCalls,
        "content_filter" | "refusal" => Finish::ContentFilter,
        _ => Finish::Other,
    }
}

fn message_of(error: &serde_json::Value) -> String {
    let text = error.get("message").and_then(|message| message.as_str()).or(error.as_str());
    text.map_or_else(|| error.to_string(), str::to_owned)
}
