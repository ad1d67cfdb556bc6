"""Prompts of an exact number of tokens: random words of which each is one token.

A byte-level BPE or SentencePiece tokenizer splits at spaces before anything else, so words that are one token each
alone are so in a row; `WordList.of` keeps only words for which that holds, and tries a row of them. Without a tokenizer
there are the most common words of English, which the vocabularies in use nearly all have whole; the server's usage then
says how many tokens it took them for.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Literal, Protocol

from penstock.core.errors import ConfigError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from penstock.models.tokenizer import Tokenizer

Form = Literal["text", "ids"]

_ENOUGH = 4096  # words: two of them number 16 million prompts apart
_FEWEST = 64
_TRIED = 2048  # words of the row that is tried
_COMMON = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father power hour
game line end member law car city community name president team minute idea body information back parent face others
level office door health person art war history party result change reason research girl moment air teacher force
education foot boy age policy process music market sense nation plan college interest death experience effect use class
control care field development role rate heart drug show leader light voice wife mind price report decision son view
relationship town road arm difference value building action season tax director position player record paper space
ground form event official matter center site project activity star table need court oil cost industry figure street
image phone data picture practice piece land product doctor wall news test movie north love support technology step baby
computer type attention film tree source organization hair look window culture brother energy period course summer plant
term letter condition choice rule south floor material population call hospital church risk fire future bank
"""


class Tokenizing(Protocol):
    """What is asked of a tokenizer: `penstock.models.tokenizer.Tokenizer` is one."""

    vocab_size: int

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""

    def token_bytes(self, token_id: int) -> bytes:
        """One token's bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class WordList:
    """A vocabulary of words that are one token each, after a space; those in `starts` are so too where a text begins.

    Texts begin without a space, as chat templates may strip it.
    """

    pieces: tuple[str, ...]  # each with the space before it
    starts: tuple[int, ...]  # places in `pieces`
    token_ids: tuple[int, ...] | None  # of the pieces; None: no tokenizer was given
    start_ids: tuple[int, ...] | None  # of `starts` without their space
    specials: int  # tokens that the tokenizer puts around a text by itself

    @classmethod
    def common(cls) -> Self:
        """Without a tokenizer."""
        pieces = tuple(" " + word for word in dict.fromkeys(_COMMON.split()))
        return cls(pieces, tuple(range(len(pieces))), None, None, 0)

    @classmethod
    def of(cls, tokenizer: Tokenizing) -> Self:
        """The words of a tokenizer, the most common ones of a BPE vocabulary first.

        Raises:
            ConfigError: it has too few such words, or doesn't tell them apart in a row.
        """
        kept: list[tuple[int, str, int | None]] = []  # its id, the piece, and its id where a text begins
        for index in range(tokenizer.vocab_size):
            if len(kept) == _ENOUGH:
                break
            if re.fullmatch(rb" [a-z]{3,}", piece := tokenizer.token_bytes(index)):
                text = piece.decode()
                start = _one(tokenizer, text[1:])
                # A SentencePiece tokenizer that adds a space itself shows its token only where a text begins.
                if start == index or _one(tokenizer, text) == index:
                    kept.append((index, text, start))
        starts = tuple(place for place, (_, _, start) in enumerate(kept) if start is not None)
        if len(starts) < _FEWEST:
            raise ConfigError(
                f"Of this tokenizer's tokens only {len(starts)} are English words of their own; prompts of an exact"
                f" length need {_FEWEST}. Leave --tokenizer out: lengths are then what the server's usage says.",
                param="tokenizer",
            )
        words = cls(
            pieces=tuple(piece for _, piece, _ in kept),
            starts=starts,
            token_ids=tuple(index for index, _, _ in kept),
            start_ids=tuple(start for _, _, start in kept if start is not None),
            specials=len(tokenizer.encode("")),
        )
        row = words.draw(Random(0), _TRIED, 0)
        if tokenizer.encode(words.text(row), add_special_tokens=False) != words.ids(row):
            raise ConfigError(
                "This tokenizer doesn't split a text at its spaces, so prompts can't be made to an exact length."
                " Leave --tokenizer out: lengths are then what the server's usage says.",
                param="tokenizer",
            )
        return words

    @property
    def exact(self) -> bool:
        """Whether each word is known to be one token."""
        return self.token_ids is not None

    def draw(self, random: Random, count: int, number: int) -> list[int]:
        """`count` words, by their places in `pieces`, that begin as no other number's do.

        The first words of `len(starts)` numbers in a row all differ, and the first two of `len(pieces)` times as many:
        no block of a prefix cache is shared by accident.
        """
        size, (turn, place) = len(self.pieces), divmod(number, len(self.starts))
        first = self.starts[place * _step(len(self.starts)) % len(self.starts)]
        head = [first, (turn + place) % size][:count]
        return head + random.choices(range(size), k=count - len(head))

    def text(self, drawn: Sequence[int]) -> str:
        """The words as a text, which begins with one of `starts`."""
        return "".join(map(self.pieces.__getitem__, drawn))[1:]

    def ids(self, drawn: Sequence[int]) -> list[int]:
        """The tokens of that text. Raises InvalidRequestError without a tokenizer."""
        if self.token_ids is None or self.start_ids is None:
            raise InvalidRequestError("Prompts of token ids need a --tokenizer.", param="prompt")
        first = self.start_ids[bisect_left(self.starts, drawn[0])]
        return [first, *map(self.token_ids.__getitem__, drawn[1:])]

    def prompt(self, drawn: Sequence[int], form: Form) -> str | list[int]:
        """The words as a prompt of that form."""
        return self.text(drawn) if form == "text" else self.ids(drawn)

    def count(self, wanted: int, form: Form) -> int:
        """How many words make a prompt of `wanted` tokens, with those that the tokenizer adds to a text; at least 1."""
        return max(1, wanted - (self.specials if form == "text" else 0))


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a stored model, a GGUF file, a directory with tokenizer.json, or that file itself.

    Raises:
        PenstockError: there is none, or it is damaged.
    """
    from penstock.models.store import resolve
    from penstock.models.tokenizer import Tokenizer

    path = Path(name)
    if path.name == "tokenizer.json" and path.is_file():
        return Tokenizer.load(path.parent)
    return Tokenizer.load(path if path.is_dir() else resolve(name))


def _one(tokenizer: Tokenizing, text: str) -> int | None:
    """The token that the text is; None if it is several."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    return ids[0] if len(ids) == 1 else None


@cache
def _step(size: int) -> int:
    """Near the golden section of `size`, and without a common divisor: neighbours lie far apart."""
    step = max(1, int(size * 0.618))
    while math.gcd(step, size) != 1:
        step += 1
    return step
