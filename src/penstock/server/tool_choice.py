"""What a request's tools and its choice among them come to: which functions, whether one must be called, how many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.core.errors import InvalidRequestError
from penstock.server.requests import ToolChoice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.models.answer_grammar import Function
    from penstock.server.requests import ChatRequest, Tool

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What may be called.

    Attributes:
        shown: every tool, as the model's template gets it.
        functions: those that may be called.
        required: the answer is calls.
        several: more than one, if the model's format has room for them.
        unenforced: places of what arguments need not fit.
    """

    shown: list[dict[str, Any]]
    functions: list[Function]
    required: bool
    several: bool
    unenforced: list[str]


def tool_use(request: ChatRequest) -> ToolUse | None:
    """None where nothing is to be called. Raises InvalidRequestError naming the field at fault."""
    tools, choice = request.tools or [], request.tool_choice
    shown = shown_tools(tools)
    if not tools and choice not in (None, "none", "auto"):
        raise InvalidRequestError(
            "'tool_choice' asks for a call, and there are no 'tools'.", param="tool_choice", code="invalid_value"
        )
    if not tools or choice == "none":
        return None
    unenforced: list[str] = []
    strict = [tool.function is not None and tool.function.strict is True for tool in tools]
    functions = _functions(shown, strict, unenforced)
    required, several = choice == "required", request.parallel_tool_calls is not False
    if isinstance(choice, ToolChoice):
        names, required, named = _chosen(choice)
        missing = next((name for name in names if name not in functions), None)
        if missing is not None:
            raise InvalidRequestError(
                f"'tool_choice' names the function {missing[:128]!r}, which is not among the 'tools'.",
                param="tool_choice",
                code="invalid_value",
            )
        functions = {name: functions[name] for name in functions if name in names}
        several = several and not named
    return ToolUse(shown, [*functions.values()], required, several, unenforced)


def shown_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools in OpenAI's form, the only one that templates know. Raises InvalidRequestError."""
    shown: list[dict[str, Any]] = []
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        if tool.type != "function":
            raise InvalidRequestError(
                f"'{place}' is of type {tool.type[:64]!r}; only functions can be called.",
                param=f"{place}.type",
                code="unsupported_value",
            )
        function = tool.function
        if function is None:
            raise InvalidRequestError(
                f"'{place}.function' is missing.", param=f"{place}.function", code="missing_field"
            )
        if function.name in seen:
            raise InvalidRequestError(
                f"'{place}.function.name' is {function.name!r}, which an earlier tool has.",
                param=f"{place}.function.name",
                code="invalid_value",
            )
        seen.add(function.name)
        description = {} if function.description is None else {"description": function.description}
        parameters = {"type": "object", "properties": {}} if function.parameters is None else function.parameters
        shown.append({"type": "function", "function": {"name": function.name, **description, "parameters": parameters}})
    return shown


def _functions(shown: Sequence[dict[str, Any]], strict: Sequence[bool], unenforced: list[str]) -> dict[str, Function]:
    """By name, with schemas made ready to be enforced; what can't be is refused where strictness is asked for, and else
    added to `unenforced`. Raises InvalidRequestError."""
    from penstock.engine.structured import schemas  # of few requests, and a start must not wait for it
    from penstock.models.answer_grammar import Function

    functions = {}
    for index, tool in enumerate(shown):
        name, schema = tool["function"]["name"], tool["function"]["parameters"]
        place = f"tools[{index}].function.parameters"
        if schema.get("type", "object") not in ("object", ["object"]):
            raise InvalidRequestError(
                f"'{place}.type' must be \"object\": arguments have names.", param=f"{place}.type", code="invalid_value"
            )
        if schema.keys() <= {"type", "properties"} and not schema.get("properties"):
            schema = NO_ARGUMENTS
        dropped = None if strict[index] else unenforced
        schema = {**schema, "type": "object"}
        functions[name] = Function(name, schemas.prepare(schema, field=place, compact=True, dropped=dropped))
    return functions


def _chosen(choice: ToolChoice) -> tuple[list[str], bool, bool]:
    """Names of the functions to choose from, whether one must be called, and whether it is just that one."""
    if choice.type == "function":
        if choice.function is None:
            raise _missing("function")
        return [choice.function.name], True, True
    if choice.allowed_tools is None:
        raise _missing("allowed_tools")
    names = [tool.function.name for tool in choice.allowed_tools.tools]
    return names, choice.allowed_tools.mode == "required", False


def _missing(name: str) -> InvalidRequestError:
    return InvalidRequestError(f"'tool_choice.{name}' is missing.", param=f"tool_choice.{name}", code="missing_field")
