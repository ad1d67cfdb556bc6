"""Which files make up the model at a path, before any is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from penstock.core.errors import ModelFileError, NotFoundError
from penstock.models.strict_json import read_object

if TYPE_CHECKING:
    from collections.abc import Mapping

SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<part>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The weight files in order. `shard_of` is the index of sharded safetensors: tensor name to file name."""

    format: Literal["gguf", "safetensors"]
    paths: tuple[Path, ...]
    shard_of: Mapping[str, str] = field(default_factory=dict)


def find_files(path: Path) -> ModelFiles:
    """The files of a GGUF file, any part of a split one, a Hugging Face directory, or a directory with one GGUF.

    Raises NotFoundError if there is nothing at `path`, ModelFileError if a file is missing or it isn't clear
    which to take.
    """
    if _is_dir(path):
        return _in_directory(path)
    if path.suffix in {".safetensors", ".json"}:
        raise ModelFileError(f"{path} is one file of several: give the directory {path.parent} instead.")
    return ModelFiles("gguf", _gguf_parts(path))


def model_name(path: Path) -> str:
    """What to call the model at `path`: the directory's name, or the file's without suffix and part number."""
    split = SPLIT_NAME.fullmatch(path.name)
    if split:
        return split["stem"]
    return path.stem if path.suffix == ".gguf" else path.resolve().name


def _is_dir(path: Path) -> bool:
    try:
        if not path.exists():
            raise NotFoundError(f"There is nothing at {path}.")
        return path.is_dir()
    except (OSError, ValueError) as error:  # a name that is too long, a NUL in it, no permission
        raise ModelFileError(f"{path} can't be read: {error}.") from error


def _gguf_parts(path: Path) -> tuple[Path, ...]:
    """All parts of the split model that `path` is one of, or `path` alone."""
    split = SPLIT_NAME.fullmatch(path.name)
    if not split:
        return (path,)
    count = int(split["count"])
    if not 1 <= int(split["part"]) <= count:
        raise ModelFileError(f"{path} is part {int(split['part'])} of {count}, which can't be: rename it as it was.")
    parts = []
    for number in range(1, count + 1):
        part = path.with_name(f"{split['stem']}-{number:05}-of-{count:05}.gguf")
        if not part.is_file():
            raise ModelFileError(f"The model {path.name} has {count} parts, and {part} is missing. Download it too.")
        parts.append(part)
    return tuple(parts)


def _in_directory(directory: Path) -> ModelFiles:
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if single.exists() or index.exists():
        if not (directory / "config.json").exists():
            raise ModelFileError(f"{directory} has weights but no config.json. Download that file too.")
        # Where both are there, the one file holds everything: an index is left over from an earlier copy.
        return ModelFiles("safetensors", (single,)) if single.exists() else _sharded(directory, index)
    models = {_gguf_parts(file)[0]: file for file in sorted(directory.glob("*.gguf"))}
    if len(models) == 1:
        return ModelFiles("gguf", _gguf_parts(next(iter(models))))
    if models:
        names = ", ".join(first.name for first in list(models)[:5])
        raise ModelFileError(f"{directory} holds {len(models)} GGUF models ({names}, ...): give the path of one.")
    if any(directory.glob("*.bin")):
        raise ModelFileError(
            f"{directory} holds PyTorch .bin files, which can run code when they are loaded. "
            "Use the model's safetensors, or convert them."
        )
    raise ModelFileError(
        f"{directory} holds no model: neither config.json with model.safetensors (or its index), nor a .gguf file."
    )


def _sharded(directory: Path, index: Path) -> ModelFiles:
    shard_of = read_object(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise ModelFileError(f"{index}: weight_map must map tensor names to files. Download it again.")
    for shard in dict.fromkeys(map(str, shard_of.values())):
        # A plain name only: an index must not reach files outside its directory.
        if not shard.endswith(".safetensors") or Path(shard).name != shard or "\0" in shard or "\\" in shard:
            raise ModelFileError(f"{index}: weight_map names {shard[:200]!r}, which isn't a file of this directory.")
        if not (directory / shard).is_file():
            raise ModelFileError(f"{directory / shard}, which {index.name} names, is missing. Download it too.")
    shards = sorted(set(shard_of.values()))
    return ModelFiles("safetensors", tuple(directory / shard for shard in shards), shard_of)
