"""A model's tokens as they come out of it: all that turning token ids into text needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.token_pieces import TokenPieces


@dataclass(slots=True, eq=False)
class Vocabulary:
    """What a `Tokenizer` knows without what encodes, which takes most of its time and memory to make."""

    pieces: TokenPieces
    special_token_ids: frozenset[int]  # control tokens
    eos_token_ids: tuple[int, ...]


def load_vocabulary(path: Path) -> Vocabulary:
    """From what `Tokenizer.load` reads; raises what it does, but for mistakes in what encodes."""
    if path.is_dir():
        from penstock.models.tokenizer import Tokenizer

        return Tokenizer.load(path)  # the format has no vocabulary apart from the rest
    from penstock.models.gguf import GGUFFile
    from penstock.models.gguf_tokenizer import vocabulary_from_gguf

    with GGUFFile.open(path) as file:
        return vocabulary_from_gguf(file.metadata, str(path))
