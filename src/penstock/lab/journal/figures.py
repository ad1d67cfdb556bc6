"""Figures in prose and tables: which numbers of a page say that something was measured.

A number counts as a figure if it has a unit, or a decimal point; in tables also if its column's heading has a unit.
Whole numbers without one are counts, years and names. What stands in code, headings, comments, link targets and
generated parts is none, nor what stands below a heading that announces plans (`_PLANS`), nor what is marked:

    About 5,000 tokens/s are needed. <!-- not measured: the customer's wish -->

marks its line, and a mark on a line of its own the paragraph or table after it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from penstock.lab.journal.units import ANY, UNITS, dimension_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Manner = Literal["exact", "about", "over", "under", "spread"]

_PLANS = ("hypothesis", "method", "prediction", "expectation", "plan", "to do")
_MARK = re.compile(r"<!--\s*not measured\b.*?-->", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_GENERATED = re.compile(r"<!--\s*journal:.*?-->.*?<!--\s*/journal\s*-->", re.DOTALL)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_TARGET = re.compile(r"\]\([^)\s]*(?:\s+\"[^\"]*\")?\)|<?https?://[^\s>)]+>?|<[a-zA-Z/][^<>]*>")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.*)")
_NUMBER = re.compile(
    r"(?P<sign>(?<!\d)[-+−])?(?P<digits>\d{1,3}(?:[,\u2009\u202f\u00a0]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?P<power>[eE][-+]?\d+)?"
)
_JOINT = re.compile(r"\s*(?:to|and|or|,|–|—|-|/|±|\+/-|\()\s*(?:and|or)?\s*")
_ABOUT = re.compile(
    r"(?:\b(?:about|around|roughly|some|nearly|almost|approximately|approx\.|ca\.?)\s*|[~≈]\s*)$", re.IGNORECASE
)
_OVER = re.compile(r"(?:\b(?:over|above|more than|at least)\s*|(?:[>≥]|>=)\s*)$", re.IGNORECASE)
_UNDER = re.compile(r"(?:\b(?:under|below|less than|at most|fewer than)\s*|(?:[<≤]|<=)\s*)$", re.IGNORECASE)
_SPREAD = re.compile(r"(?:±|\+/-)\s*$")
_NAMED = re.compile(  # "Python 3.11" is no figure
    r"\b(?:version|v|release|section|chapter|figure|fig\.|table|step|day|schema|python|cuda|rocm|rust|torch|pytorch|"
    r"vllm|triton|ubuntu|debian|linux|llama|gemma|qwen|phi|mistral)[\s-]*$",
    re.IGNORECASE,
)
_LEVEL = re.compile(r"\s*(?:confidence|intervals?\b|CI\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that claims to be measured. `value` and `step` are in its dimension's own unit."""

    line: int  # from 1
    text: str  # as it stands there, with its unit
    value: float
    step: float  # of its last digit
    dimension: str
    unit: str
    manner: Manner = "exact"


def figures_in(page: str, units: Iterable[str] = ()) -> list[Figure]:
    """The figures of a Markdown page, in order. `units` are further ones, of the Records at hand."""
    known = _unit_pattern(units)
    found: list[Figure] = []
    lines = _checked_lines(page)
    header: list[str] = []
    for at, (number, line) in enumerate(lines):
        if line.lstrip().startswith("|"):
            cells = _cells(line)
            ruled = at + 1 < len(lines) and _is_rule(lines[at + 1][1])
            if ruled:
                header = cells
            elif not _is_rule(line):
                found += _in_row(cells, header, number, known)
        else:
            header = []
            found += _in_text(line, number, known)
    return found


def without_code(page: str) -> str:
    """As many lines, those of code blank, and code within lines too."""
    return _CODE.sub(lambda m: _blank(m[0]), "\n".join(_blank_code(page)))


def _checked_lines(page: str) -> list[tuple[int, str]]:
    """(number, text) of each line that may hold figures, blanked where it may not."""
    lines = _blank_code(page)
    text = _GENERATED.sub(lambda m: _blank(m[0]), "\n".join(lines))
    marked = {i for match in _MARK.finditer(text) for i in _marked_lines(text, match)}
    for pattern in (_COMMENT, _CODE, _TARGET):
        text = pattern.sub(lambda m: _blank(m[0]), text)
    kept = []
    plan = 0  # the level of the heading that announced a plan
    for index, line in enumerate(text.split("\n")):
        if heading := _HEADING.match(line):
            level = len(heading[1])
            if not plan or level <= plan:
                plan = level if heading[2].strip().lower().startswith(_PLANS) else 0
        kept.append((index + 1, "" if heading or plan or index in marked else line))
    return kept


def _blank_code(page: str) -> list[str]:
    lines = page.splitlines()
    fence = ""
    for index, line in enumerate(lines):
        match = _FENCE.match(line)
        if fence:
            lines[index] = ""
            if match and match[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif match:
            fence = match[1]
            lines[index] = ""
    return lines


def _marked_lines(text: str, mark: re.Match[str]) -> range:
    """Which lines, from 0, a mark speaks of: its own, or if it stands alone the block after it."""
    first = text.count("\n", 0, mark.start())
    last = text.count("\n", 0, mark.end())
    lines = text.split("\n")
    alone = not _COMMENT.sub("", "\n".join(lines[first : last + 1])).strip()
    if not alone:
        return range(first, last + 1)
    end = last + 1
    while end < len(lines) and not lines[end].strip():
        end += 1
    while end < len(lines) and lines[end].strip():
        end += 1
    return range(first, end)


def _blank(text: str) -> str:
    """As long, with the same line breaks, and a letter at each end so that no unit joins across it."""
    return re.sub(r"[^\n]", " ", text)


def _cells(line: str) -> list[str]:
    return [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _is_rule(line: str) -> bool:
    return bool(re.fullmatch(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*", line)) and "-" in line


def _in_row(cells: list[str], header: list[str], number: int, known: re.Pattern[str]) -> Iterator[Figure]:
    """A bare number has the unit of its column's heading, or else that in the row's column called "unit"."""
    own = next((cell for cell, name in zip(cells, header, strict=False) if name.lower() in ("unit", "units")), "")
    for column, cell in enumerate(cells):
        heading = header[column] if column < len(header) else ""
        match = re.search(rf"(?:[,(\[]|\bin)\s*({known.pattern})\s*[)\]]?\s*$", heading) or known.fullmatch(heading)
        unit = (match[1] if match and match.re.groups and match[match.re.groups] else match[0]) if match else own
        yield from _in_text(cell, number, known, unit)


def _in_text(text: str, line: int, known: re.Pattern[str], default: str = "") -> Iterator[Figure]:
    numbers = [match for match in _NUMBER.finditer(text) if _stands_alone(text, match, known)]
    units = [match[0] if (match := _unit_after(text, number, known)) else "" for number in numbers]
    for at in range(len(numbers) - 2, -1, -1):  # "12 to 14 ms", "3.1, 3.2 and 3.4 s"
        if not units[at] and _JOINT.fullmatch(text[numbers[at].end() : numbers[at + 1].start()]):
            units[at] = units[at + 1]
    for match, own in zip(numbers, units, strict=True):
        unit = own or default
        digits = match["digits"]
        if not unit and "." not in digits and not match["power"]:
            continue
        before = text[: match.start()]
        if not own and _NAMED.search(before):
            continue
        if own in ("%", "percent") and _LEVEL.match(text, text.index(own, match.end()) + len(own)):
            continue
        if own == "cores" and "." not in digits:
            continue
        yield _figure(match, unit, line, before)


def _figure(match: re.Match[str], unit: str, line: int, before: str) -> Figure:
    digits = re.sub(r"[,\u2009\u202f\u00a0]", "", match["digits"])
    exponent = int(match["power"][1:]) if match["power"] else 0
    decimals = len(digits.partition(".")[2])
    manner: Manner = "exact"
    for pattern, name in ((_ABOUT, "about"), (_OVER, "over"), (_UNDER, "under"), (_SPREAD, "spread")):
        if pattern.search(before):
            manner = name  # type: ignore[assignment]
    if manner == "about" and not decimals:
        decimals = -(len(digits) - len(digits.rstrip("0"))) if digits.strip("0") else 0
    dimension, factor = dimension_of(unit) if unit else (ANY, 1.0)
    value = float(digits) * 10.0**exponent * factor
    step = 10.0 ** (exponent - decimals) * factor
    negative = match["sign"] in ("-", "−") and not before[-1:].isdigit()
    return Figure(line, f"{match[0]} {unit}".strip(), -value if negative else value, step, dimension, unit, manner)


def _stands_alone(text: str, match: re.Match[str], known: re.Pattern[str]) -> bool:
    """Not part of a name, a version, a date or a time of day."""
    before, after = text[: match.start()], text[match.end() :]
    last = before[-1:]
    if last.isalnum() or (last and last in "./:#§$@") or re.search(r"\w_$", before):
        return False
    if re.search(r"[^\W\d_][\w.]*-$", before) or (match["sign"] and re.search(r"[^\W\d_]$", before)):
        return False  # of "Q4-8", not of "12-14"
    if re.match(r"[.:]\d|-\d\d-\d\d", after):
        return False
    return not re.match(r"[^\W\d_]", after) or known.match(after) is not None


def _unit_after(text: str, match: re.Match[str], known: re.Pattern[str]) -> re.Match[str] | None:
    gap = re.compile(r"[ \u00a0\u202f\u2009]?").match(text, match.end())
    return known.match(text, gap.end() if gap else match.end())


def _unit_pattern(more: Iterable[str]) -> re.Pattern[str]:
    words = sorted({*UNITS, *more} - {"1", "ratio", "share", "OPS", "OP/s"}, key=lambda word: (-len(word), word))
    return re.compile("|".join(re.escape(word) + (r"(?![^\W_]|/)" if word[-1].isalnum() else "") for word in words))
