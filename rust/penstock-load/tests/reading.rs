//! Answers read as they arrive: however the network cuts them up, the same is seen; whatever the bytes, nothing panics.

use penstock_load::answer::{self, Finish};
use penstock_load::http::{Kind, Reader};
use penstock_load::job::{Job, Submission};
use penstock_load::outcomes::{Ending, Finished};
use penstock_load::stub::random::Random;

fn job() -> Job {
    Job::new(Submission { id: 7, due: Some(100), wire: Vec::new() }, 100, 110, true)
}

/// Feed `bytes` cut at `cuts`, then close.
fn read(bytes: &[u8], cuts: &[usize]) -> Finished {
    let mut job = job();
    let (mut from, mut now, mut over) = (0, 1000, false);
    for &to in cuts.iter().chain([&bytes.len()]) {
        now += 10;
        if to > from && !over {
            over = job.feed(now, &bytes[from..to]).is_some();
        }
        from = to;
    }
    if !over {
        job.closed(now + 10);
    }
    job.finished(now + 20)
}

fn seen(finished: &Finished) -> impl PartialEq + std::fmt::Debug {
    let o = &finished.outcome;
    (
        (o.ending, o.status, o.finish, o.prompt_tokens, o.completion_tokens, o.cached_tokens, o.text_bytes),
        finished.pieces.iter().map(|piece| (piece.tokens, piece.bytes)).collect::<Vec<_>>(),
        finished.text.clone(),
    )
}

fn chunked(kind: &str, events: &[&str]) -> Vec<u8> {
    let mut out =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n");
    for event in events {
        out += &format!("{:X};x=y\r\n{event}\r\n", event.len());
    }
    (out + "0\r\nX-Trailer: 1\r\n\r\n").into_bytes()
}

fn streams() -> Vec<Vec<u8>> {
    let chat = chunked(
        "text/event-stream",
        &[
            ": hello\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
            "event: x\ndata: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\",\"reasoning\":\"hm\"}}]}\r\n\r\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"gr\\u00fc\\n\\ud83d\\ude00ß\"}}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n",
            "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":9,\"prompt_tokens_details\":{\"cached_tokens\":2}}}\n\ndata: [DONE]\n\n",
        ],
    );
    let ollama = chunked(
        "application/x-ndjson",
        &[
            "{\"message\":{\"content\":\"a\"},\"done\":false}\n",
            "{\"message\":{\"content\":\"b\"},\"done\":false}\n{\"message\":{\"content\":\"\"},\"done\":true,\"done_reason\":\"length\",\"prompt_eval_count\":4,\"eval_count\":2}",
        ],
    );
    let messages = chunked(
        "text/event-stream",
        &[
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\n",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}}\n\n",
            "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"max_tokens\"},\"usage\":{\"output_tokens\":6}}\n\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        ],
    );
    let until_close =
        b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {\"choices\":[{\"text\":\"x\",\"finish_reason\":\"stop\"}]}\n\n".to_vec();
    let refused =
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nslow".to_vec();
    vec![chat, ollama, messages, until_close, refused]
}

#[test]
fn given_any_stream_when_it_is_cut_anywhere_then_the_same_is_seen() {
    for stream in streams() {
        let whole = read(&stream, &[]);
        for at in 1..stream.len() {
            assert_eq!(
                seen(&read(&stream, &[at])),
                seen(&whole),
                "cut at {at} of {}",
                String::from_utf8_lossy(&stream)
            );
        }
        let everywhere: Vec<usize> = (1..stream.len()).collect();
        assert_eq!(seen(&read(&stream, &everywhere)), seen(&whole));
    }
}

#[test]
fn given_the_streams_of_several_apis_when_read_then_text_usage_and_ends_are_theirs() {
    let ends = [
        (Ending::Whole, Finish::ToolCalls as u8, 3, 9, 2, "hmgrü\n😀ßf{}"),
        (Ending::Whole, Finish::Length as u8, 4, 2, -1, "ab"),
        (Ending::Whole, Finish::Length as u8, 5, 6, -1, "hi"),
        (Ending::Whole, Finish::Stop as u8, -1, -1, -1, "x"),
        (Ending::Status, 0, -1, -1, -1, ""),
    ];
    for (stream, (ending, finish, prompt, completion, cached, text)) in streams().iter().zip(ends) {
        let found = read(stream, &[]);
        let o = &found.outcome;
        assert_eq!((o.ending, o.finish, o.prompt_tokens, o.completion_tokens), (ending, finish, prompt, completion));
        assert_eq!((o.cached_tokens, found.text.as_deref()), (cached, Some(text)));
    }
}

#[test]
fn given_any_stream_when_its_end_is_missing_then_it_is_not_whole() {
    for stream in &streams()[..3] {
        // Up to the last event but one.
        let text = String::from_utf8_lossy(stream);
        let last = text.rfind("\r\n0\r\n").and_then(|end| text[..end].rfind(";x=y")).unwrap() - 4;
        for to in 1..last {
            assert_ne!(read(&stream[..to], &[]).outcome.ending, Ending::Whole, "{to}: {}", &text[..to]);
        }
    }
}

#[test]
fn given_damaged_bytes_when_read_then_nothing_panics_and_an_ending_is_told() {
    let streams = streams();
    for n in 0..20_000 {
        let mut random = Random::of(11, n);
        let mut pick = |below: usize| ((random.uniform() * below as f64) as usize).min(below - 1);
        let mut bytes = streams[pick(streams.len())].clone();
        for _ in 0..=pick(4) {
            let at = pick(bytes.len());
            match pick(3) {
                0 => bytes[at] = pick(256) as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"\r\n:;0f{\"[\xff"[pick(10)]),
            }
        }
        let cuts = [pick(bytes.len()), pick(bytes.len())];
        let found = read(&bytes, &[cuts[0].min(cuts[1]), cuts[0].max(cuts[1])]);
        assert!(found.outcome.ending == Ending::Whole || found.detail.is_some());
    }
}

#[test]
fn given_shapes_of_engines_when_read_then_they_are_understood() {
    let cases: &[(&str, &str, Option<u32>, Option<Finish>)] = &[
        (r#"{"type":"response.output_text.delta","delta":"a"}"#, "a", None, None),
        (r#"{"type":"response.created","response":{"status":"in_progress","usage":null}}"#, "", None, None),
        (
            r#"{"type":"response.incomplete","response":{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"usage":{"input_tokens":1,"output_tokens":8}}}"#,
            "",
            Some(8),
            Some(Finish::Length),
        ),
        (
            r#"{"object":"response","status":"completed","output":[{"content":[{"text":"ab"}]}],"usage":{"output_tokens":2}}"#,
            "ab",
            Some(2),
            Some(Finish::Stop),
        ),
        (
            r#"{"type":"message","content":[{"type":"text","text":"ab"}],"stop_reason":"end_turn","usage":{"output_tokens":2}}"#,
            "ab",
            Some(2),
            Some(Finish::Stop),
        ),
        (r#"{"type":"ping"}"#, "", None, None),
        (r#"{"token":{"text":" a","special":false},"generated_text":null,"details":null}"#, " a", None, None),
        (
            r#"{"token":{"text":"</s>","special":true},"generated_text":" a","details":{"finish_reason":"eos_token","generated_tokens":3}}"#,
            "",
            Some(3),
            Some(Finish::Stop),
        ),
        (r#"{"text_output":"a","model_name":"m"}"#, "a", None, None),
        (r#"{"content":"a","stop":false}"#, "a", None, None),
        (
            r#"{"content":"","stop":true,"stop_type":"limit","tokens_predicted":5,"tokens_evaluated":2}"#,
            "",
            Some(5),
            Some(Finish::Length),
        ),
        (
            r#"{"response":"a","done":true,"done_reason":"stop","prompt_eval_count":1,"eval_count":4}"#,
            "a",
            Some(4),
            Some(Finish::Stop),
        ),
        (r#"{"choices":[{"message":{"content":[{"type":"text","text":"a"}]}}]}"#, "a", None, None),
    ];
    for (event, text, completion, finish) in cases {
        let said = answer::read(event.as_bytes()).unwrap_or_else(|why| panic!("{event}: {why}"));
        let found = (said.text.as_ref(), said.usage.and_then(|usage| usage.completion), said.finish);
        assert_eq!(found, (*text, *completion, *finish), "{event}");
    }
    for event in [r#"{"error":{"message":"no"}}"#, r#"{"type":"error","error":{"message":"no"}}"#, r#"{"error":"no"}"#]
    {
        assert_eq!(answer::read(event.as_bytes()).unwrap().error.as_deref(), Some("no"), "{event}");
    }
    for event in ["", "{", "[]", "7", r#"{"a":1}"#, r#"{"choices":7}"#, r#"{"choices":[{"text":7}]}"#] {
        assert!(answer::read(event.as_bytes()).is_err(), "{event}");
    }
}

#[test]
fn given_heads_that_are_wrong_when_read_then_they_are_refused() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(70_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(300));
    let wrong = [
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab",
        &long,
        &many,
    ];
    for head in wrong {
        let found = Reader::default().feed(head.as_bytes(), |_, _| ());
        assert!(found.is_err(), "{}", &head[..head.len().min(100)]);
    }
}

#[test]
fn given_bytes_after_an_answer_when_read_then_it_stands_and_its_connection_is_not_used_again() {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 37\r\nConnection: keep-alive, x\r\n\r\n";
    let body = r#"{"choices":[{"text":"a","x":"yyyyy"}]}"#;
    let exact = format!("{}{}", head.replace("37", &body.len().to_string()), body);
    let mut clean = job();
    assert_eq!(clean.feed(1, exact.as_bytes()), Some(true));
    let mut stray = job();
    assert_eq!(stray.feed(1, format!("{exact}HTTP").as_bytes()), Some(false));
    assert_eq!(stray.finished(2).outcome.ending, Ending::Whole);
}

#[test]
fn given_an_answer_without_length_when_the_server_closes_then_its_kind_is_known() {
    let mut reader = Reader::default();
    let mut body = Vec::new();
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Type: Application/X-NDJSON\r\nConnection: Close, te\r\n\r\nabc";
    reader.feed(bytes, |_, piece| body.extend_from_slice(piece)).unwrap();
    assert!(!reader.done());
    assert!(reader.close());
    let head = reader.head().unwrap();
    assert_eq!((head.kind, head.keep_alive, body.as_slice()), (Kind::Lines, false, b"abc".as_slice()));
}
