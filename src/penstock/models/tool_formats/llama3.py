"""Llama 3.1 to 3.3: an answer that is a call is JSON from its first character, with `parameters`.

    {"name": "weather", "parameters": {"city": "Oslo"}}

Their templates take one call a message; where one takes more, they are separated as vLLM reads them, by "; ".
"""

from __future__ import annotations

import re

from penstock.models.tool_formats.base import PROBE_NAME, ToolFormat, separators

DEFAULT = ToolFormat(
    family="llama3",
    begin="",
    name_open='{"name": "',
    arguments_open='", "parameters": ',
    call_close="}",
    between="; ",
    anywhere=False,
    parallel=False,
)
_CALL = re.compile(
    r'(?P<open>\{\s*"name"\s*:\s*")'
    + PROBE_NAME
    + r'(?P<arguments>"\s*,\s*"parameters"\s*:\s*)(?P<json>\{[^{}]*\})(?P<close>\s*\})'
)


def recognise(written: str) -> ToolFormat | None:
    """See `base.Family`."""
    found = _CALL.search(written)
    if found is None:
        return None
    return ToolFormat(
        family="llama3",
        begin="",
        name_open=found["open"],
        arguments_open=found["arguments"],
        call_close=found["close"],
        between="; ",
        anywhere=False,
        **separators(found["json"]),
    )
