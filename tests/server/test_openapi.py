"""The server against its own OpenAPI document: what is documented is what happens, and nothing makes it fail."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode, checks

from penstock.server.endpoints import DOCUMENTED
from penstock.server.manifest.reading import READING_APIS
from support.asking import ask
from support.encoder_server import serving
from support.fake_engine import FakeEngine
from support.tensor_bodies import fit
from support.tiny_encoders import write_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from schemathesis import Case

    from penstock.server.routes import Endpoint

MUST_HOLD = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


def acceptable_reading(path: str, body: Any) -> Any:
    """The same for models that read."""
    body = _whole_numbers(body)
    body["model"] = "class" if path == "/classify" else "embed"
    for name in ("input", "text_1", "text_2", "query"):
        if body.get(name) is not None or name == "input":
            body[name] = "text"
    if path == "/score":
        body = {**{name: body[name] for name in ("model",)}, "text_1": "one", "text_2": ["two", "three"]}
    elif "documents" in body:
        body["documents"] = [_shortened(document) for document in body["documents"]]
    if path == "/v1/embeddings" and body.get("dimensions"):  # others have no such field: what stands there is free
        body["dimensions"] = 1 + body["dimensions"] % 48
    if body.get("truncate_prompt_tokens", -1) is not None:
        body["truncate_prompt_tokens"] = -1
    return body


def _shortened(document: Any) -> Any:
    return {**document, "text": "text"} if isinstance(document, dict) else document[:20] or "text"


OUTPUTS = ("response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs")


def acceptable(body: Any) -> Any:
    """A body that fits the schema, made to fit what no schema says, or most examples would end at the first check."""
    body = _whole_numbers(body)
    body.pop("documents", None)  # for ensembles alone
    if body.get("model") is not None:
        body["model"] = "Echo-1B"
    for message in body.get("messages") or ():
        _make_acceptable(message)
    if body.get("messages") is not None:
        body.pop("prompt", None)
    elif "tokens" in body:
        body["tokens"] = [token % 320 for token in body["tokens"]]
    elif not isinstance(body.get("prompt"), str) or not body["prompt"]:
        body["prompt"] = "text"
    for name in [name for name in OUTPUTS if body.get(name) is not None][1:]:
        body.pop(name)
    body.pop("logit_bias", None)  # its keys are numbers, which no schema says
    if body.get("stop_token_ids"):
        body["stop_token_ids"] = [token % 320 for token in body["stop_token_ids"]]
    if body.get("stream_options") is not None:
        body["stream"] = True
    if body.get("top_logprobs") is not None:
        body["logprobs"] = True
    for name, most in (("max_tokens", 20), ("max_completion_tokens", 20), ("min_tokens", 1)):
        if body.get(name):
            body[name] = 1 + body[name] % most
    return body


def _make_acceptable(message: Any) -> None:
    message.pop("audio", None)
    message.pop("function_call", None)
    if message.get("content") is None:
        message["content"] = "text"
    for part in message["content"] if isinstance(message["content"], list) else ():
        part |= {"type": "text", "text": part.get("text") or "text"}


def _acceptable_response(body: Any) -> Any:
    for name in ("prompt", "previous_response_id", "tools", "tool_choice", "include", "text", "chat_template_kwargs"):
        body.pop(name, None)
    body |= {"input": "text", "store": True, "temperature": 0}
    if body.get("max_output_tokens"):
        body["max_output_tokens"] = 1 + body["max_output_tokens"] % 20
    if body.get("stream"):
        body["background"] = False
    return body


def _acceptable_message(body: Any) -> Any:
    for name in ("tools", "tool_choice", "output_config", "system"):
        body.pop(name, None)
    body["messages"] = [{"role": "user", "content": "text"}]
    return body


ALSO = {
    "/v1/responses": _acceptable_response,
    "/v1/messages": _acceptable_message,
    "/v1/messages/count_tokens": _acceptable_message,
}
# A form, a file that is there, an adapter's directory.
NEED_MORE = {"/v1/files", "/v1/batches", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
NEED_MORE |= {f"/v2/repository/models/{{model:path}}/{verb}load" for verb in ("", "un")}  # leave of the server's owner


def _whole_numbers(value: Any) -> Any:
    """1.0 is an integer to JSON Schema, but not to the server."""
    if isinstance(value, dict):
        return {name: _whole_numbers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.fixture(scope="module")
def document(echo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    encoders = {name: tmp_path_factory.mktemp(name) for name in ("embed", "class")}
    write_encoder(encoders["embed"], "embedder")
    write_encoder(encoders["class"], "classifier")
    with serving(echo_model, encoders, name="Echo-1B") as (live, _):
        yield schemathesis.openapi.from_url(f"{live.url}/openapi.json")


CASES = [
    *((endpoint, GenerationMode.POSITIVE) for endpoint in DOCUMENTED),
    *((endpoint, GenerationMode.NEGATIVE) for endpoint in DOCUMENTED if endpoint.takes or endpoint.query),
]


@pytest.mark.parametrize(("endpoint", "mode"), CASES, ids=[f"{mode.value} {each.path}" for each, mode in CASES])
def test_no_request_of_any_kind_makes_the_server_fail(document: Any, endpoint: Endpoint, mode: GenerationMode) -> None:
    takes_input = endpoint.takes or endpoint.query or "{" in endpoint.path
    examples = 50 if mode is GenerationMode.POSITIVE else 20
    if "{version}" in endpoint.path:
        examples //= 5  # the same as without
    statuses: Counter[int] = Counter()
    refusals: Counter[str] = Counter()
    operation = document[endpoint.path.replace(":path", "")][endpoint.method]

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples if takes_input else 1,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def try_it(case: Case) -> None:
        if mode is GenerationMode.POSITIVE and endpoint.path.startswith("/v2/models/{model"):
            fit(case, streams=endpoint.path.endswith("_stream"))
        elif mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and not endpoint.path.startswith("/v2/"):
            reads = endpoint.path in {api.endpoint.split()[1] for api in READING_APIS}
            case.body = acceptable_reading(endpoint.path, case.body) if reads else acceptable(case.body)
            case.body = ALSO.get(endpoint.path, dict)(case.body)
        answer = case.call_and_validate(checks=MUST_HOLD)
        statuses[answer.status_code] += 1
        if answer.status_code == 400:
            refusals[answer.text[:120]] += 1

    try_it()
    if mode is GenerationMode.POSITIVE and endpoint.takes and endpoint.path not in NEED_MORE:
        assert statuses[200] >= 2 * examples // 5, f"too few requests got past validation to say anything: {refusals}"


def test_the_document_lists_every_endpoint_and_asks_for_a_key_where_one_is_needed(echo_model: Path) -> None:
    engine = FakeEngine(echo_model)
    plain = ask(engine, "GET", "/openapi.json").json()
    operations = {(method.upper(), path) for path, methods in plain["paths"].items() for method in methods}
    assert operations == {(endpoint.method, endpoint.path.replace(":path", "")) for endpoint in DOCUMENTED}
    names = [operation["operationId"] for methods in plain["paths"].values() for operation in methods.values()]
    assert len(names) == len({*names})
    assert "securitySchemes" not in plain["components"]
    key = {"authorization": "Bearer k"}
    closed = ask(engine, "GET", "/openapi.json", headers=key, api_keys=["k"]).json()
    assert closed["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
    assert "401" in closed["paths"]["/v1/models"]["get"]["responses"]
    assert "security" not in closed["paths"]["/health"]["get"]
