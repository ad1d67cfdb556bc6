"""Questions about long documents: the same long beginning, asked about several times.

What: a prompt is a document and then a question of its own. In order `tile` all documents are asked about once, then
all again, so that a cache holds them all or loses each before it is needed; `each` asks all questions of one document
in a row; `random` takes any.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

from penstock.lab.bench.planned import Planned
from penstock.lab.bench.workloads.kinds import FORM, OUTPUT, Kind, Option, lengths, whole, word
from penstock.lab.bench.workloads.lengths import tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from penstock.lab.bench.workloads.kinds import Making
    from penstock.lab.bench.workloads.lengths import Distribution
    from penstock.lab.bench.workloads.wordlist import Form, WordList


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Endless; after `questions` rounds each document gives way to a new one."""

    name: str
    seed: int
    words: WordList
    form: Form
    documents: int
    questions: int
    order: str
    document_tokens: Distribution
    question_tokens: Distribution
    output_tokens: Distribution

    def describe(self) -> dict[str, Any]:
        """For records."""
        return {
            "documents": self.documents, "questions": self.questions, "order": self.order,
            "document_tokens": str(self.document_tokens), "question_tokens": str(self.question_tokens),
            "output_tokens": str(self.output_tokens), "prompt": self.form, "exact": self.words.exact,
        }  # fmt: skip

    def requests(self) -> Iterator[Planned]:
        """Endless."""
        random, words = Random(f"documents {self.seed}"), self.words
        first = random.randrange(1 << 40)
        numbers = count(first)
        for generation in count():
            own = [
                words.draw(random, tokens(self.document_tokens, random), first + generation * self.documents + number)
                for number in range(self.documents)
            ]
            for place in self._order(random):
                document, question = own[place], tokens(self.question_tokens, random)
                wanted = len(document) + question
                drawn = words.draw(random, max(1, words.count(wanted, self.form) - len(document)), next(numbers))
                yield Planned(
                    prompt=words.prompt(document + drawn, self.form),
                    max_tokens=tokens(self.output_tokens, random),
                    prompt_tokens=wanted if words.exact else None,
                )

    def _order(self, random: Random) -> list[int]:
        """Of one generation's documents, by their places."""
        if self.order == "each":
            return [place for place in range(self.documents) for _ in range(self.questions)]
        places = [place for _ in range(self.questions) for place in range(self.documents)]
        if self.order == "random":
            random.shuffle(places)
        return places


def _build(making: Making, given: Mapping[str, Any]) -> Documents:
    rest = {name: value for name, value in given.items() if name != "prompt"}
    return Documents(name="documents", seed=making.seed, words=making.words, form=given["prompt"], **rest)


DOCUMENTS = Kind(
    "documents",
    "Several questions about each of some long documents.",
    (
        Option("documents", whole(1, 100_000), 8, "How many documents there are at a time."),
        Option("document_tokens", lengths, "4000", "Length of documents."),
        Option("questions", whole(1, 1_000_000), 4, "Questions about each before it gives way to a new one."),
        Option("question_tokens", lengths, "32", "Length of questions."),
        Option("order", word("tile", "each", "random"), "tile", "tile: each once, then all again; each; random."),
        OUTPUT,
        FORM,
    ),
    _build,
)
