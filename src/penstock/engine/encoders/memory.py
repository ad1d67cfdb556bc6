"""What an encoder's weights take of memory, known from its files' sizes before anything is loaded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from penstock.core.errors import ConfigError
from penstock.core.sizes import format_size
from penstock.engine.runners.memory import available_memory
from penstock.models.safetensors import SafetensorsFile

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.encoder_spec import EncoderSpec

_FLOAT_BYTES = 4


def planned_bytes(spec: EncoderSpec, directory: Path, *, packed_beside: bool) -> int:
    """Bytes of the weights once they are loaded. Raises ModelFileError for a file that isn't safetensors.

    Those of safetensors become float32; onnxruntime packs the layers' matrices anew beside them (`packed_beside`). Of
    a graph that comes as a file, the file and what lies outside it for want of room.
    """
    path = directory / spec.file
    if not spec.drawn:
        return sum(each.stat().st_size for each in path.parent.glob(path.name + "*"))
    with SafetensorsFile.open(path) as file:
        sizes = {name: _FLOAT_BYTES * math.prod(tensor.shape) for name, tensor in file.tensors.items()}
        matrices = [name for name, tensor in file.tensors.items() if ".layer." in name and len(tensor.shape) > 1]
        packed = sum(sizes[name] for name in matrices)
    return sum(sizes.values()) + (packed if packed_beside else 0)


def check_memory(spec: EncoderSpec, directory: Path, most: int | None, *, packed_beside: bool) -> int:
    """As `planned_bytes`. Raises ConfigError if that is more than `most` bytes, or than is free."""
    needed = planned_bytes(spec, directory, packed_beside=packed_beside)
    if most is not None and needed > most:
        raise ConfigError(
            f"{spec.name} may take {format_size(most)}, and its weights take {format_size(needed)}. Raise --memory.",
            param="memory",
        )
    free = available_memory()
    if needed > free:
        raise ConfigError(
            f"The weights of {spec.name} take {format_size(needed)} of memory; {format_size(free)} are free. Free "
            "some, or raise the container's limit.",
            param="model",
        )
    return needed
