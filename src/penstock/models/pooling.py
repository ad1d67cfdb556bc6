"""How a generator's hidden states become a text's vector, as its files say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from penstock.core.errors import ModelFileError
from penstock.models.gguf import GGUFFile
from penstock.models.strict_json import read_object

if TYPE_CHECKING:
    from pathlib import Path

_GGUF: dict[Any, Literal["mean", "last"] | None] = {0: None, 1: "mean", 3: "last"}  # llama.cpp's numbers; 2 is CLS


def pooling_of(path: Path) -> Literal["mean", "last"]:
    """Of a GGUF file by its `pooling_type`, of a directory by sentence-transformers' `1_Pooling/config.json`; the last
    token's where neither says anything.

    Raises ModelFileError for one that a generator's hidden states can't be pooled by.
    """
    if path.is_dir():
        file = path / "1_Pooling" / "config.json"
        given = read_object(file) if file.is_file() else {}
        modes = [name for name, on in given.items() if name.startswith("pooling_mode_") and on is True]
        if isinstance(given.get("pooling_mode"), str):
            modes = [given["pooling_mode"]]
        if not modes or modes in (["pooling_mode_lasttoken"], ["lasttoken"]):
            return "last"
        if modes in (["pooling_mode_mean_tokens"], ["mean"]):
            return "mean"
        raise ModelFileError(f"{file}: the pooling {', '.join(modes)} isn't supported for generators.")
    with GGUFFile.open(path) as gguf:
        architecture = gguf.metadata.get("general.architecture")
        kind = gguf.metadata.get(f"{architecture}.pooling_type", 0)
        if kind not in _GGUF:
            raise ModelFileError(f"{path}: the pooling type {kind} isn't supported for generators.")
        return _GGUF[kind] or "last"
