"""Bodies of the generate extension, made from the signature: inputs and outputs by name.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, defstruct

from penstock.server.kserve.signature import INPUTS, MAX_ELEMENTS, OUTPUTS

_PYTHON = {"BYTES": str, "BOOL": bool, "FP32": float}  # all others are integers


class _Asked(Struct, kw_only=True):
    """Body of a request to generate; sampling parameters may stand beside the inputs too."""

    id: str | int | None = None
    parameters: dict[str, Any] | None = None


class _Given(Struct, kw_only=True):
    """Body of an answer to it, and each event of a stream; an output of several elements is a list."""

    model_name: str
    model_version: str
    id: str | UnsetType = UNSET


def _input(datatype: str, *, many: bool, optional: bool) -> Any:
    element = _PYTHON.get(datatype, int)
    several = Annotated[list[element], Meta(max_length=MAX_ELEMENTS if many else 1, min_length=0 if many else 1)]  # type: ignore[valid-type]
    return element | several | None if optional else element | several


def _output(datatype: str) -> Any:
    element = _PYTHON.get(datatype, int)
    return element | list[element] | UnsetType  # type: ignore[valid-type]


GenerateBody = defstruct(
    "GenerateBody",
    [
        (name, _input(of.datatype, many=of.many, optional=of.optional), *((None,) if of.optional else ()))
        for name, of in INPUTS.items()
    ],
    bases=(_Asked,),
    namespace={"__doc__": _Asked.__doc__},
    kw_only=True,
)
GenerateAnswer = defstruct(
    "GenerateAnswer",
    [(name, _output(of.datatype), UNSET) for name, of in OUTPUTS.items()],
    bases=(_Given,),
    namespace={"__doc__": _Given.__doc__},
    kw_only=True,
)
