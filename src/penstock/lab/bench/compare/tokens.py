"""What engines count, checked: the same text has the same tokens whoever serves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from penstock.lab.bench.observations import Ending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.lab.bench.observations import Observations

_MOST_OFF = 0.05  # text made of tokens seldom reads back as exactly the same ones
_MOST_SHORT = 0.02
_MOST_CACHED = 0.01


class Tokenizing(Protocol):
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text's tokens."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Over all whole answers of one engine. None: not told, or nothing to check with."""

    output_tokens: float | None  # an answer, as the engine counts them
    prompt_tokens: float | None
    wanted_share: float | None  # of the output tokens that were asked for
    tokens_per_chunk: float | None
    recount: float | None  # tokens that the tokenizer finds in the text, over those the engine counts
    cached_share: float | None  # of prompt tokens that came from a prefix cache

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """For tables."""
        cells = (
            ("output tokens an answer", self.output_tokens, "{:.1f}"),
            ("of those asked for", self.wanted_share, "{:.1%}"),
            ("tokenizer's count over the engine's", self.recount, "{:.3f}"),
            ("tokens a chunk", self.tokens_per_chunk, "{:.2f}"),
            ("prompt tokens", self.prompt_tokens, "{:.1f}"),
            ("from a prefix cache", self.cached_share, "{:.1%}"),
        )
        return tuple((name, "–" if value is None else form.format(value)) for name, value, form in cells)

    @property
    def warnings(self) -> tuple[str, ...]:
        said = []
        if self.output_tokens is None:
            said.append("It tells no token counts: each chunk counts as one output token.")
        if self.recount is not None and abs(self.recount - 1) > _MOST_OFF:
            said.append(f"The tokenizer finds {self.recount:.2f} times the output tokens that it counts.")
        if self.wanted_share is not None and self.wanted_share < 1 - _MOST_SHORT:
            said.append(
                f"Its answers have {self.wanted_share:.0%} of the tokens asked for: whole requests are shorter."
            )
        if self.cached_share is not None and self.cached_share > _MOST_CACHED:
            said.append(f"{self.cached_share:.0%} of its prompt tokens came from a prefix cache.")
        return tuple(said)


def count(runs: Sequence[Observations], tokenizer: Tokenizing | None) -> Counts:
    """`tokenizer` is the model's; None: nothing is counted again."""
    good = [run.where((run.ending == Ending.WHOLE) & ~run.warm_up) for run in runs]
    told = np.concatenate([run.completion_tokens for run in good]) if good else np.empty(0, np.int32)
    pieces = np.concatenate([run.piece_counts for run in good]) if good else np.empty(0, np.uint32)
    wanted = np.concatenate([run.wanted_output for run in good]) if good else np.empty(0, np.int32)
    prompts = np.concatenate([run.prompt_tokens for run in good]) if good else np.empty(0, np.int32)
    cached = np.concatenate([run.cached_tokens for run in good]) if good else np.empty(0, np.int32)
    known = told > 0
    asked = prompts > 0
    output = float(told[known].sum())
    return Counts(
        output_tokens=_ratio(output, known.sum()),
        prompt_tokens=_ratio(prompts[asked].sum(), asked.sum()),
        wanted_share=_ratio(output, wanted[known].sum()),
        tokens_per_chunk=_ratio(output, pieces[known].sum()),
        recount=None if tokenizer is None else _recount(good, tokenizer),
        cached_share=_ratio(cached[asked & (cached >= 0)].sum(), prompts[asked & (cached >= 0)].sum()),
    )


def _recount(runs: Sequence[Observations], tokenizer: Tokenizing) -> float | None:
    """Over the answers whose text was kept."""
    again = engine = 0
    for run in runs:
        for number, tokens in zip(run.id.tolist(), run.completion_tokens.tolist(), strict=True):
            if tokens > 0 and (text := run.texts.get(number)):
                again += len(tokenizer.encode(text, add_special_tokens=False))
                engine += tokens
    return _ratio(again, engine)


def _ratio(over: float, under: float) -> float | None:
    return float(over) / float(under) if under else None
