"""Prompts and answers of given lengths, of which a share begin alike.

What: each request draws a prompt length and an answer length; prompts are random words that begin differently.
Inputs: distributions of lengths; a number of prefixes, their length, and the share of requests that use one.
Trade-offs: the lengths are exact, so that engines do the same work; random words say nothing of quality, and an engine
that speculates from the prompt finds less to copy than in real text.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

from penstock.lab.bench.planned import Planned
from penstock.lab.bench.workloads.kinds import FORM, INPUT, OUTPUT, Kind, Option, lengths, real, whole
from penstock.lab.bench.workloads.lengths import tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from penstock.lab.bench.workloads.kinds import Making
    from penstock.lab.bench.workloads.lengths import Distribution
    from penstock.lab.bench.workloads.wordlist import Form, WordList


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """Endless. A request with a prefix has the prefix's tokens and then `input_tokens` of its own."""

    name: str
    seed: int
    words: WordList
    form: Form
    input_tokens: Distribution
    output_tokens: Distribution
    prefixes: int = 0
    prefix_tokens: Distribution | None = None
    prefix_share: float = 0.0

    def describe(self) -> dict[str, Any]:
        """For records."""
        shown = {
            "input_tokens": str(self.input_tokens),
            "output_tokens": str(self.output_tokens),
            "prompt": self.form,
            "exact": self.words.exact,
        }
        if self.prefixes:
            shown |= {
                "prefixes": self.prefixes,
                "prefix_tokens": str(self.prefix_tokens),
                "prefix_share": self.prefix_share,
            }
        return shown

    def requests(self) -> Iterator[Planned]:
        """Endless."""
        random, words = Random(f"synthetic {self.seed}"), self.words
        first = random.randrange(1 << 40)  # so that other seeds begin otherwise
        prefixes = self._prefixes()
        for number in count(first):
            own = tokens(self.input_tokens, random)
            shared = random.choice(prefixes) if prefixes and random.random() < self.prefix_share else []
            wanted = own + len(shared)
            drawn = words.draw(random, max(1, words.count(wanted, self.form) - len(shared)), number)
            yield Planned(
                prompt=words.prompt(shared + drawn, self.form),
                max_tokens=tokens(self.output_tokens, random),
                prompt_tokens=wanted if words.exact else None,
            )

    def _prefixes(self) -> list[list[int]]:
        if not self.prefixes or self.prefix_tokens is None:
            return []
        random = Random(f"prefixes {self.seed}")
        first = random.randrange(1 << 40)
        return [
            self.words.draw(random, tokens(self.prefix_tokens, random), first + number)
            for number in range(self.prefixes)
        ]


def _synthetic(making: Making, given: Mapping[str, Any]) -> Synthetic:
    return Synthetic(
        name="synthetic", seed=making.seed, words=making.words, form=given["prompt"],
        input_tokens=given["input_tokens"], output_tokens=given["output_tokens"],
    )  # fmt: skip


def _prefixes(making: Making, given: Mapping[str, Any]) -> Synthetic:
    return Synthetic(
        name="prefixes", seed=making.seed, words=making.words, form=given["prompt"],
        input_tokens=given["input_tokens"], output_tokens=given["output_tokens"],
        prefixes=given["prefixes"], prefix_tokens=given["prefix_tokens"], prefix_share=given["share"],
    )  # fmt: skip


SYNTHETIC = Kind(
    "synthetic", "Random words in given lengths; no two prompts begin alike.", (INPUT, OUTPUT, FORM), _synthetic
)
PREFIXES = Kind(
    "prefixes",
    "Prompts of which a share begin with one of some prefixes, as system prompts do.",
    (
        Option("prefixes", whole(1, 1_000_000), 8, "How many prefixes there are, each as likely."),
        Option("prefix_tokens", lengths, "512", "Length of prefixes."),
        Option("share", real(0, 1), 1.0, "Share of requests that begin with one."),
        Option("input_tokens", lengths, "128", "Length of what follows the prefix."),
        OUTPUT,
        FORM,
    ),
    _prefixes,
)
