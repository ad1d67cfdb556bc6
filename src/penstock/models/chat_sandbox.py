"""The Jinja2 environment that chat templates run in: what transformers offers them, inside limits.

A template is a program that came with a model from somebody else, and it runs in the server's process. The
sandbox of Jinja2 keeps it from Python's internals, but not from taking forever or all memory, so every
loop round and call is a step, and every string or list made is charged to a `Budget` before it is made where
the result can be larger than what went in.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jinja2.parser import Parser
    from jinja2.runtime import Context

MAX_STEPS = 500_000  # loop rounds and calls: about a second
MAX_CHARACTERS = 1 << 27  # made in all, intermediate ones included
MAX_WIDTH = 10_000  # of padding, and of a range
MAX_INT_BITS = 4096
ITEM_CHARACTERS = 8  # what an item of a list takes beside the characters of a string
# Filters that no chat template needs and whose cost is hard to bound.
WITHOUT_FILTERS = ("urlize", "striptags", "wordwrap", "pprint", "xmlattr", "random")
# Filters that write out a whole value, however often its parts occur in it.
WRITING_FILTERS = frozenset({"string", "tojson", "join", "format", "urlencode", "escape", "e", "forceescape", "safe"})
PADDING = frozenset(
    {"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "batch", "slice", "round", "truncate"}
)
# Methods of str and int that no chat template needs: they make bytes, or strings longer than their parts.
WITHOUT_METHODS = frozenset({"encode", "to_bytes", "translate"})

_WIDE_FORMAT = re.compile(r"\d{5}|%[^a-zA-Z%]*\*|\{[^{}]*\{")


class TemplateRefusalError(TemplateError):
    """The template itself says no to these messages."""


class Budget:
    """What one rendering may still cost."""

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.characters = MAX_CHARACTERS

    def step(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")

    def charge(self, characters: int) -> None:
        self.characters -= characters
        if self.characters < 0:
            raise SecurityError(f"it makes more than {MAX_CHARACTERS} characters")

    def charge_written(self, value: Any) -> None:
        """What it takes to write a value out; a part that occurs twice is written twice."""
        if isinstance(value, str):
            self.charge(len(value))
        elif isinstance(value, dict):
            self.charge_written(list(value))
            self.charge_written(list(value.values()))
        elif isinstance(value, (list, tuple, set, frozenset)):
            self.step(len(value))
            self.charge(_size(value))
            for item in value:
                self.charge_written(item)


_budget: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def limited() -> Iterator[Budget]:
    """Compile or render within a budget of its own."""
    budget = Budget()
    token = _budget.set(budget)
    try:
        yield budget
    finally:
        _budget.reset(token)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """`tojson` without HTML escapes, `raise_exception`, `strftime_now`, `break` and `continue`, and the
    `generation` tag, which only marks what the assistant says."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols], finalize=_charged_output
        )
        for name in WITHOUT_FILTERS:
            del self.filters[name]
        self.filters["tojson"] = _to_json
        self.filters = {name: _charged_filter(name, function) for name, function in self.filters.items()}
        self.filters |= {"_rounds": _rounds, "_joined": _joined, "_charged": _charged}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now, "range": _range}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template: nodes.Template = _Instrument().visit(super()._parse(source, name, filename))
        return template

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _charge_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    # The first names are as odd as in Jinja2, for keyword arguments of templates pass through here.
    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        _budget.get().step()
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, (str, int)) and method.__name__ in WITHOUT_METHODS:
            raise SecurityError(f"it calls {method.__name__}")
        if isinstance(owner, str):
            _charge_text_method(method.__name__, owner, args, kwargs)
        return _charged(super().call(__context, __obj, *args, **kwargs))


class _Instrument(NodeTransformer):
    """Sends loops, `~` and slices, which Jinja2 compiles to plain Python, through the budget."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - Jinja2's naming
        static = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_rounds", nodes.Const(static))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "_joined")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "_charged") if isinstance(node.arg, nodes.Slice) else node


def _filter(node: nodes.Node, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


class _GenerationTag(Extension):
    tags = {"generation"}  # noqa: RUF012 - as Jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _rounds(items: Iterable[Any], static: int) -> Iterator[Any]:
    budget = _budget.get()
    for item in items:
        budget.step()
        budget.charge(static)
        yield item


def _joined(parts: list[Any]) -> str:
    budget = _budget.get()
    for part in parts:
        budget.charge_written(part)
    return "".join(map(str, parts))


def _charged(value: Any) -> Any:
    """Charge what was made, not what is inside it: that existed before."""
    _budget.get().charge(_size(value))
    return value


def _size(value: Any) -> int:
    """Characters that a value takes by itself, its parts left out."""
    if isinstance(value, str):
        return len(value)
    return len(value) * ITEM_CHARACTERS if isinstance(value, (list, tuple, dict, set, frozenset)) else 0


def _charged_output(value: Any) -> Any:
    _budget.get().charge_written(value)
    return value


def _charged_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)  # keeps Jinja2's marks on filters that want the context
    def charged(*args: Any, **kwargs: Any) -> Any:
        budget = _budget.get()
        budget.step()
        given = [*args, *kwargs.values()]
        if name in WRITING_FILTERS:
            budget.charge_written(given)
        if name in PADDING:
            _charge_padding(given)
        texts = [value for value in given if isinstance(value, str)]
        if name == "replace" and texts:
            _charge_replacement(texts[0], texts[1:])
        elif name == "join":
            items = next((value for value in args if isinstance(value, (str, list, tuple, dict))), ())
            budget.charge(len(items) * max(map(len, texts), default=0))
        elif name == "format" and texts:
            _charge_format(texts[0], given[1:])
        return _charged(function(*args, **kwargs))

    return charged


def _charge_operation(operator: str, left: Any, right: Any) -> None:
    sized = [value for value in (left, right) if isinstance(value, (str, list, tuple))]
    numbers = [value for value in (left, right) if isinstance(value, int)]
    budget = _budget.get()
    if operator == "+":
        budget.charge(sum(map(_size, sized)))
    elif operator == "%":
        if isinstance(left, str):
            _charge_format(left, [right])
    elif sized and numbers:
        budget.charge(_size(sized[0]) * max(numbers[0], 0))
    elif len(numbers) == 2:
        bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_INT_BITS:
            raise SecurityError(f"it calculates with numbers of more than {MAX_INT_BITS} bits")


def _charge_text_method(method: str, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = [*args, *kwargs.values()]
    if method in PADDING:
        _charge_padding([text, *given])
    elif method == "replace":
        _charge_replacement(text, [value for value in given if isinstance(value, str)])
    elif method == "join":
        items = args[0] if args and isinstance(args[0], (str, list, tuple, dict)) else ()
        _budget.get().charge_written(items)
        _budget.get().charge(len(items) * len(text))
    elif method in {"format", "format_map"}:
        _charge_format(text, given)


def _charge_padding(given: list[Any]) -> None:
    width = max((value for value in given if isinstance(value, int)), default=0)
    if width > MAX_WIDTH:
        raise SecurityError(f"it pads to {width}, more than {MAX_WIDTH}")
    texts = [value for value in given if isinstance(value, str)]
    lines = max((text.count("\n") + text.count("\t") for text in texts), default=0)
    _budget.get().charge((lines + 1) * max(width, max(map(len, texts[1:]), default=0)))


def _charge_replacement(text: str, others: list[str]) -> None:
    old, new = others[0] if others else "", others[1] if len(others) > 1 else ""
    _budget.get().charge((text.count(old) if old else len(text) + 1) * len(new))


def _charge_format(template: str, values: list[Any]) -> None:
    if _WIDE_FORMAT.search(template):
        raise SecurityError("it formats with a width that is very large or computed")
    budget = _budget.get()
    before = budget.characters
    budget.charge_written(values)
    budget.charge((before - budget.characters) * (template.count("{") + template.count("%")))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    spaces = len(indent) if isinstance(indent, str) else indent or 0
    if max([spaces, *map(len, separators or ())]) > 16:
        raise SecurityError("it writes JSON with an indent or a separator of more than 16 characters")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> None:
    raise TemplateRefusalError(str(message))


def _strftime_now(form: str) -> str:
    _charge_format(form, [])
    return datetime.now().astimezone().strftime(form)


def _range(*args: int) -> range:
    numbers = range(*args)
    if len(numbers) > MAX_WIDTH:
        raise SecurityError(f"it loops over a range of more than {MAX_WIDTH} numbers")
    return numbers
