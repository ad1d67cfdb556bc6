"""What is asked for in structure comes out so: two hundred schemas, regular expressions, choices, grammars."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
from benchmarks.json_schemas import COUNT, schemas

from penstock.engine.client import EngineClient
from penstock.engine.config import EngineConfig
from support.asking import CHAT, COMPLETIONS, error_of, events
from support.listening import client_of
from support.tiny_chat import write_tiny_chat

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import httpx

MESSAGES = [{"role": "user", "content": "Answer in JSON."}]
# A model of random weights draws any byte: these let it end what it began.
ENDINGS = '"}],'
CONTEXT = 1024


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"), max_position_embeddings=CONTEXT)


def with_model(path: Path, work: Callable[[httpx.AsyncClient], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        settings = {"dtype": "float32", "kv_memory": 128 << 20, "threads": 1, "runner_cache": False, **options}
        engine = EngineClient(EngineConfig(model_path=str(path), **settings))
        await engine.start()
        async with client_of(engine) as client:
            client.timeout = 60
            await work(client)

    asyncio.run(run())


def chat(**fields: Any) -> dict[str, Any]:
    bias = {str(5 + _alphabet().index(symbol)): 3 for symbol in ENDINGS}
    return {"messages": MESSAGES, "max_tokens": 500, "seed": 1, "logit_bias": bias, **fields}


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def response_format(schema: Any) -> dict[str, Any]:
    described = {"name": "answer", "description": "What is asked for.", "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": described}


async def text_of(client: httpx.AsyncClient, body: dict[str, Any], path: str = CHAT) -> tuple[str, str]:
    """Text and finish reason of the one choice, streamed or not."""
    if path == COMPLETIONS:
        body = {"prompt": "a", **{name: value for name, value in body.items() if name != "messages"}}
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        [choice] = answer.json()["choices"]
        return choice["message"]["content"] if path == CHAT else choice["text"], choice["finish_reason"]
    parts = [choice for event in events(answer.text)[:-1] for choice in event["choices"]]
    assert not any("error" in event for event in events(answer.text)[:-1])
    texts = [(part["delta"].get("content") if path == CHAT else part["text"]) or "" for part in parts]
    return "".join(texts), parts[-1]["finish_reason"]


def assert_valid(text: str, schema: dict[str, Any]) -> None:
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    value = json.loads(text)
    assert validator.is_valid(value), (schema, text, next(iter(validator.iter_errors(value))).message)


@pytest.mark.proves(
    chat="response_format", ResponseFormat="type json_schema", JsonSchemaFormat="schema name description strict"
)
@pytest.mark.parametrize("stream", [False, True])
def test_given_200_schemas_when_a_model_draws_at_random_then_all_that_ends_validates(model: Path, stream: bool) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        asked = schemas()
        assert len(asked) == COUNT
        bodies = [chat(response_format=response_format(schema), stream=stream) for schema in asked]
        outputs = await asyncio.gather(*(text_of(client, body) for body in bodies))
        for (text, reason), schema in zip(outputs, asked, strict=True):
            if reason == "stop":
                assert_valid(text, schema)
        reasons = Counter(reason for _, reason in outputs)
        assert set(reasons) <= {"stop", "length"}
        assert reasons["stop"] > 0.9 * COUNT
        counted = (await client.get("/metrics")).text
        outcomes = dict(re.findall(r'penstock_structured_outputs_total\{.*outcome="(\w+)"\} (\d+)', counted))
        assert (int(outcomes["complete"]), int(outcomes["cut"])) == (reasons["stop"], reasons["length"])

    with_model(model, work, max_num_seqs=64)


def test_given_schemas_when_the_real_model_answers_then_all_that_ends_validates(smollm2_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        asked = schemas()[::10]
        bodies = [
            {"messages": MESSAGES, "max_tokens": 120, "seed": at, "response_format": response_format(schema)}
            | {"stream": at % 2 == 0, "temperature": (at % 3) / 2}
            for at, schema in enumerate(asked)
        ]
        outputs = await asyncio.gather(*(text_of(client, body) for body in bodies))
        finished = [(text, schema) for (text, reason), schema in zip(outputs, asked, strict=True) if reason == "stop"]
        assert len(finished) > len(asked) / 2  # it goes on for ever where it may, being small
        for text, schema in finished:
            assert_valid(text, schema)

    with_model(smollm2_path, work, dtype="auto", threads=None, max_model_len=1024, kv_memory=256 << 20)


KINDS: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "json_object"}}, r"(?s)\{.*\}"),
    ({"structured_outputs": {"regex": r"[a-f]{3}/\d"}}, r"[a-f]{3}/\d"),
    ({"structured_outputs": {"choice": ["yes", "nö", 'a "b"']}}, 'yes|nö|a "b"'),
    ({"structured_outputs": {"grammar": 'start: "x" /[0-9]{2}/'}}, r"x\d\d"),
    ({"structured_outputs": {"grammar": 'root ::= "x" [0-9] tail\ntail ::= "!" | "?"'}}, r"x\d[!?]"),
    ({"structured_outputs": {"json": {"type": "boolean"}}}, "true|false"),
    ({"structured_outputs": {"json": '{"type": "null"}'}}, "null"),
    ({"structured_outputs": {"json_object": True}}, r"(?s)\{.*\}"),
    (
        {"structured_outputs": {"json": {"const": {"a": [1, 2]}}, "disable_any_whitespace": True}},
        re.escape('{"a":[1,2]}'),
    ),
    ({"guided_json": {"enum": [3, 4]}}, "3|4"),
    ({"guided_regex": "(ab){2}"}, "(ab){2}"),
    ({"guided_choice": ["red", "blue"]}, "red|blue"),
    ({"guided_grammar": 'start: "a" | "b"'}, "a|b"),
    ({"response_format": {"type": "text"}, "guided_choice": ["red"]}, "red"),
    ({"structured_outputs": {"json_object": False, "choice": ["red"]}}, "red"),
]

SCHEMA = "response_format.json_schema.schema"
WRAPPED = "response_format.json_schema"

# schemas that are refused, and why
REFUSED_SCHEMAS: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "array", "uniqueItems": True}, f"{SCHEMA}.uniqueItems", "unsupported_schema"),
    ({"properties": {"a": {"format": "phone"}}}, f"{SCHEMA}.properties.a.format", "unsupported_schema"),
    ({"type": "nothing"}, f"{SCHEMA}.type", "invalid_value"),
    ({"type": "string", "pattern": "^(?!a)b"}, f"{SCHEMA}.pattern", "unsupported_schema"),
    ({"$ref": "#/$defs/gone"}, SCHEMA, "invalid_grammar"),
    ({"$ref": "https://example.com/schema"}, SCHEMA, "invalid_grammar"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, SCHEMA, "invalid_grammar"),
]
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    *(({"response_format": response_format(schema)}, param, code) for schema, param, code in REFUSED_SCHEMAS),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, WRAPPED, "missing_field"),
    ({"response_format": {"type": "text", "json_schema": {"schema": {}}}}, WRAPPED, "invalid_value"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, SCHEMA, "missing_field"),
    ({"response_format": {"type": "json_object", "extra": 1}}, "response_format.extra", "invalid_value"),
    ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "invalid_value"),
    ({"structured_outputs": {"regex": "[a"}}, "structured_outputs.regex", "invalid_grammar"),
    ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex", "invalid_value"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "invalid_value"),
    ({"structured_outputs": {"choice": ["a", 5]}}, "structured_outputs.choice[1]", "invalid_value"),
    ({"structured_outputs": {"grammar": 'root ::= "a'}}, "structured_outputs.grammar", "invalid_grammar"),
    ({"structured_outputs": {"grammar": "nonsense"}}, "structured_outputs.grammar", "invalid_grammar"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "invalid_json"),
    ({"structured_outputs": {"json": "[" * 3000}}, "structured_outputs.json", "invalid_json"),
    ({"structured_outputs": {"json": "3"}}, "structured_outputs.json", "invalid_value"),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs.regex", "invalid_value"),
    ({"guided_json": {}, "response_format": {"type": "json_object"}}, "guided_json", "invalid_value"),
    ({"guided_regex": "(?=a)b"}, "guided_regex", "invalid_grammar"),
]


@pytest.mark.proves(
    chat="response_format structured_outputs guided_json guided_regex guided_choice guided_grammar",
    completions="response_format structured_outputs guided_json guided_regex guided_choice guided_grammar",
    StructuredOutputs="json regex choice grammar json_object disable_any_whitespace",
)
def test_each_way_to_ask_is_followed_by_both_endpoints_streamed_or_not(model: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        asked = [
            (path, stream, fields, expected)
            for fields, expected in KINDS
            for path in (CHAT, COMPLETIONS)
            for stream in (False, True)
        ]
        outputs = await asyncio.gather(
            *(
                text_of(
                    client,
                    {**chat(**fields), "stream": stream, **({"prompt": "a"} if path == COMPLETIONS else {})},
                    path,
                )
                for path, stream, fields, _ in asked
            )
        )
        for (_, _, fields, expected), (text, reason) in zip(asked, outputs, strict=True):
            assert reason == "stop"
            assert re.fullmatch(expected, text), (fields, text)

    with_model(model, work)


@pytest.mark.parametrize("stream", [False, True])
def test_what_cant_be_followed_is_a_400_that_names_the_field_and_harms_nobody(model: Path, stream: bool) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        other = asyncio.create_task(text_of(client, chat(guided_regex="[ab]{200}")))
        answers = await asyncio.gather(
            *(client.post(CHAT, json=chat(stream=stream, **fields)) for fields, _, _ in REFUSED)
        )
        for (fields, param, code), answer in zip(REFUSED, answers, strict=True):
            assert answer.status_code == 400, (fields, answer.text)
            error = error_of(answer)
            assert (error["param"], error["code"]) == (param, code), (fields, error)
        text, reason = await other
        assert (len(text), reason) == (200, "stop")

    with_model(model, work)


def test_the_same_schema_is_followed_by_every_choice_of_every_prompt(model: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        body = {**chat(guided_regex="[a-z]{4}"), "prompt": ["a", "b", "c"], "n": 3, "logprobs": 1, "echo": False}
        del body["messages"]
        choices = (await client.post(COMPLETIONS, json=body)).json()["choices"]
        assert len(choices) == 9
        assert all(re.fullmatch("[a-z]{4}", choice["text"]) for choice in choices)
        assert all(len(choice["logprobs"]["tokens"]) == 4 for choice in choices)

    with_model(model, work)
