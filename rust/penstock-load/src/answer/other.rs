//! Events of other APIs than OpenAI's first two, told apart by their fields:
//!
//! | API | fields |
//! |---|---|
//! | OpenAI responses | `type: response.…`, or `object: response` for a whole one |
//! | Anthropic messages | `type: message…`, `content_block…` |
//! | Triton's generate extension of KServe | `text_output` |
//! | TGI `/generate_stream`, `/generate` | `token`, `generated_text` |
//! | Ollama `/api/generate`, `/api/chat` | `done` |
//! | llama.cpp `/completion` | `content`, `stop` |

use super::{Finish, Said, Usage, finish, message_of};
use serde_json::Value;
use std::borrow::Cow;

/// As [`super::read`].
pub fn read(data: &[u8]) -> Result<Said<'static>, String> {
    let event: Value = serde_json::from_slice(data).map_err(|error| error.to_string())?;
    let kind = event["type"].as_str().unwrap_or("");
    if !event["error"].is_null() {
        return Ok(Said { error: Some(message_of(&event["error"])), ..Said::default() });
    }
    if kind == "error" {
        return Ok(Said { error: Some(message_of(&event)), ..Said::default() });
    }
    if kind.starts_with("response.") || event["object"] == "response" {
        return Ok(responses(&event, kind));
    }
    if matches!(kind, "ping" | "message") || kind.starts_with("message_") || kind.starts_with("content_block_") {
        return Ok(messages(&event, kind));
    }
    if let Some(text) = event["text_output"].as_str() {
        return Ok(Said { text: owned(text), bare: true, ..Said::default() });
    }
    if event["token"].is_object() || event["generated_text"].is_string() {
        return Ok(text_generation_inference(&event));
    }
    if event["done"].is_boolean() {
        return Ok(ollama(&event));
    }
    if event["content"].is_string() && event["stop"].is_boolean() {
        return Ok(llama_cpp(&event));
    }
    if event["usage"].is_object() {
        let usage = &event["usage"];
        let cached = &usage["prompt_tokens_details"]["cached_tokens"];
        let usage = counts(&usage["prompt_tokens"], &usage["completion_tokens"], cached);
        return Ok(Said { usage: Some(usage), ..Said::default() });
    }
    Err("it has none of choices, usage, error and the fields of other known APIs, or of other types".into())
}

fn responses(event: &Value, kind: &str) -> Said<'static> {
    if kind.ends_with(".delta") {
        return Said { text: owned(event["delta"].as_str().unwrap_or("")), ..Said::default() };
    }
    let response = if kind.is_empty() { event } else { &event["response"] };
    let mut said = Said::default();
    if kind.is_empty() {
        said.text = Cow::Owned(text_of_items(&response["output"]));
    }
    if response["usage"].is_object() {
        let usage = &response["usage"];
        let cached = &usage["input_tokens_details"]["cached_tokens"];
        said.usage = Some(counts(&usage["input_tokens"], &usage["output_tokens"], cached));
    }
    match response["status"].as_str() {
        Some("failed") => said.error = Some(message_of(&response["error"])),
        Some("completed") => said.finish = Some(Finish::Stop),
        Some("incomplete") => {
            said.finish = Some(finish(response["incomplete_details"]["reason"].as_str().unwrap_or("")));
        }
        _ => {}
    }
    said
}

fn text_of_items(items: &Value) -> String {
    let mut text = String::new();
    for item in items.as_array().into_iter().flatten() {
        for part in item["content"].as_array().into_iter().flatten() {
            text.push_str(part["text"].as_str().unwrap_or(""));
        }
        text.push_str(item["arguments"].as_str().unwrap_or(""));
    }
    text
}

fn messages(event: &Value, kind: &str) -> Said<'static> {
    let mut said = Said::default();
    let of_message = if kind == "message_start" { &event["message"] } else { event };
    match kind {
        "content_block_delta" => {
            let delta = &event["delta"];
            let texts = ["text", "thinking", "partial_json"].map(|name| delta[name].as_str().unwrap_or(""));
            said.text = Cow::Owned(texts.concat());
        }
        "content_block_start" => said.text = owned(event["content_block"]["text"].as_str().unwrap_or("")),
        "message" => {
            for block in event["content"].as_array().into_iter().flatten() {
                said.text.to_mut().push_str(block["thinking"].as_str().unwrap_or(""));
                said.text.to_mut().push_str(block["text"].as_str().unwrap_or(""));
                if block["input"].is_object() {
                    said.text.to_mut().push_str(&block["input"].to_string());
                }
            }
        }
        _ => {}
    }
    let reason = if kind == "message" { &event["stop_reason"] } else { &event["delta"]["stop_reason"] };
    said.finish = reason.as_str().map(finish);
    if of_message["usage"].is_object() {
        let usage = &of_message["usage"];
        said.usage = Some(counts(&usage["input_tokens"], &usage["output_tokens"], &usage["cache_read_input_tokens"]));
    }
    said
}

fn text_generation_inference(event: &Value) -> Said<'static> {
    let (whole, details) = (event["generated_text"].as_str(), &event["details"]);
    let text = match event["token"].is_object() {
        true if event["token"]["special"] == true => "",
        true => event["token"]["text"].as_str().unwrap_or(""),
        false => whole.unwrap_or(""),
    };
    let reason = details["finish_reason"].as_str().map(finish);
    let prompt = details["prefill"].as_array().filter(|tokens| !tokens.is_empty()).map(|tokens| tokens.len() as u32);
    let counted = Usage { prompt, ..counts(&Value::Null, &details["generated_tokens"], &Value::Null) };
    Said {
        text: owned(text),
        usage: details.is_object().then_some(counted),
        finish: reason.or(whole.map(|_| Finish::Other)),
        ..Said::default()
    }
}

fn ollama(event: &Value) -> Said<'static> {
    let message = &event["message"];
    let texts = [&event["thinking"], &event["response"], &message["thinking"], &message["content"]];
    let mut text: String = texts.iter().filter_map(|text| text.as_str()).collect();
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        text.push_str(&call["function"].to_string());
    }
    let done = event["done"] == true;
    Said {
        text: Cow::Owned(text),
        usage: done.then(|| counts(&event["prompt_eval_count"], &event["eval_count"], &Value::Null)),
        finish: done.then(|| event["done_reason"].as_str().map_or(Finish::Other, finish)),
        ..Said::default()
    }
}

fn llama_cpp(event: &Value) -> Said<'static> {
    let done = event["stop"] == true;
    Said {
        text: owned(event["content"].as_str().unwrap_or("")),
        usage: done
            .then(|| counts(&event["tokens_evaluated"], &event["tokens_predicted"], &event["timings"]["cache_n"])),
        finish: done.then(|| event["stop_type"].as_str().map_or(Finish::Other, finish)),
        ..Said::default()
    }
}

fn counts(prompt: &Value, completion: &Value, cached: &Value) -> Usage {
    let count = |value: &Value| value.as_u64().map(|count| count.min(u64::from(u32::MAX)) as u32);
    Usage { prompt: count(prompt), completion: count(completion), cached: count(cached) }
}

fn owned(text: &str) -> Cow<'static, str> {
    Cow::Owned(text.to_owned())
}
