"""Sampling parameters from what a person wrote, with every range checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.core.errors import InvalidRequestError
from penstock.core.suggest import did_you_mean
from penstock.engine.types import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# name -> (whether a number is in range, the range in words)
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "n": (lambda x: 1 <= x <= 128, "from 1 to 128"),
    "temperature": (lambda x: 0 <= x <= 2, "from 0 to 2"),
    "top_k": (lambda x: 0 <= x < 2**31, "from 0 (all) to 2147483647"),
    "top_p": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
    "min_p": (lambda x: 0 <= x <= 1, "from 0 to 1"),
    "repetition_penalty": (lambda x: 0 < x <= 10, "above 0 and at most 10"),
    "frequency_penalty": (lambda x: -2 <= x <= 2, "from -2 to 2"),
    "presence_penalty": (lambda x: -2 <= x <= 2, "from -2 to 2"),
    "min_tokens": (lambda x: 0 <= x < 2**31, "from 0 to 2147483647"),
    "max_tokens": (lambda x: 1 <= x < 2**31, "from 1 to 2147483647"),
    "seed": (lambda x: -(2**63) <= x < 2**63, "a 64-bit integer"),
    "logprobs": (lambda x: 0 <= x <= 20, "from 0 to 20"),
    "prompt_logprobs": (lambda x: 0 <= x <= 20, "from 0 to 20"),
}
_MAX_STOPS = 16


def params_from(fields: Mapping[str, Any], defaults: SamplingParams | None = None) -> SamplingParams:
    """`defaults` with `fields` put over them; `stop` may be one string.

    Raises InvalidRequestError naming the field that is unknown, of the wrong type or out of range.
    """
    known = SamplingParams.__struct_fields__
    given = dict(fields)
    for name in given:
        if name not in known:
            raise InvalidRequestError(f"There is no parameter {name!r}.{did_you_mean(name, known)}", param=name)
    if isinstance(given.get("stop"), str):
        given["stop"] = (given["stop"],)
    base = {name: getattr(defaults or SamplingParams(), name) for name in known}
    try:
        params = msgspec.convert({**base, **given}, SamplingParams, str_keys=True)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`").partition("[")[0]
        raise InvalidRequestError(f"{name or 'A parameter'} is wrong: {reason}.", param=name or None) from error
    check_params(params)
    return params


def check_params(params: SamplingParams) -> None:
    """Raises InvalidRequestError for the first parameter that is out of range."""
    for name, (fits, range_in_words) in _RANGES.items():
        value = getattr(params, name)
        if value is not None and not fits(value):
            raise InvalidRequestError(f"{name} must be {range_in_words}; it is {value}.", param=name)
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        raise InvalidRequestError(
            f"min_tokens is {params.min_tokens}, more than max_tokens, which is {params.max_tokens}.",
            param="min_tokens",
        )
    if len(params.stop) > _MAX_STOPS or not all(params.stop):
        raise InvalidRequestError(f"stop takes at most {_MAX_STOPS} strings, none of them empty.", param="stop")
    if not all(math.isfinite(bias) and -100 <= bias <= 100 for bias in params.logit_bias.values()):
        raise InvalidRequestError("logit_bias takes numbers from -100 to 100.", param="logit_bias")
