"""What each tensor asks of the engine, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from penstock.server.kserve.signature import INPUTS
from penstock.server.manifest.kserve import TENSORS
from support.asking import ask
from support.fake_engine import FakeEngine

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from penstock.engine.types import SamplingParams

INFER = "/v2/models/Echo-1B/infer"
NOT_NEUTRAL: dict[str, Any] = {"BYTES": "x", "BOOL": True, "INT32": 2, "FP32": 0.5}


@pytest.fixture
def engine(echo_model: Path) -> FakeEngine:
    return FakeEngine(echo_model)


def infer(engine: FakeEngine, **values: Any) -> httpx.Response:
    """The answer to a text and these inputs, each of the datatype that the signature says, or BYTES."""
    inputs = []
    for name, value in {"text_input": "abcdef", **values}.items():
        elements = value if isinstance(value, list) else [value]
        datatype = INPUTS[name].datatype if name in INPUTS else "BYTES"
        inputs.append({"name": name, "datatype": datatype, "shape": [len(elements)], "data": elements})
    return ask(engine, "POST", INFER, {"inputs": inputs})


def params_of(engine: FakeEngine, **values: Any) -> SamplingParams:
    """What the engine was asked for with these inputs."""
    response = infer(engine, **values)
    assert response.status_code == 200, response.text
    return engine.added[-1].params


def test_given_a_text_alone_when_inferred_then_the_defaults_are_vllms(engine: FakeEngine) -> None:
    params = params_of(engine)
    assert (params.max_tokens, params.temperature, params.top_k, params.top_p) == (16, 1.0, 0, 1.0)
    assert (params.n, params.stop, params.logit_bias, params.ignore_eos) == (1, (), {}, False)
    assert params.logprobs is None


@pytest.mark.proves(
    infer="max_tokens min_tokens min_length temperature top_k top_p repetition_penalty presence_penalty "
    "frequency_penalty seed random_seed stop_words"
)
@pytest.mark.parametrize(
    ("inputs", "field", "value"),
    [
        ({"max_tokens": 3}, "max_tokens", 3),
        ({"min_tokens": 3}, "min_tokens", 3),
        ({"min_length": 3}, "min_tokens", 3),
        ({"temperature": 0.5}, "temperature", 0.5),
        ({"top_k": 7}, "top_k", 7),
        ({"top_p": 0.25}, "top_p", 0.25),
        ({"repetition_penalty": 1.5}, "repetition_penalty", 1.5),
        ({"presence_penalty": -1.5}, "presence_penalty", -1.5),
        ({"frequency_penalty": 1.5}, "frequency_penalty", 1.5),
        ({"seed": 7}, "seed", 7),
        ({"random_seed": 7}, "seed", 7),
        ({"random_seed": 2**64 - 1}, "seed", -1),
        ({"stop_words": ["a", "", "b"]}, "stop", ("a", "b")),
        ({"stop_words": [""]}, "stop", ()),
        ({"end_id": 2}, "ignore_eos", False),
        ({"end_id": 2}, "stop_token_ids", ()),
        ({"end_id": 70}, "ignore_eos", True),
        ({"end_id": 70}, "stop_token_ids", (70,)),
        ({"end_id": -1}, "ignore_eos", True),
        ({"end_id": -1}, "stop_token_ids", ()),
        ({"return_cumulative_logprob": True}, "logprobs", 0),
        ({"return_log_probs": True}, "logprobs", 0),
        ({"return_logprobs": True}, "logprobs", None),
        ({"pad_id": 5}, "stop_token_ids", ()),
    ],
)
def test_given_an_input_when_inferred_then_the_engine_is_asked_for_it(
    engine: FakeEngine, inputs: dict[str, Any], field: str, value: Any
) -> None:
    assert getattr(params_of(engine, **inputs), field) == value


@pytest.mark.proves(infer="num_return_sequences")
def test_given_a_number_of_sequences_when_inferred_then_there_are_as_many(engine: FakeEngine) -> None:
    response = infer(engine, num_return_sequences=3, temperature=0.0)
    assert len(engine.added) == 3
    (output,) = response.json()["outputs"]
    assert (output["shape"], len(output["data"])) == ([3], 3)


@pytest.mark.proves(infer="embedding_bias_words embedding_bias_weights")
def test_given_biased_words_when_inferred_then_their_tokens_biases_add_up_within_bounds(engine: FakeEngine) -> None:
    params = params_of(engine, embedding_bias_words=["ab", "b"], embedding_bias_weights=[60.0, 60.0])
    (a,), (b,) = (engine.tokenizer.encode(text, add_special_tokens=False) for text in "ab")
    assert params.logit_bias == {a: 60.0, b: 100.0}


REFUSED = [name for name, field in TENSORS[0].fields.items() if field.support == "refused"]


@pytest.mark.parametrize("name", REFUSED)
def test_given_an_input_that_is_refused_when_inferred_then_it_is_named_with_the_reason(
    engine: FakeEngine, name: str
) -> None:
    entry = TENSORS[0].fields[name]
    response = infer(engine, **{name: NOT_NEUTRAL[INPUTS[name].datatype if name in INPUTS else "BYTES"]})
    assert response.status_code == 400
    error = response.json()
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert entry.note in error["error"]
    assert not engine.added
    for value in entry.neutral:
        assert infer(engine, **{name: value}).status_code == 200
