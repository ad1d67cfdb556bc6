"""What the columns of a table mean: as they were named with `--columns`, else as their headings say.

A column is a figure (`ttft.p50:ms`), or a label: `subject`, `version`, `model`, `hardware`, `devices`, `dtype`,
`params`, `concurrency`, `rate`, `config.NAME`, `workload.NAME`; `-` leaves it out. Only a figure whose unit is written
down is taken from a heading.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.core.suggest import did_you_mean
from penstock.lab.imports.figures import COUNTS, LATENCIES, LENGTHS, RATES, STATISTICS, UNITS
from penstock.lab.imports.reading import bad
from penstock.lab.journal.units import dimension_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LABELS = ("subject", "version", "model", "hardware", "devices", "dtype", "params", "concurrency", "rate")
NUMBERS = ("devices", "concurrency", "rate")  # labels of which one can be made
ABSENT = frozenset(("", "-", "–", "—", "n/a", "na", "none", "null"))
_SINGLE = {*RATES, *COUNTS, "duration", "streams"}
_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)?(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)

_STATISTIC_WORDS = {
    "mean": "mean", "avg": "mean", "average": "mean", "median": "p50", "min": "min", "max": "max", "std": "std",
    "stddev": "std", **{f"{prefix}{n}{suffix}": f"p{n}" for n in (50, 90, 95, 99) for prefix, suffix in
                        (("p", ""), ("", "th"), ("", "%"), ("", "%ile"))},
}  # fmt: skip
_UNIT_WORDS = {
    "ms": "ms", "msec": "ms", "milliseconds": "ms", "s": "s", "sec": "s", "secs": "s", "seconds": "s", "us": "us",
    "µs": "us", "microseconds": "us", "ns": "ns",
    "tokens/s": "tokens/s", "tok/s": "tokens/s", "token/s": "tokens/s", "tokens/sec": "tokens/s", "tps": "tokens/s",
    "toks/s": "tokens/s", "tok/sec": "tokens/s", "t/s": "tokens/s",
    "req/s": "requests/s", "requests/s": "requests/s", "requests/sec": "requests/s", "req/sec": "requests/s",
    "reqs/s": "requests/s", "rps": "requests/s", "qps": "requests/s", "tokens": "tokens", "requests": "requests",
}  # fmt: skip
_QUANTITY_WORDS = {
    "ttft": "ttft", "time to first token": "ttft", "first token latency": "ttft",
    "tpot": "tpot", "time per output token": "tpot",
    "itl": "itl", "inter token latency": "itl", "intertoken latency": "itl",
    "e2e": "e2e", "e2el": "e2e", "e2e latency": "e2e", "end to end": "e2e", "end to end latency": "e2e",
    "request latency": "e2e", "latency": "e2e",
    "output": "output_throughput", "output throughput": "output_throughput", "generation": "output_throughput",
    "output token throughput": "output_throughput", "generation throughput": "output_throughput",
    "decode throughput": "output_throughput", "output tokens": "output_throughput",
    "total": "total_throughput", "total throughput": "total_throughput", "total token throughput": "total_throughput",
    "total tokens": "total_throughput",
    "request throughput": "request_throughput", "request": "request_throughput", "goodput": "goodput",
}  # fmt: skip
_PLAIN = {
    "output tokens": "output_tokens", "osl": "output_tokens", "output len": "output_tokens",
    "output length": "output_tokens", "output sequence length": "output_tokens",
    "isl": "prompt_tokens", "input tokens": "prompt_tokens", "prompt tokens": "prompt_tokens",
    "input len": "prompt_tokens", "input length": "prompt_tokens", "prompt len": "prompt_tokens",
    "prompt length": "prompt_tokens", "input sequence length": "prompt_tokens",
    "requests": "requests", "num requests": "requests", "completed": "requests", "completed requests": "requests",
    "errors": "errors", "failed": "errors", "failed requests": "errors",
    "concurrency": "concurrency", "max concurrency": "concurrency", "concurrent requests": "concurrency",
    "conc": "concurrency", "users": "concurrency", "rate": "rate", "request rate": "rate",
    "engine": "subject", "framework": "subject", "backend": "subject", "server": "subject", "system": "subject",
    "subject": "subject", "version": "version", "model": "model", "model id": "model", "gpu": "hardware",
    "hardware": "hardware", "accelerator": "hardware", "dtype": "dtype", "precision": "dtype", "gpus": "devices",
    "num gpus": "devices", "tp": "devices", "devices": "devices", "params": "params", "parameters": "params",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """What stands in one column."""

    heading: str
    target: str  # a quantity, a label, "config.NAME", "workload.NAME", or "-"
    statistic: str = "mean"
    factor: float = 1.0  # to the quantity's own unit
    guess: str = ""  # what was taken for granted: a note

    @property
    def figure(self) -> bool:
        return self.target in UNITS


def columns_of(path: Path, line: int, headings: Sequence[str], asked: Sequence[str]) -> list[Column]:
    """One for each heading.

    Args:
        asked: "HEADING=TARGET", or "#3=TARGET" for the third column; several with commas.

    Raises:
        InvalidRequestError: a mapping that can't be, a figure without a unit, two columns that tell the same.
    """
    named = _named(headings, asked)
    found = [named.get(i) or _guessed(path, line, heading) for i, heading in enumerate(headings)]
    seen: dict[tuple[str, str], int] = {}
    for i, column in enumerate(found):
        if column.target == "-" or column.target.startswith("workload."):
            continue
        if (first := seen.setdefault((column.target, column.statistic), i)) != i:
            what = column.target + (f".{column.statistic}" if column.figure else "")
            raise bad(
                path, f"Columns {first + 1} ({headings[first]!r}) and {i + 1} ({column.heading!r}) both tell {what};"
                f" leave one out with --columns '#{i + 1}=-'.", line=line,
            )  # fmt: skip
    if not any(column.figure for column in found):
        raise bad(
            path, "No column is known to be a figure; say which are, as in --columns 'HEADING=ttft.p50:ms'. There are "
            f"{', '.join(map(repr, headings[:12]))}.", line=line,
        )  # fmt: skip
    return found


def _named(headings: Sequence[str], asked: Sequence[str]) -> dict[int, Column]:
    found: dict[int, Column] = {}
    for part in (each.strip() for one in asked for each in one.split(",") if each.strip()):
        heading, equals, target = part.rpartition("=")
        if not equals or not target.strip():
            raise _wrong(f"{part!r} is no mapping; write HEADING=TARGET, as in 'TTFT=ttft.p50:ms'.")
        heading = heading.strip()
        if re.fullmatch(r"#\d+", heading):
            i = int(heading[1:]) - 1
            if not 0 <= i < len(headings):
                raise _wrong(f"There is no column {heading}; there are {len(headings)}.")
        elif heading in headings:
            i = list(headings).index(heading)
        else:
            raise _wrong(f"There is no column {heading!r}.{did_you_mean(heading, headings)} There are"
                         f" {', '.join(map(repr, headings))}.")  # fmt: skip
        found[i] = _column(headings[i], target.strip())
    return found


def _column(heading: str, target: str) -> Column:
    if target == "-" or target in LABELS or re.fullmatch(r"(config|workload)\.\S+", target):
        return Column(heading, target)
    name, _, unit = target.partition(":")
    quantity, _, statistic = name.partition(".")
    if quantity not in UNITS:
        known = [*UNITS, *LABELS]
        raise _wrong(f"{quantity!r} is nothing that a record keeps.{did_you_mean(quantity, known)} Known are"
                     f" {', '.join(known)}, config.NAME and workload.NAME.")  # fmt: skip
    if statistic and (statistic not in STATISTICS or (quantity in _SINGLE and statistic != "mean")):
        raise _wrong(f"{name!r}: {quantity} has no {statistic!r}.")
    if not unit and quantity in LATENCIES:
        raise _wrong(f"{target!r} names no unit; write {name}:ms or {name}:s.")
    return Column(heading, quantity, statistic or "mean", _factor(quantity, unit or UNITS[quantity]))


def _factor(quantity: str, unit: str) -> float:
    own, factor = dimension_of(_UNIT_WORDS.get(unit, unit))
    wanted, divisor = dimension_of(UNITS[quantity])
    if own != wanted:
        raise _wrong(f"{quantity} is in {UNITS[quantity]}, which {unit!r} is not.")
    return factor / divisor


def _guessed(path: Path, line: int, heading: str) -> Column:
    words, statistic, unit = _taken_apart(heading)
    plain = " ".join(words)
    if not unit and not statistic and plain in _PLAIN:
        return Column(heading, _PLAIN[plain])
    if unit in ("tokens", "requests") and _PLAIN.get(plain) in (*LENGTHS, *COUNTS):
        return Column(heading, _PLAIN[plain], statistic or "mean")
    if not unit and _PLAIN.get(plain) in LENGTHS:
        return Column(heading, _PLAIN[plain], statistic)
    quantity = _QUANTITY_WORDS.get(plain)
    guess = ""
    if plain in ("", "throughput", "token throughput") and unit in ("tokens/s", "requests/s"):
        quantity = "output_throughput" if unit == "tokens/s" else "request_throughput"
        guess = f"Column {heading!r} is taken for {quantity}." if unit == "tokens/s" else ""
    if quantity in LATENCIES and not unit:
        raise bad(path, f"Column {heading!r} names no unit; say it with --columns"
                  f" '{heading}={quantity}.{statistic or 'mean'}:ms'.", line=line)  # fmt: skip
    if quantity is None or not unit or dimension_of(unit)[0] != dimension_of(UNITS[quantity])[0]:
        return Column(heading, f"workload.{heading}")
    if not statistic and quantity in LATENCIES:
        guess = f"Column {heading!r} names no statistic: it is taken for the mean."
    if quantity in _SINGLE and statistic not in ("", "mean"):
        return Column(heading, f"workload.{heading}")
    return Column(heading, quantity, statistic or "mean", _factor(quantity, unit), guess)


def _taken_apart(heading: str) -> tuple[list[str], str, str]:
    """ "P99 TTFT (ms)" -> (["ttft"], "p99", "ms")."""
    text = heading.strip().lower().replace(" per second", "/s").replace(" / ", "/")
    unit = ""
    for match in re.finditer(r"[(\[]\s*([^()\[\]]+?)\s*[)\]]", text):
        if match[1] in _UNIT_WORDS:
            unit = _UNIT_WORDS[match[1]]
        elif match[1] not in _STATISTIC_WORDS:
            return [text], "", ""
        text = text.replace(match[0], " " if match[1] in _UNIT_WORDS else f" {match[1]} ")
    words = [word for word in re.split(r"[\s_,:.\-]+", text) if word]
    statistic, rest = "", []
    for i, word in enumerate(words):
        if not statistic and word in _STATISTIC_WORDS:
            statistic = _STATISTIC_WORDS[word]
        elif not unit and word in _UNIT_WORDS and word != "requests" and (i == len(words) - 1 or "/" in word) and (
            word != "tokens"
        ):  # fmt: skip
            unit = _UNIT_WORDS[word]
        else:
            rest.append(word)
    return rest, statistic, unit


def number_of(path: Path, line: int, text: str, heading: str = "") -> tuple[float, float]:
    """A cell's number and half of its last digit: "1,234.5" -> (1234.5, 0.05). NaN is for physics to name.

    Raises InvalidRequestError.
    """
    plain = text.strip()
    if plain.lower() in ("nan", "inf", "-inf", "infinity", "-infinity"):
        return float(plain), 0.0
    match = _NUMBER.fullmatch(plain)
    if match is None or not any(digit.isdecimal() for digit in plain) or not (match[1] or match[3]):
        where = f" in column {heading!r}" if heading else ""
        raise bad(path, f"{text[:40]!r}{where} is no number.", line=line)
    value = float(plain.replace(",", ""))
    decimals = len(match[3] or ".") - 1 - int((match[4] or "e0")[1:])
    return value, 0.5 * 10.0 ** -min(decimals, 30) if decimals > -30 else 0.0


def _wrong(what: str) -> InvalidRequestError:
    return InvalidRequestError(f"--columns: {what}", param="columns")
