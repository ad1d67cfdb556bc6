"""Conversations: each answer is said before the next turn is asked, after a time to think.

What: a system prompt that some conversations share, a first question, further ones; all that was said before is sent
again each time, which is what a prefix cache is for.
Trade-offs: answers are the model's own, so a turn's length in tokens is known only beforehand for what is new in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

from penstock.lab.bench.planned import Planned, Turn
from penstock.lab.bench.workloads.kinds import OUTPUT, Kind, Option, lengths, whole
from penstock.lab.bench.workloads.lengths import tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from penstock.lab.bench.planned import Message
    from penstock.lab.bench.workloads.kinds import Making
    from penstock.lab.bench.workloads.lengths import Distribution
    from penstock.lab.bench.workloads.wordlist import WordList


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """Endless; each request is a conversation's first turn and brings the others along."""

    name: str
    seed: int
    words: WordList
    turns: Distribution
    think: Distribution  # s
    systems: int  # different system prompts; 0: none
    system_tokens: Distribution
    input_tokens: Distribution  # of the first turn
    followup_tokens: Distribution  # of each later one
    output_tokens: Distribution

    def describe(self) -> dict[str, Any]:
        """For records."""
        names = ("turns", "think", "system_tokens", "input_tokens", "followup_tokens", "output_tokens")
        return {name: str(getattr(self, name)) for name in names} | {
            "systems": self.systems,
            "exact": self.words.exact,
        }

    def requests(self) -> Iterator[Planned]:
        """Endless."""
        random, words = Random(f"conversations {self.seed}"), self.words
        first = random.randrange(1 << 40)
        systems = [
            words.text(words.draw(random, tokens(self.system_tokens, random), first + number))
            for number in range(self.systems)
        ]
        for number in count(first):
            said: list[Message] = [{"role": "system", "content": random.choice(systems)}] if systems else []
            said.append({"role": "user", "content": self._text(random, self.input_tokens, number)})
            yield Planned(
                prompt=said,
                max_tokens=tokens(self.output_tokens, random),
                turns=tuple(
                    Turn(
                        text=self._text(random, self.followup_tokens, number),
                        max_tokens=tokens(self.output_tokens, random),
                        think=self.think.draw(random),
                    )
                    for _ in range(tokens(self.turns, random) - 1)
                ),
            )

    def _text(self, random: Random, length: Distribution, number: int) -> str:
        return self.words.text(self.words.draw(random, tokens(length, random), number))


def _build(making: Making, given: Mapping[str, Any]) -> Conversations:
    return Conversations(name="conversations", seed=making.seed, words=making.words, **given)


CONVERSATIONS = Kind(
    "conversations",
    "Chats of several turns, each with all that was said before (the chat API).",
    (
        Option("turns", lengths, "1-8", "Turns of a conversation."),
        Option("think", lengths, "exponential:mean=2", "Seconds from an answer's end to the next turn."),
        Option("systems", whole(0, 1_000_000), 1, "How many system prompts there are; 0 for none."),
        Option("system_tokens", lengths, "64", "Length of system prompts."),
        Option("input_tokens", lengths, "128", "Length of the first turn."),
        Option("followup_tokens", lengths, "10-60", "Length of later turns."),
        OUTPUT,
    ),
    _build,
)
