"""The work: prompts of an exact number of tokens that share no beginning, and the model they are for."""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from benchmarks.errors import BenchmarkError

if TYPE_CHECKING:
    from pathlib import Path

PROMPT_TOKENS = 130
OUTPUT_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Prompt:
    """The same prompt as ids and as a text that every tokenizer of this model turns into them."""

    ids: tuple[int, ...]
    text: str


class Prompts:
    """Seeded prompts of random words; each word is one token, and the text reads back as the same tokens."""

    def __init__(self, tokenizer_json: Path, seed: int) -> None:
        self.seed = seed
        self._tokenizer = Tokenizer.from_file(str(tokenizer_json))

    @cached_property
    def _words(self) -> list[tuple[int, str]]:
        candidates = (
            (index, " " + piece[1:])
            for piece, index in sorted(self._tokenizer.get_vocab().items())
            if re.fullmatch("Ġ[a-z]{3,}", piece)
        )
        return [(index, word) for index, word in candidates if self._encode(word) == [index]]

    def take(self, count: int, key: str, *, tokens: int = PROMPT_TOKENS, prefix: Prompt | None = None) -> list[Prompt]:
        """`count` prompts of `tokens` tokens, no two with the same first one; the same for the same `key`.

        With `prefix`, they all begin with it, and differ from the first token after it.
        """
        digest = hashlib.sha256(f"{self.seed}/{key}/{count}/{tokens}".encode()).digest()
        generator = random.Random(digest)
        own = tokens - (len(prefix.ids) if prefix else 0)
        firsts = generator.sample(self._words, count)
        return [self._join(prefix, [first, *generator.choices(self._words, k=own - 1)]) for first in firsts]

    def _join(self, prefix: Prompt | None, words: list[tuple[int, str]]) -> Prompt:
        text = (prefix.text if prefix else "") + "".join(word for _, word in words)
        ids = [*(prefix.ids if prefix else ()), *(index for index, _ in words)]
        if self._encode(text) != ids:
            raise BenchmarkError("A prompt does not read back as the tokens it was made of.")
        return Prompt(tuple(ids), text)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The model in the two forms that the peers take: the GGUF, and bfloat16 safetensors made from it."""

    gguf: Path
    safetensors: Path  # a folder with config.json and tokenizer.json

    @property
    def tokenizer_json(self) -> Path:
        return self.safetensors / "tokenizer.json"

    @property
    def kv_bytes_per_token(self) -> int:
        """K and V of one token over all layers, in bfloat16."""
        config = json.loads((self.safetensors / "config.json").read_text(encoding="utf-8"))
        heads, size = config["num_key_value_heads"], config["head_dim"]
        return int(2 * config["num_hidden_layers"] * heads * size * 2)

    @property
    def packed_weight_bytes(self) -> int:
        """What a step reads if the weights stay as the GGUF has them."""
        return self.gguf.stat().st_size

    @property
    def bfloat16_weight_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.safetensors.glob("*.safetensors"))
