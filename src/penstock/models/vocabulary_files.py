"""Where a model keeps its vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.vocabulary import Vocabulary


def load_vocabulary(path: Path) -> Vocabulary:
    """From what `Tokenizer.load` reads; raises what it does, but for mistakes in what encodes."""
    if path.is_dir():
        from penstock.models.tokenizer import Tokenizer

        return Tokenizer.load(path)  # the format has no vocabulary apart from the rest
    from penstock.models.gguf import GGUFFile
    from penstock.models.gguf_tokenizer import vocabulary_from_gguf

    with GGUFFile.open(path) as file:
        return vocabulary_from_gguf(file.metadata, str(path))
