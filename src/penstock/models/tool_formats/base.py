"""What a family's way of writing tool calls consists of.

Every family known here writes a run of calls as fixed strings around names and JSON arguments, so one description
gives both the grammar that makes the model write them and the parser that reads them back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence

PROBE_NAME = "probe_function"
PROBE_ARGUMENTS = {"first": 1, "second": 2}


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The spelling of one run of calls: `begin call (between call)* end`, a call being `NAME` and JSON arguments in
    `name_open NAME arguments_open ARGUMENTS call_close`.

    Args:
        family: its name, for people.
        begin: before the first call.
        name_open: before a function's name.
        arguments_open: between the name and the arguments.
        call_close: after the arguments.
        between: from the end of one call to the next.
        end: after the last call.
        anywhere: text may come before `begin`; otherwise an answer is calls from its first character, or none.
        item_separator: of the JSON arguments, as the model has seen them.
        key_separator: likewise.
        id_characters: how long an id must be for the template, letters and digits only; None: any id will do.
        parallel: an answer may hold several calls.
        in_messages: the template knows nothing of tools, so they and calls are written into the messages.
    """

    family: str
    begin: str
    name_open: str
    arguments_open: str
    call_close: str
    between: str
    end: str = ""
    anywhere: bool = True
    item_separator: str = ", "
    key_separator: str = ": "
    id_characters: int | None = None
    parallel: bool = True
    in_messages: bool = False

    @property
    def trigger(self) -> str:
        """What turns text into calls."""
        return self.begin.rstrip()

    def head(self, name: str) -> str:
        """What begins a call of this function."""
        return self.name_open + name + self.arguments_open

    def write(self, calls: Sequence[tuple[str, str]]) -> str:
        """A run of calls, from (name, JSON arguments)."""
        written = (self.head(name) + arguments + self.call_close for name, arguments in calls)
        return self.begin + self.between.join(written) + self.end


class Family(Protocol):
    """One file of this package. `DEFAULT` is its spelling for a template that doesn't tell."""

    DEFAULT: ToolFormat

    def recognise(self, written: str) -> ToolFormat | None:
        """The family's format, spelt as in `written`: a template's rendering of an answer that calls `PROBE_NAME` with
        `PROBE_ARGUMENTS`, twice where the template allows that. None if it isn't of this family."""
        ...


class Separators(TypedDict, total=False):
    """What stands between the parts of JSON."""

    item_separator: str
    key_separator: str


def separators(arguments: str) -> Separators:
    """`item_separator` and `key_separator` of `PROBE_ARGUMENTS` as a template wrote them; nothing if unusual."""
    for item, key in ((", ", ": "), (",", ":"), (",", ": "), (", ", ":")):
        if arguments == f'{{"first"{key}1{item}"second"{key}2}}':
            return {"item_separator": item, "key_separator": key}
    return {}


def probe_call(call_id: str) -> dict[str, Any]:
    """A call that can be found again in a rendered prompt."""
    function = {"name": PROBE_NAME, "arguments": PROBE_ARGUMENTS}
    return {"id": call_id, "type": "function", "function": function}
