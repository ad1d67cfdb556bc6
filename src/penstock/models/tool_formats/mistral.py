"""Mistral, in both of its spellings; its templates want ids of nine letters and digits.

Up to the tokenizer's version 7, a control token and a list:

    [TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}}]

From version 11 on, control tokens around each name:

    [TOOL_CALLS]weather[ARGS]{"city": "Oslo"}
"""

from __future__ import annotations

import re

from penstock.models.tool_formats.base import PROBE_NAME, ToolFormat, separators

ID_CHARACTERS = 9

DEFAULT = ToolFormat(
    family="mistral",
    begin="[TOOL_CALLS] [",
    name_open='{"name": "',
    arguments_open='", "arguments": ',
    call_close="}",
    between=", ",
    end="]",
    id_characters=ID_CHARACTERS,
)
_LIST = re.compile(
    r'(?P<begin>\[TOOL_CALLS\]\s*\[\s*)(?P<open>\{\s*"name"\s*:\s*")'
    + PROBE_NAME
    + r'(?P<arguments>"\s*,\s*"arguments"\s*:\s*)(?P<json>\{[^{}]*\})'
)
_NAMED = re.compile(
    r"\[TOOL_CALLS\]" + PROBE_NAME + r"(\[CALL_ID\][A-Za-z0-9]*)?(?P<arguments>\[ARGS\]\s*)(?P<json>\{[^{}]*\})"
)


def recognise(written: str) -> ToolFormat | None:
    """See `base.Family`. Ids that a template writes beside a call are the server's to give, not the model's."""
    found = _LIST.search(written)
    if found is not None:
        return ToolFormat(
            family="mistral",
            begin=found["begin"],
            name_open=found["open"],
            arguments_open=found["arguments"],
            call_close="}",
            between=", ",
            end="]",
            id_characters=ID_CHARACTERS,
            **separators(found["json"]),
        )
    found = _NAMED.search(written)
    if found is None:
        return None
    return ToolFormat(
        family="mistral",
        begin="[TOOL_CALLS]",
        name_open="",
        arguments_open=found["arguments"],
        call_close="",
        between="[TOOL_CALLS]",
        id_characters=ID_CHARACTERS,
        **separators(found["json"]),
    )
