"""Whatever a client sends wrongly gets a 4xx in OpenAI's shape that names the field, and leaves others alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import InvalidRequestError
from penstock.server.body import BodyReader
from penstock.server.manifest import generation
from penstock.server.manifest.field import Field
from penstock.server.requests import ChatRequest
from support.asking import CHAT, COMPLETIONS, ask, error_of
from support.fake_engine import CONTEXT, FakeEngine

if TYPE_CHECKING:
    from pathlib import Path

USER = {"role": "user", "content": "hello"}
PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
HUGE = 10**40


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER], **fields}


def turns(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def text(**fields: Any) -> dict[str, Any]:
    return {"prompt": "hello", **fields}


# path, body, what the message says there is instead
CHOICES: list[tuple[str, Any, str]] = [
    (CHAT, turns({"role": "usr", "content": "a"}), "'usr' is none of system, developer, user, assistant, tool."),
    (CHAT, chat(tool_choice="any"), "'any' is none of none, auto, required."),
    (CHAT, chat(response_format={"type": "json"}), "'json' is none of text, json_object, json_schema."),
    (CHAT, chat(speculation="medusa"), "'medusa' is none of off, ngram, draft."),
]
# path, body, the field named, the code
BAD_FIELDS: list[tuple[str, Any, str | None, str]] = [
    (CHAT, {}, "messages", "missing_field"),
    (CHAT, [], None, "invalid_json"),
    (CHAT, "text", None, "invalid_json"),
    (CHAT, None, None, "invalid_json"),
    (CHAT, turns(), "messages", "invalid_value"),
    (CHAT, {"messages": {}}, "messages", "invalid_value"),
    (CHAT, {"messages": None}, "messages", "invalid_value"),
    (CHAT, turns("hello"), "messages[0]", "invalid_value"),
    (CHAT, turns({"content": "a"}), "messages[0].role", "missing_field"),
    (CHAT, turns({"role": "wizard", "content": "a"}), "messages[0].role", "invalid_value"),
    (CHAT, turns({"role": "user"}), "messages[0].content", "missing_field"),
    (CHAT, turns(USER, {"role": "user", "content": None}), "messages[1].content", "missing_field"),
    (CHAT, turns({"role": "user", "content": 5}), "messages[0].content", "invalid_value"),
    (CHAT, turns({"role": "user", "content": [PNG]}), "messages[0].content[0].type", "unsupported_content"),
    (
        CHAT,
        turns({"role": "user", "content": [{"type": "text", "text": "a"}, AUDIO]}),
        "messages[0].content[1].type",
        "unsupported_content",
    ),
    (CHAT, turns({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0].text", "missing_field"),
    (CHAT, turns({"role": "user", "content": ["a"]}), "messages[0].content[0]", "invalid_value"),
    (CHAT, turns({"role": "assistant", "audio": {"id": "a"}}), "messages[0].audio", "unsupported_parameter"),
    (CHAT, turns({"role": "assistant", "function_call": {}}), "messages[0].function_call", "unsupported_parameter"),
    (CHAT, turns({"role": "assistant", "tool_calls": [{}]}), "messages[0].tool_calls[0].function", "missing_field"),
    (CHAT, chat(temperature=-0.1), "temperature", "invalid_value"),
    (CHAT, chat(temperature=2.1), "temperature", "invalid_value"),
    (CHAT, chat(temperature="hot"), "temperature", "invalid_value"),
    (CHAT, chat(temperature=True), "temperature", "invalid_value"),
    (CHAT, chat(temperature=HUGE), "temperature", "invalid_value"),
    (CHAT, chat(top_p=0), "top_p", "invalid_value"),
    (CHAT, chat(top_p=1.01), "top_p", "invalid_value"),
    (CHAT, chat(top_k=-2), "top_k", "invalid_value"),
    (CHAT, chat(top_k=1.5), "top_k", "invalid_value"),
    (CHAT, chat(top_k=HUGE), "top_k", "invalid_value"),
    (CHAT, chat(min_p=-0.1), "min_p", "invalid_value"),
    (CHAT, chat(min_p=1.1), "min_p", "invalid_value"),
    (CHAT, chat(presence_penalty=-2.1), "presence_penalty", "invalid_value"),
    (CHAT, chat(frequency_penalty=2.1), "frequency_penalty", "invalid_value"),
    (CHAT, chat(repetition_penalty=0), "repetition_penalty", "invalid_value"),
    (CHAT, chat(repetition_penalty=11), "repetition_penalty", "invalid_value"),
    (CHAT, chat(n=0), "n", "invalid_value"),
    (CHAT, chat(n=129), "n", "invalid_value"),
    (CHAT, chat(seed=2**63), "seed", "invalid_value"),
    (CHAT, chat(seed=-(2**63) - 1), "seed", "invalid_value"),
    (CHAT, chat(seed=HUGE), "seed", "invalid_value"),
    (CHAT, chat(seed=1.5), "seed", "invalid_value"),
    (CHAT, chat(max_tokens=0), "max_tokens", "invalid_value"),
    (CHAT, chat(max_tokens=-1), "max_tokens", "invalid_value"),
    (CHAT, chat(max_tokens=HUGE), "max_tokens", "invalid_value"),
    (CHAT, chat(max_tokens=CONTEXT), "max_tokens", "context_length_exceeded"),
    (CHAT, chat(max_completion_tokens=CONTEXT), "max_completion_tokens", "context_length_exceeded"),
    (CHAT, chat(max_tokens=1, max_completion_tokens=CONTEXT), "max_completion_tokens", "context_length_exceeded"),
    (CHAT, chat(min_tokens=5, max_tokens=4), "min_tokens", "invalid_value"),
    (CHAT, chat(min_tokens=-1), "min_tokens", "invalid_value"),
    (CHAT, chat(stop=""), "stop", "invalid_value"),
    (CHAT, chat(stop=["a", ""]), "stop[1]", "invalid_value"),
    (CHAT, chat(stop=["a"] * 17), "stop", "invalid_value"),
    (CHAT, chat(stop=["a" * 1001]), "stop[0]", "invalid_value"),
    (CHAT, chat(stop=5), "stop", "invalid_value"),
    (CHAT, chat(stop_token_ids=[320]), "stop_token_ids", "invalid_token_id"),
    (CHAT, chat(stop_token_ids=[-1]), "stop_token_ids[0]", "invalid_value"),
    (CHAT, chat(stop_token_ids=[5] * 129), "stop_token_ids", "invalid_value"),
    (CHAT, chat(logit_bias={"320": 1}), "logit_bias", "invalid_token_id"),
    (CHAT, chat(logit_bias={"-1": 1}), "logit_bias", "invalid_token_id"),
    (CHAT, chat(logit_bias={str(HUGE): 1}), "logit_bias", "invalid_token_id"),
    (CHAT, chat(logit_bias={"5": 101}), "logit_bias", "invalid_value"),
    (CHAT, chat(logit_bias={"hello": 1}), "logit_bias", "invalid_value"),
    (CHAT, chat(logit_bias=[1]), "logit_bias", "invalid_value"),
    (CHAT, chat(logit_bias={str(i): 0 for i in range(1025)}), "logit_bias", "invalid_value"),
    (CHAT, chat(logprobs=3), "logprobs", "invalid_value"),
    (CHAT, chat(top_logprobs=3), "top_logprobs", "invalid_value"),
    (CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs", "invalid_value"),
    (CHAT, chat(prompt_logprobs=21), "prompt_logprobs", "invalid_value"),
    (CHAT, chat(prompt_logprobs=1, stream=True), "prompt_logprobs", "unsupported_parameter"),
    (CHAT, chat(stream="yes"), "stream", "invalid_value"),
    (CHAT, chat(stream_options={"include_usage": True}), "stream_options", "invalid_value"),
    (CHAT, chat(priority=2**31), "priority", "invalid_value"),
    (CHAT, chat(cache_salt=""), "cache_salt", "invalid_value"),
    (CHAT, chat(model=5), "model", "invalid_value"),
    (CHAT, chat(chat_template_kwargs={"messages": []}), "chat_template_kwargs.messages", "invalid_value"),
    (CHAT, chat(chat_template_kwargs={"self": 1}), "chat_template_kwargs.self", "invalid_value"),
    (CHAT, chat(continue_final_message=True, add_generation_prompt=True), "continue_final_message", "invalid_value"),
    (
        CHAT,
        {**turns(USER, {"role": "assistant"}), "continue_final_message": True},
        "continue_final_message",
        "invalid_value",
    ),
    (COMPLETIONS, {}, "prompt", "missing_field"),
    (COMPLETIONS, {"prompt": None}, "prompt", "invalid_value"),
    (COMPLETIONS, {"prompt": ""}, "prompt", "empty_prompt"),
    (COMPLETIONS, {"prompt": []}, "prompt", "empty_prompt"),
    (COMPLETIONS, {"prompt": [[]]}, "prompt", "empty_prompt"),
    (COMPLETIONS, {"prompt": ["a", 5]}, "prompt", "invalid_value"),
    (COMPLETIONS, {"prompt": ["a", [5]]}, "prompt", "invalid_value"),
    (COMPLETIONS, {"prompt": [5, [5]]}, "prompt", "invalid_value"),
    (COMPLETIONS, {"prompt": [True]}, "prompt[0]", "invalid_value"),
    (COMPLETIONS, {"prompt": [320]}, "prompt", "invalid_token_id"),
    (COMPLETIONS, {"prompt": [-1]}, "prompt", "invalid_token_id"),
    (COMPLETIONS, {"prompt": [[5], [HUGE]]}, "prompt", "invalid_token_id"),
    (COMPLETIONS, {"prompt": ["a"] * 9, "n": 128}, "n", "invalid_value"),
    (COMPLETIONS, {"prompt": ["a"] * 1025}, "prompt", "invalid_value"),
    (COMPLETIONS, {"prompt": "a" * CONTEXT}, "prompt", "context_length_exceeded"),
    (COMPLETIONS, {"prompt": ["a", "a" * CONTEXT]}, "prompt[1]", "context_length_exceeded"),
    (COMPLETIONS, text(logprobs=True), "logprobs", "invalid_value"),
    (COMPLETIONS, text(logprobs=21), "logprobs", "invalid_value"),
    (COMPLETIONS, text(max_tokens=-1), "max_tokens", "invalid_value"),
    (COMPLETIONS, text(max_tokens=CONTEXT), "max_tokens", "context_length_exceeded"),
    ("/tokenize", {}, "prompt", "missing_field"),
    ("/tokenize", {"prompt": "a", "messages": [USER]}, "prompt", "missing_field"),
    ("/detokenize", {}, "tokens", "missing_field"),
    ("/detokenize", {"tokens": [320]}, "tokens", "token_out_of_range"),
    ("/detokenize", {"tokens": [HUGE]}, "tokens", "token_out_of_range"),
    ("/detokenize", {"tokens": ["a"]}, "tokens[0]", "invalid_value"),
]

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, chat(functions=[{"name": "f"}]), "functions"),
    (CHAT, chat(function_call={"name": "f"}), "function_call"),
    (CHAT, chat(modalities=["text", "audio"]), "modalities"),
    (CHAT, chat(audio={"voice": "a"}), "audio"),
    (CHAT, chat(web_search_options={}), "web_search_options"),
    (CHAT, chat(logits_processors=["a"]), "logits_processors"),
    (CHAT, chat(chat_template="{{ messages }}"), "chat_template"),
    (CHAT, chat(truncate_prompt_tokens=5), "truncate_prompt_tokens"),
    (COMPLETIONS, text(best_of=2), "best_of"),
    (COMPLETIONS, text(suffix="end"), "suffix"),
    (COMPLETIONS, text(use_beam_search=True), "use_beam_search"),
]

HARMLESS: list[dict[str, Any]] = [
    chat(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="none"),
    chat(functions=[{"name": "f"}], function_call="none"),
    chat(tools=[], functions=None, tool_choice="auto"),
    chat(response_format={"type": "text"}),
    chat(modalities=["text"]),
    chat(n=None, temperature=None, stop=None, logit_bias=None, seed=None, stream=None, stop_token_ids=None),
    chat(user="u", metadata={"a": "b"}, store=True, service_tier="auto", parallel_tool_calls=True),
    chat(best_of=1),
    chat(stop=[]),
    chat(temperature=2, top_p=1, top_k=-1, min_p=1),
    chat(seed=-(2**63)),
    chat(seed=2**63 - 1, n=128, max_tokens=1),
]

# not JSON that a text could be made of
BROKEN_BODIES = {
    "nothing": b"",
    "no JSON": b"hello",
    "cut off": b'{"messages": [{"role": "user", "content": "hel',
    "a number that isn't one": b'{"messages": [], "temperature": NaN}',
    "infinity": b'{"messages": [], "temperature": -Infinity}',
    "a lone surrogate": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "a reversed pair": b'{"messages": [{"role": "user", "content": "\\udc00\\ud800"}]}',
    "broken UTF-8 in a text": b'{"messages": [{"role": "user", "content": "\xff"}]}',
    "broken UTF-8 in a field nobody reads": b'{"messages": [{"role": "user", "content": "a"}], "x": "\xc3("}',
    "an encoded surrogate": b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
    "UTF-16": json.dumps(chat()).encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(chat()).encode(),
    "depth": b'{"messages": ' + b"[" * 200_000,
    "depth in a field nobody reads": b'{"messages": [], "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "depth in a refused field": b'{"messages": [], "documents": ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001,
    "depth in template variables": b'{"messages": [], "chat_template_kwargs": {"a": ' + b"[" * 100_000,
    "trailing text": json.dumps(chat()).encode() + b"}",
    "a number out of range": b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
    "a refused number out of range": b'{"messages": [{"role": "user", "content": "a"}], "audio": 1e999}',
    "thousands of digits": b'{"messages": [{"role": "user", "content": "a"}], "seed": ' + b"9" * 5000 + b"}",
}


@pytest.fixture
def engine(echo_model: Path) -> FakeEngine:
    return FakeEngine(echo_model)


@pytest.mark.proves(ErrorBody="error", ErrorDetail="message type param code", Message="audio function_call")
@pytest.mark.parametrize(("path", "body", "said"), CHOICES)
def test_a_value_that_is_none_of_a_few_is_told_which_there_are(
    echo_model: Path, path: str, body: Any, said: str
) -> None:
    assert said in error_of(ask(FakeEngine(echo_model), "POST", path, body))["message"]


@pytest.mark.parametrize(
    ("path", "body", "param", "code"), BAD_FIELDS, ids=[f"{i}-{row[2]}" for i, row in enumerate(BAD_FIELDS)]
)
def test_a_wrong_field_is_named(engine: FakeEngine, path: str, body: Any, param: str | None, code: str) -> None:
    response = ask(engine, "POST", path, json.dumps(body).encode())
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (400, param, code), error
    assert error["type"] == "invalid_request_error"
    assert not engine.added, "nothing may reach the engine"


@pytest.mark.parametrize(("path", "body", "field"), REFUSED, ids=[row[2] for row in REFUSED])
def test_a_field_that_would_change_the_meaning_is_refused_by_name(
    engine: FakeEngine, path: str, body: dict[str, Any], field: str
) -> None:
    response = ask(engine, "POST", path, body)
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (400, field, "unsupported_parameter")
    assert f"'{field}'" in error["message"]


@pytest.mark.parametrize("body", HARMLESS, ids=range(len(HARMLESS)))
def test_null_and_values_that_ask_for_nothing_pass(engine: FakeEngine, body: dict[str, Any]) -> None:
    assert ask(engine, "POST", CHAT, body).status_code == 200


@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=BROKEN_BODIES)
def test_a_body_that_is_no_json_is_a_400(engine: FakeEngine, body: bytes) -> None:
    response = ask(engine, "POST", CHAT, body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"
    assert not engine.added


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/json"])
def test_the_content_type_does_not_matter(engine: FakeEngine, content_type: str) -> None:
    response = ask(engine, "POST", CHAT, chat(), headers={"content-type": content_type})
    assert response.status_code == 200


def test_a_repeated_field_counts_where_it_stands_last(engine: FakeEngine) -> None:
    body = b'{"prompt": "aaa", "max_tokens": 1, "prompt": "bbb", "max_tokens": 2}'
    response = ask(engine, "POST", COMPLETIONS, body)
    assert response.json()["choices"][0]["text"] == "bb"


def test_a_prompt_over_the_context_has_both_lengths_in_its_error(engine: FakeEngine) -> None:
    error = error_of(ask(engine, "POST", COMPLETIONS, {"prompt": "a" * 700}))
    assert "700" in error["message"]
    assert str(CONTEXT) in error["message"]


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_args: object, **_options: object) -> list[int]:
        raise AssertionError("tokenized")

    monkeypatch.setattr(engine.tokenizer, "encode", encode)
    prompt = "a" * (CONTEXT * 30)
    for path, body in ((COMPLETIONS, {"prompt": prompt}), (CHAT, turns({"role": "user", "content": prompt}))):
        response = ask(engine, "POST", path, body)
        error = error_of(response)
        assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
        assert str(len(prompt)) in error["message"]
        assert str(CONTEXT) in error["message"]


def test_an_answer_may_fill_the_context_and_no_more(engine: FakeEngine) -> None:
    body = {"prompt": "a" * (CONTEXT - 8), "ignore_eos": True}
    assert ask(engine, "POST", COMPLETIONS, {**body, "max_tokens": 8}).json()["usage"]["total_tokens"] == CONTEXT
    response = ask(engine, "POST", COMPLETIONS, {**body, "max_tokens": 9})
    error = error_of(response)
    assert response.status_code == 400
    for number in (9, CONTEXT - 8, CONTEXT + 1, CONTEXT, 8):
        assert str(number) in error["message"], error["message"]


def test_an_unknown_model_is_a_404_with_openais_code(engine: FakeEngine) -> None:
    for path, body in ((CHAT, chat(model="gpt-5")), (COMPLETIONS, text(model="gpt-5")), ("/tokenize", text(model="x"))):
        response = ask(engine, "POST", path, body)
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "Echo-1B" in error["message"]


def test_fields_without_effect_are_named_in_a_header_cut_to_what_is_safe(engine: FakeEngine) -> None:
    response = ask(engine, "POST", CHAT, chat(user="me", **{"top_a": 1, "a\r\nx-evil: 1": 2, "é": 3, "n" * 90: 4}))
    assert response.status_code == 200
    named = response.headers["x-penstock-ignored-fields"]
    assert named == f"user, top_a, a??x-evil??1, ?, {'n' * 64}"
    assert "x-evil" not in response.headers
    many = ask(engine, "POST", CHAT, chat(**{f"f{i}": i for i in range(40)}))
    assert many.headers["x-penstock-ignored-fields"].endswith("f15, and 24 more")
    assert "x-penstock-ignored-fields" not in ask(engine, "POST", CHAT, chat()).headers


def test_an_unexpected_failure_is_a_500_that_tells_only_where_the_log_has_it(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def encode(*_args: object, **_options: object) -> list[int]:
        raise RuntimeError("the secret cause")

    monkeypatch.setattr(engine.tokenizer, "encode", encode)
    response = ask(engine, "POST", COMPLETIONS, text())
    error = error_of(response)
    assert (response.status_code, error["type"]) == (500, "internal_error")
    assert "secret" not in response.text
    incident = error["message"].rstrip(".").split()[-1]
    assert incident in caplog.text
    assert "the secret cause" in caplog.text


class Inner(msgspec.Struct, rename="camel"):
    """What stands in a body, under names of its own on the wire."""

    its_name: str = ""
    more: list[Inner | str] = []
    anything: dict[str, Any] = {}


class Outer(msgspec.Struct):
    """A body that nests."""

    inner: Inner | None = None
    several: list[str | list[Inner]] = []


def test_fields_inside_others_that_nobody_reads_are_named_by_their_path_once() -> None:
    reader = BodyReader(Outer, manifest={name: Field("supported") for name in ("inner", "several")})
    inside = {"itsName": "a", "its_name": "b", "anything": {"x": {"y": 1}}, "odd": 1, "none": None}
    body = {
        "inner": {**inside, "more": ["text", inside, {"more": [inside]}]},
        "several": ["text", [inside, inside], "text"],
    }
    request, headers = reader.decode(json.dumps(body).encode())
    assert request.inner is not None
    assert request.inner.its_name == "a"
    assert headers["x-penstock-ignored-fields"].split(", ") == [
        "inner.its_name",
        "inner.odd",
        "inner.more[].its_name",
        "inner.more[].odd",
        "inner.more[].more[].its_name",
        "inner.more[].more[].odd",
        "several[][].its_name",
        "several[][].odd",
    ]


READER = BodyReader(ChatRequest, generation.CHAT)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
likely_names = st.sampled_from([*generation.CHAT, "messages", "unknown", ""])


@given(st.binary(max_size=200) | st.dictionaries(likely_names, json_values, max_size=6).map(json.dumps).map(str.encode))
@settings(max_examples=400, deadline=None)
def test_any_bytes_decode_or_are_an_invalid_request(body: bytes) -> None:
    try:
        request, headers = READER.decode(body)
    except InvalidRequestError:
        pass  # any other exception would fail the test
    else:
        assert request.messages
        for value in headers.values():  # as RFC 9110 wants a field's value: visible, no space around it
            assert value.isascii()
            assert value.isprintable()
            assert value == value.strip()
