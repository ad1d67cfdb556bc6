"""What a kind of workload says of itself: its name, its options, and how it is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.errors import InvalidRequestError, NotFoundError
from penstock.core.suggest import did_you_mean
from penstock.lab.bench.workloads.lengths import parse_distribution
from penstock.lab.bench.workloads.wordlist import WordList

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from penstock.lab.bench.workloads.base import Workload
    from penstock.lab.bench.workloads.lengths import Distribution
    from penstock.lab.bench.workloads.wordlist import Tokenizing

_YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Option:
    """One option; `read` makes its value of text or of a TOML value, and raises InvalidRequestError with its name."""

    name: str
    read: Callable[[Any, str], Any]
    default: Any  # as it may be written; None: not set
    help: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of workload. `build` takes the options' values by name."""

    name: str
    summary: str
    options: tuple[Option, ...]
    build: Callable[[Making, Mapping[str, Any]], Workload]
    takes_path: bool = False

    @property
    def written(self) -> str:
        """How it is named where one is asked for."""
        return f"{self.name}:FILE" if self.takes_path else self.name

    def make(self, given: Mapping[str, Any], seed: int, tokenizer: Tokenizing | None) -> Workload:
        """Read the options and build it. Raises InvalidRequestError for one that it hasn't, or that can't be read."""
        known = {option.name: option for option in self.options}
        for name in given:
            if name not in known:
                raise InvalidRequestError(
                    f"The workload {self.name} has no option {name!r}.{did_you_mean(name, known)} It has"
                    f" {', '.join(known)}.",
                    param=name,
                    code="unknown_option",
                )
        if self.takes_path and not given.get("path"):
            raise InvalidRequestError(f"The workload {self.name} needs a file: {self.written}.", param="path")
        values = {}
        for name, option in known.items():
            value = given.get(name)
            value = option.default if value is None else value
            values[name] = None if value is None else option.read(value, name)
        if values.get("prompt") == "ids" and tokenizer is None:
            raise InvalidRequestError("Prompts of token ids need a --tokenizer.", param="prompt")
        return self.build(Making(seed, tokenizer), values)


class Making:
    """What every workload is made with."""

    def __init__(self, seed: int, tokenizer: Tokenizing | None) -> None:
        self.seed = seed
        self.tokenizer = tokenizer

    @property
    def words(self) -> WordList:
        """Of the tokenizer; the common ones without."""
        return WordList.common() if self.tokenizer is None else WordList.of(self.tokenizer)


def whole(low: int, high: int = 10**9) -> Callable[[Any, str], int]:
    """Reads a whole number from `low` to `high`."""

    def read(value: Any, name: str) -> int:
        try:
            number = int(str(value))
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise InvalidRequestError(f"{name} is a whole number from {low} to {high}; got {value!r}.", param=name)
        return number

    return read


def real(low: float, high: float) -> Callable[[Any, str], float]:
    """Reads a number from `low` to `high`."""

    def read(value: Any, name: str) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = low - 1
        if not low <= number <= high:
            raise InvalidRequestError(f"{name} is a number from {low:g} to {high:g}; got {value!r}.", param=name)
        return number

    return read


def lengths(value: Any, name: str) -> Distribution:
    """Reads a distribution."""
    return parse_distribution(value, name)


def word(*known: str) -> Callable[[Any, str], str]:
    """Reads one of some words."""

    def read(value: Any, name: str) -> str:
        if value not in known:
            raise InvalidRequestError(
                f"{name} is one of {', '.join(known)}; got {value!r}.{did_you_mean(str(value), known)}", param=name
            )
        return str(value)

    return read


def switch(value: Any, name: str) -> bool:
    """Reads yes or no."""
    found = _YES_NO.get(str(value).lower())
    if found is None:
        raise InvalidRequestError(f"{name} is yes or no; got {value!r}.", param=name)
    return found


def existing(value: Any, name: str) -> Path:
    """Reads a path where something is. Raises NotFoundError if nothing is."""
    path = Path(str(value)).expanduser()
    if not path.exists():
        raise NotFoundError(f"There is no file {path}.", param=name)
    return path


INPUT = Option("input_tokens", lengths, "128", "Length of prompts.")
OUTPUT = Option("output_tokens", lengths, "64", "Length of answers.")
FORM = Option("prompt", word("text", "ids"), "text", "text, or token ids (the completions API; needs a tokenizer).")
