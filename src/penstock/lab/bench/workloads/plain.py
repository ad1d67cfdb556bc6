"""Random words, about a token each."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from penstock.lab.bench.planned import Planned

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORDS = (
    "the water and light from under stone river wheel turn power head gate flow wall room time hand day year night"
    " house door road tree wind rain salt iron glass paper sound word line field book city music story"
).split()


@dataclass(frozen=True, slots=True)
class Words:
    """Prompts of `input_words` words, answers of `output_tokens` tokens."""

    seed: int
    input_words: int
    output_tokens: int

    @property
    def name(self) -> str:
        return "words"

    def describe(self) -> dict[str, Any]:
        return {"input_words": self.input_words, "output_tokens": self.output_tokens}

    def requests(self) -> Iterator[Planned]:
        random = Random(f"words {self.seed}")
        while True:
            yield Planned(" ".join(random.choices(_WORDS, k=self.input_words)), self.output_tokens)
