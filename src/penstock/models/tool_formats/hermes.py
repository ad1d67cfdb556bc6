"""Hermes 2 and 3, Qwen 2.5 and 3, and what was trained after them: each call is JSON in a pair of tags.

<tool_call>
{"name": "weather", "arguments": {"city": "Oslo"}}
</tool_call>
"""

from __future__ import annotations

import re

from penstock.models.tool_formats.base import PROBE_NAME, ToolFormat, separators

DEFAULT = ToolFormat(
    family="hermes",
    begin="<tool_call>\n",
    name_open='{"name": "',
    arguments_open='", "arguments": ',
    call_close="}\n</tool_call>",
    between="\n<tool_call>\n",
)
_CALL = re.compile(
    r'(?P<begin><tool_call>\s*)(?P<open>\{\s*"name"\s*:\s*")'
    + PROBE_NAME
    + r'(?P<arguments>"\s*,\s*"arguments"\s*:\s*)(?P<json>\{[^{}]*\})(?P<close>\s*\}\s*</tool_call>)'
)


def recognise(written: str) -> ToolFormat | None:
    """See `base.Family`."""
    calls = list(_CALL.finditer(written))
    if not calls:
        return None
    found = calls[0]
    return ToolFormat(
        family="hermes",
        begin=found["begin"],
        name_open=found["open"],
        arguments_open=found["arguments"],
        call_close=found["close"],
        between=written[found.end() : calls[1].start("open")] if len(calls) > 1 else "\n" + found["begin"],
        **separators(found["json"]),
    )
