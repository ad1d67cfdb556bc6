"""Sampling parameters as people write them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from penstock.core.errors import InvalidRequestError
from penstock.engine.params import check_params, params_from
from penstock.engine.types import SamplingParams


def test_given_fields_go_over_the_defaults() -> None:
    defaults = SamplingParams(temperature=0.5, max_tokens=9)
    params = params_from({"top_p": 0.9, "stop": "x", "logit_bias": {"5": 1.5}, "temperature": 1}, defaults)
    assert params == SamplingParams(temperature=1.0, max_tokens=9, top_p=0.9, stop=("x",), logit_bias={5: 1.5})
    assert params_from({"logit_bias": {7: 2.0}}).logit_bias == {7: 2.0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", 2.1), ("temperature", math.nan), ("temperature", math.inf),
        ("top_p", 0.0), ("top_p", 1.5), ("top_k", -1), ("min_p", 1.1), ("repetition_penalty", 0.0),
        ("top_k", 2**31), ("top_k", 10**400),
        ("frequency_penalty", 3.0), ("presence_penalty", -3.0), ("n", 0), ("n", 1000), ("max_tokens", 0),
        ("min_tokens", -1), ("min_tokens", 17), ("seed", 2**63), ("logprobs", 21), ("prompt_logprobs", -1),
        ("stop", ("",)), ("stop", tuple("abcdefghijklmnopq")),
        ("logit_bias", {1: math.nan}), ("logit_bias", {1: 101.0}),
        ("temperature", "hot"), ("max_tokens", 1.5), ("stop", 3), ("ignore_eos", "yes"), ("temprature", 1.0),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_its_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        params_from({field: value})
    assert refused.value.param == field
    assert field in refused.value.message


def test_every_default_is_in_range() -> None:
    check_params(SamplingParams())
    check_params(SamplingParams(temperature=0.0, max_tokens=None, seed=None, logprobs=None))
