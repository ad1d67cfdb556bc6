"""The field manifest against the types that are read and written, the tests that prove it, and the page made from it.

Entries are called "chat.temperature" in bodies and queries, "Usage.prompt_tokens" in objects.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.server.body import BodyReader
from penstock.server.endpoints import ENDPOINTS
from penstock.server.manifest.events import EVENTS
from penstock.server.manifest.kserve import TENSORS
from penstock.server.manifest.kserve_objects import KSERVE_PARTS
from penstock.server.manifest.page import address, page
from penstock.server.manifest.table import APIS, PARTS
from penstock.server.responses import ErrorBody
from support.asking import ask, error_of
from support.fake_engine import FakeEngine
from support.proofs import proofs
from support.structs import fields_of, structs_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.server.manifest.api import Api, Part
    from penstock.server.manifest.field import Field
    from penstock.server.routes import Endpoint

PAGE = Path(__file__).parents[2] / "docs" / "openai.md"
ENDPOINT = {f"{endpoint.method} {endpoint.path}": endpoint for endpoint in ENDPOINTS}

# The least that each body needs; an API that joins adds its own.
LEAST: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hello"}]},
    "completions": {"prompt": "hello"},
    "embeddings": {"input": "hello"},
    "rerank": {"query": "hello", "documents": ["world"]},
    "score": {"text_1": "hello", "text_2": "world"},
    "classify": {"input": "hello"},
    "tokenize": {"prompt": "hello"},
    "detokenize": {"tokens": [69]},
    "load_lora_adapter": {"lora_name": "a", "lora_path": "b"},
    "unload_lora_adapter": {"lora_name": "a"},
    "responses": {"input": "hello"},
    "messages": {"model": "Echo-1B", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]},
    "count_tokens": {"model": "Echo-1B", "messages": [{"role": "user", "content": "hello"}]},
    "file_upload": {"file": "", "purpose": "batch"},  # a form; it has supported fields alone
    "batches": {"input_file_id": "file-1", "endpoint": "/v1/completions", "completion_window": "24h"},
}
FUNCTION = {"type": "function", "function": {"name": "f"}}
# For each object of a request that has fields of no effect: the API, a path to it, and a body that holds it.
HOLDING: dict[str, tuple[str, str, Any]] = {
    "Message": ("chat", "messages[]", lambda more: {"messages": [{"role": "user", "content": "a", **more}]}),
    "ContentPart": (
        "chat",
        "messages[].content[]",
        lambda more: {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", **more}]}]},
    ),
    "InputPart": (
        "responses",
        "input[].content[]",
        lambda more: {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a", **more}]}]},
    ),
    "TextConfig": ("responses", "text", lambda more: {"input": "a", "text": more}),
    "ReasoningConfig": ("responses", "reasoning", lambda more: {"input": "a", "reasoning": more}),
    "Block": (
        "count_tokens",
        "messages[].content[]",
        lambda more: {
            "model": "m",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a", **more}]}],
        },
    ),
    "AnthropicTool": (
        "count_tokens",
        "tools[]",
        lambda more: {**LEAST["count_tokens"], "tools": [{"name": "f", "input_schema": {}, **more}]},
    ),
    "Tool": ("chat", "tools[]", lambda more: {**LEAST["chat"], "tools": [{**FUNCTION, **more}]}),
    "FunctionDefinition": (
        "chat",
        "tools[].function",
        lambda more: {**LEAST["chat"], "tools": [{"type": "function", "function": {"name": "f", **more}}]},
    ),
    "Document": ("rerank", "documents[]", lambda more: {"query": "a", "documents": [{"text": "b", **more}]}),
    "InputItem": ("responses", "input[]", lambda more: {"input": [{"role": "user", "content": "a", **more}]}),
    "ResponseTool": (
        "responses",
        "tools[]",
        lambda more: {"input": "a", "tools": [{"type": "function", "name": "f", **more}]},
    ),
    "AnthropicMessage": (
        "count_tokens",
        "messages[]",
        lambda more: {"model": "m", "messages": [{"role": "user", "content": "a", **more}]},
    ),
    "Thinking": (
        "count_tokens",
        "thinking",
        lambda more: {**LEAST["count_tokens"], "thinking": {"type": "disabled", **more}},
    ),
    "OutputConfig": ("count_tokens", "output_config", lambda more: {**LEAST["count_tokens"], "output_config": more}),
    "StreamOptions": ("completions", "stream_options", lambda more: {"prompt": "a", "stream_options": more}),
}
NOT_NEUTRAL = {"no value": "is like this"}


def entries() -> Iterator[tuple[str, Field]]:
    """Every entry of the manifest by its name."""
    for table in (*APIS, *PARTS, *TENSORS, *KSERVE_PARTS, *EVENTS):
        yield from ((f"{table.name}.{name}", field) for name, field in table.fields.items())


def reads_query_or_path(endpoint: Endpoint) -> set[str]:
    return {*(endpoint.query or {}), *re.findall(r"\{(\w+)", endpoint.path)}


def of_support(*supports: str) -> list[Any]:
    """Each such field of a body, as a test's parameters."""
    return [
        pytest.param(api, name, id=f"{api.name}.{name}")
        for api in APIS
        for name, field in api.fields.items()
        if field.support in supports
    ]


def test_every_endpoint_that_reads_fields_has_a_manifest_and_every_manifest_an_endpoint() -> None:
    reading = {name for name, each in ENDPOINT.items() if each.takes or reads_query_or_path(each)}
    assert {api.endpoint for api in APIS} == reading
    assert {api.name for api in APIS if ENDPOINT[api.endpoint].takes} == set(LEAST)


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_exactly_the_fields_that_are_read_are_called_supported(api: Api) -> None:
    endpoint = ENDPOINT[api.endpoint]
    supported = {name for name, field in api.fields.items() if field.support == "supported"}
    in_body = fields_of(endpoint.takes) if endpoint.takes else set()
    assert supported == in_body | reads_query_or_path(endpoint)


def test_every_object_in_requests_and_answers_has_a_manifest() -> None:
    bodies = {endpoint.takes for endpoint in ENDPOINTS}
    used = {*structs_in(ErrorBody, *(kind for each in ENDPOINTS for kind in (each.takes, each.gives, each.chunk)))}
    assert {part.kind for part in PARTS} == used - bodies


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_an_objects_manifest_has_exactly_its_fields(part: Part) -> None:
    supported = {name for name, field in part.fields.items() if field.support == "supported"}
    # a field may be read only to be refused where it stands
    read = fields_of(part.kind) - {name for name, field in part.fields.items() if field.support == "refused"}
    assert supported == read


def test_every_entry_has_a_name_of_its_own_and_an_address() -> None:
    assert not [name for name, times in Counter(name for name, _ in entries()).items() if times > 1]
    for table in (*APIS, *PARTS, *TENSORS, *KSERVE_PARTS, *EVENTS):
        for name, field in table.fields.items():
            assert re.match(r"https://\S+$|\w+\.md", address(field, name, table.origins)), (table.name, name)


def test_every_supported_entry_is_proven_by_a_test_that_names_it() -> None:
    """Bodies' other entries are proven below, one by one; in objects a refused field is a case of its own."""
    parts = {part.name for part in PARTS}
    wanted = {
        name
        for name, field in entries()
        if field.support == "supported" or (field.support == "refused" and name.partition(".")[0] in parts)
    }
    assert sorted(wanted - proofs().keys()) == []


def test_every_proof_names_an_entry() -> None:
    known = {name for name, _ in entries()}
    assert {entry: tests for entry, tests in proofs().items() if entry not in known} == {}


@pytest.mark.parametrize(("api", "name"), of_support("refused"))
def test_a_refused_field_is_a_400_that_names_it_unless_its_value_asks_for_nothing(
    echo_model: Path, tmp_path: Path, api: Api, name: str
) -> None:
    endpoint, field = ENDPOINT[api.endpoint], api.fields[name]
    engine = FakeEngine(echo_model)
    if endpoint.takes is None:
        for query, refuses in (
            (f"{name}=x", True),
            (f"{name}[]=x", True),
            *((f"{name}={v}", False) for v in field.neutral),
        ):
            response = ask(engine, endpoint.method, f"{endpoint.path}?{query}", data_dir=tmp_path)
            error = error_of(response)
            assert (error["code"] == "unsupported_parameter", error["param"] == name) == (refuses, refuses), query
        return
    response = ask(engine, endpoint.method, endpoint.path, {**LEAST[api.name], name: NOT_NEUTRAL})
    assert response.status_code == 400
    if endpoint.error_body is ErrorBody:
        error = error_of(response)
        assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    else:
        assert f"'{name}' is not supported" in response.json()["error"]["message"]
    assert not engine.added
    reader = BodyReader(endpoint.takes or object, api.fields)
    for value in (None, *field.neutral):
        reader.decode(json.dumps({**LEAST[api.name], name: value}).encode())


@pytest.mark.parametrize(("api", "name"), of_support("no effect"))
def test_a_field_of_no_effect_is_taken_whatever_it_holds_and_named_in_a_header(api: Api, name: str) -> None:
    reader = BodyReader(ENDPOINT[api.endpoint].takes or object, api.fields)
    least = LEAST[api.name]
    plain, _ = reader.decode(json.dumps(least).encode())
    for value in (NOT_NEUTRAL, None, 5):
        request, headers = reader.decode(json.dumps({**least, name: value}).encode())
        assert request == plain
        assert headers == {"x-penstock-ignored-fields": name}


@pytest.mark.parametrize(
    ("part", "name"),
    [(part, name) for part in PARTS for name, field in part.fields.items() if field.support == "no effect"],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_field_of_no_effect_inside_another_is_named_by_its_path(part: Part, name: str) -> None:
    api, path, body = HOLDING[part.name]
    [(endpoint, manifest)] = [(ENDPOINT[each.endpoint], each.fields) for each in APIS if each.name == api]
    reader = BodyReader(endpoint.takes or object, manifest)
    plain, no_headers = reader.decode(json.dumps(body({name: None})).encode())
    assert no_headers == {}
    request, headers = reader.decode(json.dumps(body({name: NOT_NEUTRAL})).encode())
    assert request == plain
    assert headers == {"x-penstock-ignored-fields": f"{path}.{name}"}


def test_the_page_is_what_the_manifest_says() -> None:
    made = "python -m penstock.server.manifest.page docs/openai.md"
    assert PAGE.read_text(encoding="utf-8") == page(), f"run: {made}"
