"""One encoder in the native runner: a BERT from safetensors on this machine's processor, without onnxruntime.

`rust/penstock-cpu/src/encoder.rs` computes; a text's vector depends neither on the texts beside it nor on the threads.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from penstock import _native
from penstock.core.errors import ConfigError, ModelFileError
from penstock.engine.encoders.results import activate, unit
from penstock.engine.encoders.tensor_names import prefix_of, today
from penstock.models.safetensors import SafetensorsFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from penstock.engine.encoders.results import Floats, Ids
    from penstock.models.encoder_spec import EncoderSpec

_SIZES = (
    "vocab_size", "hidden_size", "ffn_size", "n_layers", "n_heads", "norm_eps", "first_position", "max_length",
)  # fmt: skip


def instructions(spec: EncoderSpec) -> str | None:
    """The instructions that the native runner computes the model with; `PENSTOCK_CPU_PATH` chooses, as for generators.

    None if onnxruntime is to compute it: a graph that comes as a file, or where only plain code would be left.
    """
    path = os.environ.get("PENSTOCK_CPU_PATH") or _native.best_path()
    return path if spec.drawn and path != "scalar" else None


class NativeSession:
    """An encoder that has been loaded. One thread calls it.

    Args:
        spec: what the model is.
        directory: its files.
        placement: the threads that compute one batch together.

    Raises:
        ModelFileError: a tensor is missing, or of another shape than the spec's sizes say.
        ConfigError: the processor lacks the instructions that were asked for.
    """

    pads = False

    def __init__(self, spec: EncoderSpec, directory: Path, placement: _native.Placement) -> None:
        self._spec = spec
        path = directory / spec.file
        with SafetensorsFile.open(path) as file:
            base = prefix_of(file.tensors)
            tensors = {
                today(name.removeprefix(base)): (info.dtype, list(info.shape), file.data(name))
                for name, info in file.tensors.items()
            }
            sizes = {name: getattr(spec, name) for name in _SIZES}
            try:
                self._encoder = _native.Encoder(placement, sizes, tensors, _head(spec, base), instructions(spec))
            except _native.NativeModelError as error:
                raise ModelFileError(f"{path}: {error} Download the model again.") from error
            except _native.NativeConfigError as error:
                raise ConfigError(str(error)) from error
            finally:
                del tensors  # the file can't be closed while its bytes are lent out

    def run(self, token_ids: Sequence[Ids], type_ids: Sequence[Ids]) -> Floats:
        """As `EncoderSession.run`."""
        joined, types = (b"".join(ids.tobytes() for ids in part) for part in (token_ids, type_ids))
        found = self._encoder.run(joined, types, [len(ids) for ids in token_ids], self._spec.pooling)
        vectors = np.frombuffer(found, np.float32).reshape(len(token_ids), -1)
        with np.errstate(all="ignore"):  # what isn't finite is found by who asked
            if self._spec.kind != "embedder":
                return activate(vectors, self._spec.activation)
            return unit(vectors) if self._spec.normalize else vectors


def _head(spec: EncoderSpec, base: str) -> tuple[str, str, int] | None:
    """The products of a classifying head, and how many classes it has."""
    if spec.kind == "embedder":
        return None
    if spec.architecture == "bert":
        return f"{'' if base else 'bert.'}pooler.dense", "classifier", len(spec.labels)
    return "classifier.dense", "classifier.out_proj", len(spec.labels)
