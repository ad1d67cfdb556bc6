"""From a path to a model: opens its files, reads what they say, and binds every tensor to its place.

Only headers are read. A model that doesn't hold exactly the tensors that its own settings call for is
refused here, before anything is computed with it.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from penstock.core.errors import ModelFileError
from penstock.models.architectures.base import gguf_name, hf_name, tensor_shapes
from penstock.models.architectures.gguf_metadata import spec_from_gguf
from penstock.models.ggml_types import SUPPORTED_TYPES
from penstock.models.gguf import GGUFFile
from penstock.models.mapped_weights import MappedWeights, Source
from penstock.models.model_files import find_files, model_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from penstock.models.mapped_file import TensorFile
    from penstock.models.model_files import ModelFiles
    from penstock.models.safetensors import SafetensorsFile
    from penstock.models.spec import ModelSpec, TensorInfo, Weights

ROPE_FACTORS = "rope_freqs.weight"
# Tables that some converters stored and everybody computes: they change nothing.
IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "attn_rot_embd.weight")
SAFETENSORS_DTYPES = ("F32", "F16", "BF16")


def load(path: Path) -> tuple[ModelSpec, Weights]:
    """The model at `path`: a GGUF file, any part of a split one, a Hugging Face directory, or a directory with
    one GGUF model. The caller closes the weights.

    Raises NotFoundError if there is nothing at `path`, and ModelFileError, with the reason, for a model that
    is damaged, hostile or not supported.
    """
    found = find_files(path)
    with ExitStack() as opened:
        if found.format == "gguf":
            parts = [opened.enter_context(GGUFFile.open(part)) for part in found.paths]
            model = _from_gguf(parts)
        else:
            from penstock.models.safetensors import SafetensorsFile

            shards = [opened.enter_context(SafetensorsFile.open(shard)) for shard in found.paths]
            model = _from_safetensors(path, found, shards)
        opened.pop_all()  # from here on the weights own the files
    return model


def _from_gguf(parts: Sequence[GGUFFile]) -> tuple[ModelSpec, Weights]:
    stored = _stored_tensors(parts)
    _check_split(parts, len(stored))
    first = parts[0]
    infos = {name: file.tensors[name] for name, file in stored.items()}
    factors = _rope_factors(stored[ROPE_FACTORS]) if ROPE_FACTORS in stored else ()
    architecture, spec = spec_from_gguf(first.metadata, infos, factors, model_name(first.path), str(first.path))
    binder = _Binder(spec, stored, gguf_name, SUPPORTED_TYPES, str(first.path))
    heads = {"q": spec.n_heads, "k": spec.n_kv_heads} if architecture.gguf_interleaved_qk else {}
    return _finish(spec, parts, binder.bind(heads, ignored={ROPE_FACTORS}))


def _from_safetensors(
    directory: Path, found: ModelFiles, shards: Sequence[SafetensorsFile]
) -> tuple[ModelSpec, Weights]:
    from penstock.models.architectures.hf_config import spec_from_hf
    from penstock.models.strict_json import read_object

    stored = _stored_tensors(shards)
    for name, shard in found.shard_of.items():
        if name not in stored or stored[name].path.name != shard:
            raise ModelFileError(f"{directory / shard} doesn't hold {name[:200]!r}, though the index says so.")
    config = directory / "config.json"
    generation = directory / "generation_config.json"
    family, spec = spec_from_hf(
        read_object(config), read_object(generation) if generation.exists() else {}, model_name(directory), str(config)
    )
    head = hf_name("head.weight")
    if spec.tied_embeddings and head in stored and not _same_bytes(stored, hf_name("embed.weight"), head):
        spec = replace(spec, tied_embeddings=False)  # the config is wrong about its own weights; transformers agrees
    binder = _Binder(spec, stored, partial(hf_name, renamed=family.renamed), SAFETENSORS_DTYPES, str(directory))
    sources = binder.bind({}, ignored={head} if spec.tied_embeddings else set())
    if family.norms_from_one:
        sources = {name: replace(source, plus_one=name.endswith("norm.weight")) for name, source in sources.items()}
    # transformers multiplies with a scale of the embeddings' own type, and so did training.
    scale = _rounded(spec.embedding_scale, sources["embed.weight"].info.dtype)
    return _finish(replace(spec, embedding_scale=scale), shards, sources)


def _stored_tensors(files: Sequence[TensorFile]) -> dict[str, TensorFile]:
    """Tensor name -> the file that holds it."""
    stored: dict[str, TensorFile] = {}
    for file in files:
        for name in file.tensors:
            if name in stored:
                raise ModelFileError(f"The tensor {name[:200]!r} is in {stored[name].path} and again in {file.path}.")
            stored[name] = file
    return stored


def _check_split(parts: Sequence[GGUFFile], tensors: int) -> None:
    """Refuse parts that are numbered otherwise than their names say, or that don't belong together."""
    # A file that was never split has none of these keys; one that was merged again says that it has 0 parts.
    counts = (1, 0) if len(parts) == 1 else (len(parts),)
    for number, part in enumerate(parts):
        expected = {"split.no": (number,), "split.count": counts, "split.tensors.count": (tensors,)}
        for key, values in expected.items():
            claimed: Any = part.metadata.get(key, values[0])
            if type(claimed) is not int or claimed not in values:
                raise ModelFileError(
                    f"{part.path}: {key} is {str(claimed)[:50]}, but the files here say {values[0]}. All parts of a "
                    "split model must be together, under the names they were published with (-00001-of-00003.gguf)."
                )


def _rope_factors(file: TensorFile) -> tuple[float, ...]:
    info = file.tensors[ROPE_FACTORS]
    if len(info.shape) != 1 or info.shape[0] > 1 << 16 or info.dtype != "F32":
        raise ModelFileError(f"{file.path}: {ROPE_FACTORS} is {info.dtype} of shape {info.shape}, not a row of F32.")
    factors: tuple[float, ...] = struct.unpack(f"<{info.shape[0]}f", file.data(ROPE_FACTORS))
    if not all(0 < factor < math.inf for factor in factors):
        raise ModelFileError(f"{file.path}: {ROPE_FACTORS} holds numbers that no frequency can be divided by.")
    return factors


def _rounded(value: float, dtype: str) -> float:
    """`value` as the nearest number of a safetensors dtype; half floats tie to even."""
    if dtype == "BF16":
        (bits,) = struct.unpack("<I", struct.pack("<f", value))
        rounded: float = struct.unpack("<f", struct.pack("<I", (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000))[0]
    else:
        code = {"F16": "<e", "F32": "<f"}[dtype]
        (rounded,) = struct.unpack(code, struct.pack(code, value))
    return rounded


def _same_bytes(stored: Mapping[str, TensorFile], one: str, other: str) -> bool:
    if one not in stored:
        return False
    a, b = (stored[name].data(name) for name in (one, other))
    step = 1 << 20
    return len(a) == len(b) and all(bytes(a[i : i + step]) == bytes(b[i : i + step]) for i in range(0, len(a), step))


def _finish(spec: ModelSpec, files: Sequence[TensorFile], sources: Mapping[str, Source]) -> tuple[ModelSpec, Weights]:
    matrices = Counter(source.info.dtype for source in sources.values() if len(source.info.shape) == 2)
    return replace(spec, quantization=matrices.most_common(1)[0][0]), MappedWeights(files, sources)


class _Binder:
    """Finds each tensor that a spec calls for among those stored, and refuses what doesn't fit."""

    def __init__(
        self,
        spec: ModelSpec,
        stored: Mapping[str, TensorFile],
        stored_name: Callable[[str], str],
        dtypes: Sequence[str],
        where: str,
    ) -> None:
        self._spec = spec
        self._stored = stored
        self._stored_name = stored_name
        self._dtypes = dtypes
        self._where = where

    def bind(self, interleaved_heads: Mapping[str, int], ignored: set[str]) -> dict[str, Source]:
        """Canonical name -> where it is stored. `interleaved_heads`: heads of the modules stored in pairs."""
        sources: dict[str, Source] = {}
        for canonical, shape in tensor_shapes(self._spec):
            name = self._stored_name(canonical)
            if name not in self._stored:
                raise ModelFileError(f"{self._where}: the tensor {name!r} of shape {shape} is missing.")
            source = Source(self._stored[name], name, interleaved_heads.get(canonical.split(".")[-2], 0))
            self._check(source.info, shape)
            sources[canonical] = source
        self._refuse_unexpected({source.name for source in sources.values()} | ignored)
        return sources

    def _check(self, info: TensorInfo, shape: tuple[int, ...]) -> None:
        if info.shape != shape:
            raise ModelFileError(
                f"{self._where}: the tensor {info.name!r} has the shape {info.shape}, "
                f"and the model's settings call for {shape}."
            )
        if info.dtype not in self._dtypes:
            raise ModelFileError(
                f"{self._where}: the tensor {info.name!r} is stored as {info.dtype}, which isn't supported. Use "
                f"this model in one of {', '.join(self._dtypes)}: a Q8_0 or Q4_K_M GGUF file is a good choice.",
                code="unsupported_tensor_type",
            )

    def _refuse_unexpected(self, expected: set[str]) -> None:
        for name in self._stored:
            if name not in expected and not name.endswith(IGNORED_SUFFIXES):
                raise ModelFileError(
                    f"{self._where}: the tensor {name[:200]!r} has no place in {self._spec.architecture} as it is "
                    "supported: leaving it out would give wrong answers."
                )
