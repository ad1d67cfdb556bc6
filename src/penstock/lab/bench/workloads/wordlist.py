"""Prompts of an exact number of tokens: random words of which each is one token.

A byte-level BPE or SentencePiece tokenizer splits at spaces before anything else, so words that are one token each
alone are so in a row; `WordList.of` keeps only words for which that holds, and tries a row of them. Without a tokenizer
there are the most common words of English, which the vocabularies in use nearly all have whole; the server's usage then
says how many tokens it took them for.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
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
level office door health person art war history party result change morning reason research girl guy moment air teacher
force education foot boy age policy process music market sense nation plan college interest death experience effect use
class control care field development role effort rate heart drug show leader light voice wife police mind price report
decision son view relationship town road arm difference value building action season society tax director position
player record paper space ground form event official matter center couple site project activity star table need court
oil situation cost industry figure street image phone data picture practice piece land product doctor wall news test
movie north love support technology step baby computer type attention film tree source organization hair look window
culture chance brother energy period course summer plant opportunity term letter condition choice rule south husband
floor campaign material population call economy hospital church risk fire future bank
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
    """A vocabulary of words that are one token each."""

    pieces: tuple[str, ...]  # each with the space before it
    token_ids: tuple[int, ...] | None  # of the pieces; None: no tokenizer was given
    specials: int  # tokens that the tokenizer puts around a text by itself
    bare: bool  # a text begins without its first space, which the tokenizer adds

    @classmethod
    def common(cls) -> Self:
        """Without a tokenizer."""
        return cls(tuple(" " + word for word in _COMMON.split()), None, 0, False)

    @classmethod
    def of(cls, tokenizer: Tokenizing) -> Self:
        """The words of a tokenizer, the most common ones of a BPE vocabulary first.

        Raises:
            ConfigError: it has too few such words, or doesn't tell them apart in a row.
        """
        found = [(i, piece.decode()) for i in range(tokenizer.vocab_size)
                 if re.fullmatch(rb" [a-z]{3,}", piece := tokenizer.token_bytes(i))]  # fmt: skip
        spaced, bare = ([(i, piece) for i, piece in found[:_FEWEST] if _alone(tokenizer, i, piece[cut:])]
                        for cut in (0, 1))  # fmt: skip
        cut = int(len(bare) > len(spaced))
        kept: list[tuple[int, str]] = []
        for index, piece in found:
            if len(kept) == _ENOUGH:
                break
            if _alone(tokenizer, index, piece[cut:]):
                kept.append((index, piece))
        if len(kept) < _FEWEST:
            raise ConfigError(
                f"Of this tokenizer's tokens only {len(kept)} are English words of their own; prompts of an exact length"
                f" need {_FEWEST}. Leave --tokenizer out: lengths are then what the server's usage says.",
                param="tokenizer",
            )
        ids, pieces = zip(*kept, strict=True)
        words = cls(pieces, ids, len(tokenizer.encode("")), bool(cut))
        row = words.draw(Random(0), _TRIED)
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

    def draw(self, random: Random, count: int, number: int | None = None) -> list[int]:
        """`count` words, by their places in `pieces`; with a `number`, they begin as no other number's do.

        The first words of `len(pieces)` numbers in a row all differ, and the first two of its square: no block of a
        prefix cache is shared by accident.
        """
        if number is None:
            return random.choices(range(len(self.pieces)), k=count)
        size = len(self.pieces)
        head = [number * _step(size) % size, (number // size + number) % size][:count]
        return head + random.choices(range(size), k=count - len(head))

    def text(self, drawn: Sequence[int]) -> str:
        """The words as a text of its own."""
        text = "".join(map(self.pieces.__getitem__, drawn))
        return text[1:] if self.bare else text

    def ids(self, drawn: Sequence[int]) -> list[int]:
        """The words as token ids. Raises InvalidRequestError without a tokenizer."""
        if self.token_ids is None:
            raise InvalidRequestError("Prompts of token ids need a --tokenizer.", param="prompt")
        return list(map(self.token_ids.__getitem__, drawn))

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


def _alone(tokenizer: Tokenizing, index: int, text: str) -> bool:
    return tokenizer.encode(text, add_special_tokens=False) == [index]


def _step(size: int) -> int:
    """Near the golden section of `size`, and without a common divisor: neighbours lie far apart."""
    step = max(1, int(size * 0.618))
    while math.gcd(step, size) != 1:
        step += 1
    return step
