"""One model in the forms that engines take: a GGUF file, or a folder of safetensors."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.core.errors import NotFoundError
from penstock.lab.bench.engines.environment import Recipe, install, run_steps

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from penstock.lab.bench.engines.place import Place

# transformers reads GGUF and writes safetensors; also the environment of the peer of that name.
CONVERTER = Recipe(
    requirements=("transformers==5.23.0", "torch==2.15.0", "safetensors", "gguf==0.19.0", "accelerate")
)  # fmt: skip
_SCRIPT = Path(__file__).parent / "drivers" / "convert_model.py"


@dataclass(frozen=True)
class ModelForms:
    """`path` is what was given; other forms are made from it when an engine asks for one."""

    path: Path
    place: Place
    say: Callable[[str], None]

    @classmethod
    def find(cls, name: str, place: Place, say: Callable[[str], None]) -> Self:
        """A name as `penstock serve` takes it, or a path. Raises a PenstockError if there is none."""
        from penstock.models.store import resolve

        return cls(resolve(name).absolute(), place, say)

    @cached_property
    def gguf(self) -> Path:
        """Raises NotFoundError if the model is no GGUF."""
        if self.path.suffix != ".gguf":
            raise NotFoundError(
                f"This engine reads GGUF files, and {self.path} is none. Give all engines the model's GGUF: the others"
                " get safetensors made from it.",
                param="model",
            )
        return self.path

    @cached_property
    def safetensors(self) -> Path:
        """The folder; made from the GGUF once, dequantized to bfloat16. Raises StoreError if that fails."""
        if self.path.is_dir():
            return self.path
        target = self.place.venvs / "models" / f"{self.gguf.stem}-{self.gguf.stat().st_size}-bfloat16"
        if not target.is_dir():
            converter = self.place.venvs / "transformers"
            install("transformers", converter, self.place.logs, CONVERTER, self.say)
            self.say(f"converting {self.gguf.name} to bfloat16 safetensors")
            unfinished = target.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            # -P: the script's folder must not shadow the libraries it imports.
            command = [str(converter / "bin" / "python"), "-P", str(_SCRIPT), str(self.gguf), str(unfinished)]
            run_steps("the model's safetensors", [command], self.place.logs / "convert.log", {})
            unfinished.rename(target)
        return target

    @cached_property
    def control_tokens(self) -> tuple[int, ...]:
        """Ids of special tokens, those that end a text among them."""
        from penstock.models.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(self.path)
        return tuple(sorted({*tokenizer.special_token_ids, *tokenizer.eos_token_ids}))
