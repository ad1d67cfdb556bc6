"""Which family a model is of: its own chat template is asked to write a call, and the call's spelling tells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from penstock.core.errors import PenstockError
from penstock.models.tool_formats import hermes, llama3, mistral
from penstock.models.tool_formats.base import PROBE_NAME, probe_call
from penstock.models.tool_formats.generic import GENERIC

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.models.chat_template import ChatTemplate
    from penstock.models.tool_families import Spelling
    from penstock.models.tool_formats.base import Family, ToolFormat

_FAMILIES: dict[Spelling, Family] = {"mistral": mistral, "hermes": hermes, "llama3": llama3}
_IDS = ("probe0001", "probe0002")  # of the nine letters and digits that Mistral's templates want
_USER: dict[str, Any] = {"role": "user", "content": "question"}
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": PROBE_NAME,
        "description": "probe",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}


def tool_format(template: ChatTemplate, spelling: Spelling = "auto") -> ToolFormat:
    """How a model with this template writes tool calls.

    Args:
        template: the model's.
        spelling: the family it is of, for templates that show no calls or others than the model writes; "auto": what
            the template tells, the generic format if it can't.
    """
    if spelling == "generic":
        return GENERIC
    shows_tools = PROBE_NAME in _rendered(template, [_USER])
    if spelling != "auto":
        found = _recognised(template, (_FAMILIES[spelling],)) if shows_tools else None
        return found or replace(_FAMILIES[spelling].DEFAULT, in_messages=not shows_tools)
    return (_recognised(template, _FAMILIES.values()) if shows_tools else None) or GENERIC


def _recognised(template: ChatTemplate, families: Iterable[Family]) -> ToolFormat | None:
    """What the template writes if it writes calls as one of `families` does."""
    for count in (2, 1):
        answer = {"role": "assistant", "content": "", "tool_calls": [probe_call(each) for each in _IDS[:count]]}
        results = [{"role": "tool", "content": "1", "name": PROBE_NAME, "tool_call_id": each} for each in _IDS[:count]]
        written = _rendered(template, [_USER, answer, *results, {"role": "assistant", "content": "answer"}, _USER])
        for family in families:
            found = family.recognise(written)
            if found is not None:
                return replace(found, parallel=count > 1)
    return None


def takes_system_role(template: ChatTemplate) -> bool:
    """Whether the template writes down what a system message says."""
    return "instruction" in _rendered(template, [{"role": "system", "content": "instruction"}, _USER])


def _rendered(template: ChatTemplate, messages: list[dict[str, Any]]) -> str:
    """What the template makes of these; nothing if it refuses them."""
    try:
        return template.render(messages, tools=[_TOOL], add_generation_prompt=False)
    except PenstockError:
        return ""
