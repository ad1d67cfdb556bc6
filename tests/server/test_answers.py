"""What a client gets back: texts, choices, usage, log probabilities, finish reasons, whole and streamed."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock.engine.types import PositionLogprobs, TokenLogprob
from penstock.models.chat_template import ChatTemplate
from penstock.models.tokenizer_parts import enclosing_processor
from penstock.server.logprobs import CompletionLogprobsWriter, chat_logprobs
from support.asking import CHAT, COMPLETIONS, ask, error_of, events
from support.chat_templates import QWEN_STYLE
from support.fake_engine import FakeEngine
from support.tiny_chat import TEMPLATE

if TYPE_CHECKING:
    from pathlib import Path

GREEDY = {"temperature": 0}


@pytest.fixture
def engine(echo_model: Path) -> FakeEngine:
    return FakeEngine(echo_model)


def chat(content: Any = "hello", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **GREEDY, **fields}


def prompt_of(engine: FakeEngine) -> str:
    """What the engine was given, as text."""
    return engine.tokenizer.decode(engine.added[-1].prompt_token_ids, skip_special_tokens=False)


# --- chat ---


@pytest.mark.proves(
    chat="messages",
    ChatCompletion="id object created model system_fingerprint choices usage",
    ChatChoice="index message finish_reason",
    AssistantMessage="role content refusal",
    Usage="prompt_tokens completion_tokens total_tokens",
)
def test_a_chat_answer_has_openais_shape_and_true_counts(engine: FakeEngine) -> None:
    body = ask(engine, "POST", CHAT, chat("héllo")).json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "Echo-1B"
    assert body["system_fingerprint"].startswith("fp_")
    assert abs(body["created"] - time.time()) < 60
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "user\nhéllo\nassistant\n", "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    usage = body["usage"]
    assert usage["prompt_tokens"] == len(engine.added[0].prompt_token_ids)
    assert usage["completion_tokens"] == len("user\nhéllo\nassistant\n".encode()) + 1  # and end of text
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.proves(chat="max_tokens max_completion_tokens", ChatChoice="finish_reason")
def test_finish_reason_is_length_where_the_answer_was_cut(engine: FakeEngine) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        [choice] = ask(engine, "POST", CHAT, chat(**{field: 4})).json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("user", "length")


@pytest.mark.proves(chat="stop include_stop_str_in_output", ChatChoice="stop_reason", ChatChunkChoice="stop_reason")
def test_a_stop_string_ends_the_answer_and_is_named(engine: FakeEngine) -> None:
    [choice] = ask(engine, "POST", CHAT, chat(stop=["zzz", "llo"])).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == ("user\nhe", "stop", "llo")
    [choice] = ask(engine, "POST", CHAT, chat(stop="llo", include_stop_str_in_output=True)).json()["choices"]
    assert choice["message"]["content"] == "user\nhello"
    *_, last = events(ask(engine, "POST", CHAT, chat(stop="llo", stream=True)).text)[:-1]
    assert (last["choices"][0]["finish_reason"], last["choices"][0]["stop_reason"]) == ("stop", "llo")
    [choice] = ask(engine, "POST", COMPLETIONS, {"prompt": "hello", "stop": "llo", **GREEDY}).json()["choices"]
    assert (choice["text"], choice["stop_reason"]) == ("he", "llo")


@pytest.mark.proves(Usage="prompt_tokens_details", PromptTokensDetails="cached_tokens")
def test_cached_prompt_tokens_are_reported(engine: FakeEngine) -> None:
    engine.cached_tokens = 16
    usage = ask(engine, "POST", CHAT, chat(n=2)).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 16}


@pytest.mark.proves(
    chat=(
        "temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty seed min_tokens "
        "max_tokens ignore_eos include_stop_str_in_output skip_special_tokens prompt_logprobs logit_bias stop "
        "stop_token_ids priority cache_salt speculation"
    ),
    completions=(
        "temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty seed min_tokens "
        "max_tokens ignore_eos include_stop_str_in_output skip_special_tokens prompt_logprobs logit_bias stop "
        "stop_token_ids priority cache_salt speculation"
    ),
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_every_sampling_field_reaches_the_engine(engine: FakeEngine, path: str) -> None:
    asked = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "presence_penalty": 0.2, "frequency_penalty": 0.3,
        "repetition_penalty": 1.1, "seed": 11, "min_tokens": 2, "max_tokens": 3, "ignore_eos": True,
        "include_stop_str_in_output": True, "skip_special_tokens": False, "prompt_logprobs": 2, "speculation": "off",
    }  # fmt: skip
    more = {"logit_bias": {"7": -1.5}, "stop": "x", "stop_token_ids": [9], "priority": -3, "cache_salt": "tenant"}
    own = chat(logprobs=True, top_logprobs=4) if path == CHAT else {"prompt": "hello", "logprobs": 4}
    assert ask(engine, "POST", path, {**own, **asked, **more}).status_code == 200
    [request] = engine.added
    assert {name: getattr(request.params, name) for name in asked} == asked
    params = request.params
    assert (params.logit_bias, params.stop, params.stop_token_ids, params.logprobs) == ({7: -1.5}, ("x",), (9,), 4)
    assert (request.priority, request.cache_salt) == (-3, "tenant")


def test_defaults_are_openais(engine: FakeEngine) -> None:
    ask(engine, "POST", CHAT, {"messages": [{"role": "user", "content": "a"}]})
    ask(engine, "POST", COMPLETIONS, {"prompt": "a"})
    of_chat, of_completion = (request.params for request in engine.added)
    assert (of_chat.temperature, of_chat.top_p, of_chat.max_tokens) == (1.0, 1.0, None)
    assert (of_completion.temperature, of_completion.top_p, of_completion.max_tokens) == (1.0, 1.0, 16)


@pytest.mark.proves(chat="messages", Message="role content", ContentPart="type text")
def test_messages_become_the_models_own_format(engine: FakeEngine) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
    ]
    assert ask(engine, "POST", CHAT, {"messages": messages}).status_code == 200
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\none\ntwo<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_of(engine) == expected


@pytest.mark.proves(chat="continue_final_message add_generation_prompt")
def test_a_conversation_may_go_on_where_its_last_message_ends(engine: FakeEngine) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The answer is "}]
    assert ask(engine, "POST", CHAT, {"messages": messages, "continue_final_message": True}).status_code == 200
    assert prompt_of(engine).endswith("<|im_start|>assistant\nThe answer is")
    ask(engine, "POST", CHAT, {"messages": messages, "add_generation_prompt": False})
    assert prompt_of(engine).endswith("The answer is <|im_end|>\n")


@pytest.mark.proves(
    Message="tool_calls tool_call_id reasoning_content name", ToolCall="id type function", FunctionCall="name arguments"
)
def test_tool_calls_of_the_past_are_rendered_with_their_arguments_as_an_object(engine: FakeEngine) -> None:
    seen = []
    engine.chat_template = ChatTemplate({"default": QWEN_STYLE}, {}, "a template that knows of calls")
    render = engine.chat_template.render
    engine.chat_template.render = lambda messages, **options: seen.extend(messages) or render(messages, **options)  # type: ignore[method-assign]
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    odd = {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "[" * 100}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call, odd], "reasoning_content": "f knows"},
        {"role": "tool", "content": "2", "tool_call_id": "c1", "name": "f"},
    ]
    assert ask(engine, "POST", CHAT, {"messages": messages}).status_code == 200
    seen = seen[-3:]  # what comes before are questions to the template
    assert seen[1]["reasoning_content"] == "f knows"
    assert seen[1]["tool_calls"][0] == {**call, "function": {"name": "f", "arguments": {"x": 1}}}
    assert seen[1]["tool_calls"][1]["function"]["arguments"] == "[" * 100
    assert (seen[2]["tool_call_id"], seen[2]["name"]) == ("c1", "f")
    odd["function"]["arguments"] = "[" * 100_000  # type: ignore[index]
    response = ask(engine, "POST", CHAT, {"messages": messages})
    assert (response.status_code, error_of(response)["code"]) == (400, "context_length_exceeded")


def test_a_model_without_a_template_says_so(engine: FakeEngine) -> None:
    engine.chat_template = None
    response = ask(engine, "POST", CHAT, chat())
    assert (response.status_code, error_of(response)["code"]) == (400, "no_chat_template")
    assert ask(engine, "POST", COMPLETIONS, {"prompt": "a"}).status_code == 200


@pytest.mark.proves(
    chat="logprobs top_logprobs",
    ChatChoice="logprobs",
    ChatLogprobs="content refusal",
    ChatLogprob="token logprob bytes top_logprobs",
    TopLogprob="token logprob bytes",
)
def test_chat_log_probabilities_have_tokens_bytes_and_alternatives(engine: FakeEngine) -> None:
    [choice] = ask(engine, "POST", CHAT, chat(logprobs=True, top_logprobs=2, max_tokens=2)).json()["choices"]
    first, second = choice["logprobs"]["content"]
    assert (first["token"], first["bytes"], first["logprob"]) == ("u", [117], -0.7)
    assert first["top_logprobs"][1] == {"token": "v", "logprob": -1.4, "bytes": [118]}
    assert [top["token"] for top in first["top_logprobs"]] == ["u", "v"]
    assert second["token"] == "s"
    [plain] = ask(engine, "POST", CHAT, chat(logprobs=True, max_tokens=1)).json()["choices"]
    assert plain["logprobs"]["content"][0]["top_logprobs"] == []
    assert plain["logprobs"]["refusal"] is None


@pytest.mark.proves(
    chat="prompt_logprobs",
    completions="prompt_logprobs",
    ChatCompletion="prompt_logprobs",
    CompletionChoice="prompt_logprobs",
    PromptLogprob="logprob rank decoded_token",
)
def test_prompt_log_probabilities_are_by_token_id_and_the_first_is_null(engine: FakeEngine) -> None:
    body = ask(engine, "POST", CHAT, chat(prompt_logprobs=1, max_tokens=1)).json()
    ids = engine.added[0].prompt_token_ids
    assert len(body["prompt_logprobs"]) == len(ids)
    assert body["prompt_logprobs"][0] is None
    assert body["prompt_logprobs"][1] == {str(ids[1]): {"logprob": -0.7, "rank": 1, "decoded_token": "u"}}
    [choice] = ask(engine, "POST", COMPLETIONS, {"prompt": "ab", "prompt_logprobs": 1}).json()["choices"]
    assert choice["prompt_logprobs"] == [None, {"70": {"logprob": -0.7, "rank": 1, "decoded_token": "b"}}]


# --- completions ---


@pytest.mark.proves(
    completions="prompt",
    Completion="id object created model system_fingerprint choices usage",
    CompletionChoice="index text logprobs finish_reason stop_reason",
)
@pytest.mark.parametrize("prompt", ["abc", ["abc"], [69, 70, 71], [[69, 70, 71]]])
def test_a_prompt_may_be_text_or_token_ids_alone_or_in_a_list(engine: FakeEngine, prompt: Any) -> None:
    body = ask(engine, "POST", COMPLETIONS, {"prompt": prompt, **GREEDY}).json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["model"] == "Echo-1B"
    assert body["system_fingerprint"].startswith("fp_")
    assert abs(body["created"] - time.time()) < 60
    assert body["choices"] == [
        {"index": 0, "text": "abc", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    ]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (3, 4)


@pytest.mark.proves(completions="n stream", CompletionChoice="index")
def test_several_prompts_with_several_choices_keep_their_order(engine: FakeEngine) -> None:
    prompts = [f"{i}-{i}" for i in range(5)]
    for stream in (False, True):
        response = ask(engine, "POST", COMPLETIONS, {"prompt": prompts, "n": 3, "stream": stream, **GREEDY})
        parts = events(response.text)[:-1] if stream else [response.json()]
        texts = [""] * 15
        for part in parts:
            for choice in part["choices"]:
                texts[choice["index"]] += choice["text"]
        assert texts == [prompts[index // 3] for index in range(15)]
    assert response.status_code == 200


@pytest.mark.proves(
    completions="echo logprobs",
    CompletionChoice="logprobs",
    CompletionLogprobs="tokens text_offset token_logprobs top_logprobs",
)
def test_echo_puts_the_prompt_first_with_its_log_probabilities(engine: FakeEngine) -> None:
    body = {"prompt": "aéb", "echo": True, "logprobs": 1, "max_tokens": 2, **GREEDY}
    [choice] = ask(engine, "POST", COMPLETIONS, body).json()["choices"]
    assert choice["text"] == "aéba\ufffd"
    shown = choice["logprobs"]
    assert shown["tokens"] == ["a", "bytes:\\xc3", "bytes:\\xa9", "b", "a", "bytes:\\xc3"]
    assert shown["text_offset"] == [0, 1, 1, 2, 3, 4]
    assert shown["token_logprobs"] == [None, -0.7, -0.7, -0.7, -0.7, -0.7]
    assert shown["top_logprobs"][0] is None
    assert shown["top_logprobs"][3] == {"b": -0.7}


@pytest.mark.proves(completions="max_tokens echo")
def test_scoring_a_prompt_generates_nothing(engine: FakeEngine) -> None:
    body = {"prompt": "abc", "echo": True, "logprobs": 1, "max_tokens": 0}
    answer = ask(engine, "POST", COMPLETIONS, body).json()
    [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("abc", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -0.7, -0.7]
    assert answer["usage"]["completion_tokens"] == 0


def test_streamed_echo_and_log_probabilities_add_up_to_the_whole(engine: FakeEngine) -> None:
    body = {"prompt": ["xyz", "añb"], "echo": True, "logprobs": 2, "max_tokens": 5, **GREEDY}
    whole = ask(engine, "POST", COMPLETIONS, body).json()["choices"]
    streamed = events(ask(engine, "POST", COMPLETIONS, {**body, "stream": True}).text)[:-1]
    for index, expected in enumerate(whole):
        parts = [choice for part in streamed for choice in part["choices"] if choice["index"] == index]
        assert "".join(part["text"] for part in parts) == expected["text"]
        for name, values in expected["logprobs"].items():
            assert [value for part in parts for value in part["logprobs"][name]] == values


def test_an_echo_of_token_ids_is_their_text(engine: FakeEngine) -> None:
    body = {"prompt": [3, 69, 70, 4], "echo": True, "max_tokens": 1, **GREEDY}
    assert ask(engine, "POST", COMPLETIONS, body).json()["choices"][0]["text"] == "aba"
    kept = ask(engine, "POST", COMPLETIONS, {**body, "skip_special_tokens": False}).json()["choices"][0]["text"]
    assert kept == "<|im_start|>ab<|im_end|>a"


def test_an_impossible_token_has_a_finite_log_probability(engine: FakeEngine) -> None:
    banned = TokenLogprob(69, -math.inf, 320)
    undefined = TokenLogprob(70, math.nan, 1)
    position = PositionLogprobs(banned, [undefined])
    [shown] = chat_logprobs(engine.tokenizer, [position], 1).content
    assert (shown.logprob, shown.top_logprobs[0].logprob) == (-9999.0, -9999.0)
    written = CompletionLogprobsWriter(engine.tokenizer, top=1, skipped=frozenset()).write([69], [position])
    assert written.token_logprobs == [-9999.0]


@pytest.mark.proves(CompletionLogprobs="top_logprobs")
def test_two_tokens_of_the_same_text_stay_two_candidates(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.tokenizer, "token_bytes", lambda token: b"A" if token in {70, 71} else b"B")
    likeliest, alike, other = TokenLogprob(70, -0.5, 1), TokenLogprob(71, -3.0, 7), TokenLogprob(69, -1.0, 2)
    writer = CompletionLogprobsWriter(engine.tokenizer, top=2, skipped=frozenset())
    shown = writer.write(
        [71, 70], [PositionLogprobs(alike, [likeliest, other]), PositionLogprobs(likeliest, [likeliest])]
    )
    assert shown.top_logprobs == [{"A": -0.5, "B": -1.0, "bytes:\\x41": -3.0}, {"A": -0.5}]


# --- streams ---


@pytest.mark.proves(
    chat="stream",
    ChatChunk="id object created model system_fingerprint choices",
    ChatChunkChoice="delta finish_reason",
    Delta="role content",
)
def test_a_chat_stream_is_role_then_text_then_reason_then_done(engine: FakeEngine) -> None:
    response = ask(engine, "POST", CHAT, chat(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    heads = {(chunk["id"], chunk["created"], chunk["model"], chunk["system_fingerprint"]) for chunk in chunks}
    [(_, created, model, fingerprint)] = heads
    assert abs(created - time.time()) < 60
    assert (model, fingerprint[:3]) == ("Echo-1B", "fp_")
    assert chunks[0]["id"] == response.headers["x-request-id"]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "user\nhello\nassistant\n"
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert all("usage" not in chunk for chunk in chunks)


def test_a_stream_never_splits_a_character(engine: FakeEngine) -> None:
    chunks = events(ask(engine, "POST", CHAT, chat("日本語 👩‍🚀", stream=True)).text)[:-1]
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(pieces) == "user\n日本語 👩‍🚀\nassistant\n"
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.proves(chat="n", ChatChunkChoice="index")
def test_each_choice_of_a_stream_has_its_own_role_and_reason(engine: FakeEngine) -> None:
    chunks = events(ask(engine, "POST", CHAT, chat(stream=True, n=3)).text)[:-1]
    for index in range(3):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content", "") for choice in own) == "user\nhello\nassistant\n"
        assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == ["stop"]


@pytest.mark.proves(
    chat="stream_options",
    completions="stream_options",
    StreamOptions="include_usage continuous_usage_stats",
    ChatChunk="usage",
    Completion="usage",
)
@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, {"prompt": "hello", **GREEDY})])
def test_usage_comes_last_if_asked_for_and_with_each_chunk_if_asked_for_that(
    engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    whole = ask(engine, "POST", path, body).json()["usage"]
    *chunks, last = events(
        ask(engine, "POST", path, {**body, "stream": True, "stream_options": {"include_usage": True}}).text
    )[:-1]
    assert (last["choices"], last["usage"]) == ([], whole)
    assert all(chunk["usage"] is None for chunk in chunks)
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = events(ask(engine, "POST", path, {**body, "stream": True, "stream_options": options}).text)[:-1]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert last["usage"] == whole


@pytest.mark.proves(ChatChunkChoice="logprobs")
def test_a_chat_stream_carries_the_log_probabilities_of_its_tokens(engine: FakeEngine) -> None:
    body = chat("é", logprobs=True, top_logprobs=1, max_tokens=8)
    [whole] = ask(engine, "POST", CHAT, body).json()["choices"]
    chunks = events(ask(engine, "POST", CHAT, {**body, "stream": True}).text)[:-1]
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["delta"].get("role") is None]
    assert [entry for part in parts for entry in part["content"]] == whole["logprobs"]["content"]


# --- tokens ---


@pytest.mark.proves(
    tokenize="prompt return_token_strs",
    Tokenized="count max_model_len tokens token_strs",
    detokenize="tokens",
    Detokenized="prompt",
)
def test_tokenize_and_detokenize_are_inverse(engine: FakeEngine) -> None:
    text = "héllo <|im_end|> 👋"
    body = ask(engine, "POST", "/tokenize", {"prompt": text, "return_token_strs": True}).json()
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"])
    assert body["max_model_len"] == engine.info.max_model_len
    assert "<|im_end|>" in body["token_strs"]
    assert ask(engine, "POST", "/detokenize", {"tokens": body["tokens"]}).json() == {"prompt": text}


@pytest.mark.proves(tokenize="messages")
def test_tokenize_counts_messages_as_chat_does(engine: FakeEngine) -> None:
    used = ask(engine, "POST", CHAT, chat()).json()["usage"]["prompt_tokens"]
    body = ask(engine, "POST", "/tokenize", {"messages": chat()["messages"]}).json()
    assert (body["count"], body["token_strs"]) == (used, None)


@pytest.mark.proves(tokenize="add_generation_prompt continue_final_message")
def test_tokenize_renders_messages_as_it_is_told(engine: FakeEngine) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The answer"}]

    def rendered(**fields: Any) -> str:
        tokens = ask(engine, "POST", "/tokenize", {"messages": messages, **fields}).json()["tokens"]
        return engine.tokenizer.decode(tokens, skip_special_tokens=False)

    assert rendered().endswith("The answer<|im_end|>\n<|im_start|>assistant\n")
    assert rendered(add_generation_prompt=False).endswith("The answer<|im_end|>\n")
    assert rendered(continue_final_message=True).endswith("The answer")


@pytest.mark.proves(chat="chat_template_kwargs", tokenize="chat_template_kwargs")
@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
def test_variables_for_the_template_reach_it(engine: FakeEngine, path: str) -> None:
    variables: list[dict[str, Any]] = []
    assert engine.chat_template is not None
    render = engine.chat_template.render
    engine.chat_template.render = lambda turns, **given: variables.append(given) or render(turns, **given)  # type: ignore[method-assign]
    body = {"messages": chat()["messages"], "chat_template_kwargs": {"enable_thinking": False}}
    assert ask(engine, "POST", path, body).status_code == 200
    assert variables == [{"tools": None, "add_generation_prompt": True, "enable_thinking": False}]


@pytest.mark.proves(chat="add_special_tokens", completions="add_special_tokens", tokenize="add_special_tokens")
def test_special_tokens_go_round_a_prompt_but_not_round_a_template_unless_asked_for(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    special: list[bool] = []
    encode = engine.tokenizer.encode

    def spy(text: str, *, add_special_tokens: bool) -> list[int]:
        special.append(add_special_tokens)
        return encode(text, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(engine.tokenizer, "encode", spy)
    messages = {"messages": chat()["messages"]}
    for path, body in (
        (CHAT, messages),
        ("/tokenize", messages),
        (COMPLETIONS, {"prompt": "a"}),
        ("/tokenize", {"prompt": "a"}),
    ):
        for more in ({}, {"add_special_tokens": True}, {"add_special_tokens": False}):
            assert ask(engine, "POST", path, {**body, **more}).status_code == 200
    assert special == [False, True, False] * 2 + [True, True, False] * 2


def test_long_texts_go_the_same_way_in_a_thread(engine: FakeEngine) -> None:
    text = "word " * 1500
    tokens = ask(engine, "POST", "/tokenize", {"prompt": text, "return_token_strs": True}).json()
    assert "".join(tokens["token_strs"]) == text
    assert ask(engine, "POST", "/detokenize", {"tokens": tokens["tokens"]}).json()["prompt"] == text


@pytest.mark.proves(
    tokenizer_info="model",
    TokenizerInfo=(
        "tokenizer_class vocab_size model_max_length add_bos_token add_eos_token bos_token eos_token unk_token "
        "pad_token sep_token cls_token mask_token additional_special_tokens chat_template"
    ),
)
def test_the_tokenizer_is_described_as_its_own_files_do(engine: FakeEngine) -> None:
    assert ask(engine, "GET", "/tokenizer_info?model=Echo-1B").json() == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "vocab_size": 320,
        "model_max_length": engine.info.max_model_len,
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": None,
        "sep_token": None,
        "cls_token": None,
        "mask_token": None,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "chat_template": TEMPLATE,
    }
    assert error_of(ask(engine, "GET", "/tokenizer_info?model=x"))["code"] == "model_not_found"


@pytest.mark.proves(TokenizerInfo="add_bos_token add_eos_token eos_token chat_template")
def test_the_tokenizers_description_says_what_is_put_around_texts(engine: FakeEngine) -> None:
    tokenizer = engine.tokenizer
    tokenizer._backend.post_processor = enclosing_processor(("<s>", 1), ("</s>", 2))
    tokenizer.named_tokens = {"bos_token": "<s>"}
    engine.chat_template = None
    info = ask(engine, "GET", "/tokenizer_info").json()
    assert (info["add_bos_token"], info["add_eos_token"]) == (True, True)
    assert (info["eos_token"], info["chat_template"]) == ("</s>", None), "the end of text has no name, but an id"
    tokenizer._backend.post_processor = enclosing_processor(None, ("</s>", 2))
    info = ask(engine, "GET", "/tokenizer_info").json()
    assert (info["add_bos_token"], info["add_eos_token"]) == (False, True)


# --- models ---


@pytest.mark.proves(
    chat="model",
    completions="model",
    tokenize="model",
    detokenize="model",
    model="model",
    ModelList="object data",
    ModelCard="id object created owned_by root max_model_len",
    ChatCompletion="model",
)
def test_the_served_name_and_aliases_are_accepted_and_echoed(engine: FakeEngine) -> None:
    names = {"served_model_name": "org/echo", "aliases": ["gpt-3.5-turbo", "gpt-4o"]}
    listed = ask(engine, "GET", "/v1/models", **names).json()
    assert [card["id"] for card in listed["data"]] == ["org/echo", "gpt-3.5-turbo", "gpt-4o"]
    assert {card["root"] for card in listed["data"]} == {"org/echo"}
    card = {"object": "model", "owned_by": "penstock", "max_model_len": engine.info.max_model_len}
    assert (listed["object"], {**listed["data"][0], **card}) == ("list", listed["data"][0])
    assert abs(listed["data"][0]["created"] - time.time()) < 60
    for path, body in ((COMPLETIONS, {"prompt": "a"}), ("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": []})):
        statuses = [ask(engine, "POST", path, {**body, "model": name}, **names).status_code for name in ("gpt-4o", "x")]
        assert statuses == [200, 404]
    for name in ("org/echo", "gpt-4o"):
        assert ask(engine, "GET", f"/v1/models/{name}", **names).json()["id"] == name
        assert ask(engine, "POST", CHAT, chat(model=name), **names).json()["model"] == name
    assert ask(engine, "POST", CHAT, chat(), **names).json()["model"] == "org/echo"
    assert ask(engine, "POST", CHAT, chat(model="Echo-1B"), **names).status_code == 404
    assert error_of(ask(engine, "GET", "/v1/models/nope", **names))["code"] == "model_not_found"
