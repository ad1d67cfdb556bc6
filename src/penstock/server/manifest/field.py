"""What becomes of a field: supported, accepted without effect, refused, or never in an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from penstock.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

Support = Literal["supported", "no effect", "refused", "absent"]
VLLM = "vLLM"
OURS = "Penstock"
CHAT_FORM, LLAMA_CPP, OLLAMA = "Chat completions", "llama.cpp", "Ollama"  # whose fields are told their names here


@dataclass(frozen=True, slots=True)
class Field:
    """One known field.

    Attributes:
        support: "absent" is of an answer: the reference has the field, and it never comes.
        note: a range, a default, a reason.
        neutral: values that a refused field may hold beside null, since they ask for nothing.
        origin: whose field it is, if not of the API whose manifest it stands in: a key of `table.Api.origins`.
    """

    support: Support
    note: str = ""
    neutral: tuple[Any, ...] = ()
    origin: str = ""


Manifest = dict[str, Field]


def supported(origin: str = "", /, **notes: str) -> Manifest:
    """Fields that do what their reference says."""
    return {name: Field("supported", note, origin=origin) for name, note in notes.items()}


def no_effect(origin: str = "", /, **notes: str) -> Manifest:
    """Fields that are accepted, named in a response header, and change nothing."""
    return {name: Field("no effect", note, origin=origin) for name, note in notes.items()}


def refused(origin: str = "", /, **notes: str) -> Manifest:
    """Fields that are refused whatever they hold, except null; for neutral values write a `Field`."""
    return {name: Field("refused", note, origin=origin) for name, note in notes.items()}


def absent(origin: str = "", /, **notes: str) -> Manifest:
    """Fields of the reference that no answer has."""
    return {name: Field("absent", note, origin=origin) for name, note in notes.items()}


def without_effect(manifest: Manifest, given: Mapping[str, msgspec.Raw]) -> list[str]:
    """Names of the given fields that change nothing. Raises InvalidRequestError for one that is refused."""
    idle = []
    for name, raw in given.items():
        field = manifest.get(name)
        if field is not None and field.support == "supported":
            continue
        if field is not None and field.support == "refused" and not _switched_off(name, given):
            value = msgspec.json.decode(raw)
            if value is not None and value not in field.neutral:
                raise _unsupported(name, field)
        idle.append(name)
    return idle


def refuse_in_query(manifest: Manifest, query: Mapping[str, str]) -> None:
    """Raises InvalidRequestError for a parameter that is refused; clients write "name[]" for one of several values."""
    for name, value in query.items():
        field = manifest.get(name.removesuffix("[]"))
        if field is not None and field.support == "refused" and value.lower() not in field.neutral:
            raise _unsupported(name.removesuffix("[]"), field)


def _unsupported(name: str, field: Field) -> InvalidRequestError:
    return InvalidRequestError(
        f"'{name}' is not supported{': ' if field.note else ''}{field.note}.", param=name, code="unsupported_parameter"
    )


def _switched_off(name: str, given: Mapping[str, msgspec.Raw]) -> bool:
    """Functions that the model is told not to use ask for nothing."""
    return name == "functions" and bytes(given.get("function_call", b"")).strip() == b'"none"'
