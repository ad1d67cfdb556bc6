"""A model's tokens as they come out of it: all that turning token ids into text needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.models.token_pieces import TokenPieces


@dataclass(slots=True, eq=False)
class Vocabulary:
    """What a `Tokenizer` knows without what encodes, which takes most of its time and memory to make."""

    pieces: TokenPieces
    special_token_ids: frozenset[int]  # control tokens
    eos_token_ids: tuple[int, ...]
