"""Low-rank adapters as PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`.

Hu et al., LoRA, arXiv:2106.09685: a module's weight becomes `W + scale * B A`, with `A` [rank, inputs], `B`
[outputs, rank] and scale `alpha / rank`, or `alpha / sqrt(rank)` (rank-stabilized, arXiv:2312.03732).

Only headers and the settings are read until an adapter is checked for finite numbers. An adapter that asks for
anything a runner wouldn't compute is refused by the name of what asks for it. Tensors are in the order of Hugging
Face's checkpoints, which is our own: a GGUF base, whose loader puts Q and K rows back into it, takes the same files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.errors import ModelFileError, NotFoundError
from penstock.models.architectures.base import LAYER_NAMES, tensor_shapes
from penstock.models.architectures.fields import MAX_HEADS, Fields
from penstock.models.mapped_file import OverFiles
from penstock.models.mapped_weights import is_finite
from penstock.models.safetensors import SafetensorsFile
from penstock.models.strict_json import read_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from penstock.models.spec import ModelSpec, TensorInfo

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
DTYPES = ("F32", "F16", "BF16")
MODULES = ("q", "k", "v", "o", "gate", "up", "down")
_MODULE_OF = {LAYER_NAMES[module][0]: module for module in MODULES}
_TENSOR = re.compile(r"base_model\.model\.(model\.layers\.(\d{1,4})\.([a-z_.]+))\.lora_([AB])\.weight", re.ASCII)
# A pattern is a regular expression to PEFT. A module's name, or the end of one, needs nothing but these.
_PATTERN = re.compile(r"\^?[A-Za-z0-9_]+(?:\\?\.[A-Za-z0-9_]+)*\$?", re.ASCII)

# Settings that say nothing about the computation with what is in the file.
_SILENT = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules", "inference_mode",
    "layers_pattern", "loftq_config", "lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "runtime_config",
}  # fmt: skip
_READ = {
    "alpha_pattern", "bias", "fan_in_fan_out", "init_lora_weights", "layers_to_transform", "lora_alpha",
    "modules_to_save", "peft_type", "r", "rank_pattern", "target_modules", "task_type", "use_rslora",
}  # fmt: skip
# Beginnings that leave the base as it is; of others (PiSSA, OLoRA and more) the adapter goes with a changed base.
_INITIALIZATIONS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class LowRankPair:
    """What an adapter adds to one module."""

    module: str  # canonical: "layers.0.q"
    rank: int
    scale: float
    a: TensorInfo  # [rank, inputs]
    b: TensorInfo  # [outputs, rank]


class LoraAdapter(OverFiles):
    """An adapter for one model, its file memory-mapped.

    Attributes:
        pairs: by canonical module, as `layers.0.q`.
        rank: the greatest of its pairs.
    """

    def __init__(self, pairs: Mapping[str, LowRankPair], file: SafetensorsFile) -> None:
        self.pairs = pairs
        self.rank = max(pair.rank for pair in pairs.values())
        self._file = file

    @classmethod
    def open(cls, directory: Path, spec: ModelSpec, max_rank: int) -> Self:
        """The adapter in `directory`, for a model of this spec.

        Raises NotFoundError if there is none, and ModelFileError for one that is damaged, isn't supported, is of
        another base, or has a rank over `max_rank`.
        """
        settings = _Settings(directory)
        file = SafetensorsFile.open(_weights_file(directory))
        try:
            pairs = _bind(file, settings, spec, max_rank)
            _refuse_infinite(file)
        except BaseException:
            file.close()
            raise
        return cls(pairs, file)

    def raw(self, info: TensorInfo) -> memoryview:
        """The stored bytes of a pair's `a` or `b`."""
        return self._file.data(info.name)

    def read(self, info: TensorInfo) -> NDArray[np.float32]:
        """A pair's `a` or `b` in float32, in its shape. Raises ConfigError without numpy."""
        from penstock.core.torch_extra import require

        require("Reading adapters as float32", "numpy")
        import numpy as np

        from penstock.models.dequantize import dequantize_into

        out = np.empty(info.shape, np.float32)
        dequantize_into(self._file.data(info.name), info.dtype, out.reshape(-1))
        return out

    def close(self) -> None:
        self._file.close()


class _Settings:
    """What adapter_config.json says, as far as it matters; what wouldn't be computed is refused."""

    def __init__(self, directory: Path) -> None:
        path = directory / CONFIG
        if not path.is_file():
            raise NotFoundError(
                f"There is no {CONFIG} in {directory}. An adapter is a directory as PEFT saves it, with {CONFIG} and "
                f"{WEIGHTS}.",
                code="adapter_not_found",
            )
        values = read_object(path)
        fields = Fields(values, str(path))
        if fields.text("peft_type").upper() != "LORA":
            raise fields.error("peft_type", "and only LORA is supported")
        fields.require_neutral({"task_type": ("CAUSAL_LM",), "bias": ("none",), "fan_in_fan_out": (False,)})
        fields.require_neutral({"init_lora_weights": _INITIALIZATIONS})
        if fields.get("modules_to_save"):
            raise fields.error("modules_to_save", "and whole modules of an adapter's own aren't supported")
        for key, value in values.items():
            if key not in _SILENT | _READ and value:
                raise fields.error(key, "which isn't supported: the answers would be wrong")
        self.where = str(path)
        self.targets = _named(fields, "target_modules") or set()
        self.excluded = _named(fields, "exclude_modules")
        self.every_layer = fields.get("layers_to_transform") is None
        self._rank = fields.integer("r", high=MAX_HEADS)
        self._alpha = fields.number("lora_alpha")
        self._stabilized = fields.boolean("use_rslora", default=False)
        self._ranks, self._alphas = (_patterns(fields, key) for key in ("rank_pattern", "alpha_pattern"))

    def rank(self, name: str) -> int:
        """What a module's rank must be, by its name in a Hugging Face checkpoint."""
        return int(_matching(self._ranks, name, self._rank))

    def scale(self, name: str, rank: int) -> float:
        alpha = float(_matching(self._alphas, name, self._alpha))
        return alpha / (math.sqrt(rank) if self._stabilized else rank)


def _named(fields: Fields, key: str) -> set[str] | None:
    """The modules that are named one by one; None if it is a pattern."""
    return None if isinstance(fields.get(key), str) else set(fields.strings(key))


def _is_among(name: str, ends: Iterable[str]) -> bool:
    """As PEFT looks modules up: by the whole name or the end of it."""
    return any(name == end or name.endswith(f".{end}") for end in ends)


def _patterns(fields: Fields, key: str) -> list[tuple[re.Pattern[str], float]]:
    section = fields.section(key)
    found = []
    for pattern in fields.get(key) or ():
        if not _PATTERN.fullmatch(pattern):
            raise ModelFileError(
                f"{fields.where}: {key} has the pattern {pattern[:200]!r}; names of modules and ends of them are "
                "supported, as 'q_proj' or 'model.layers.0.self_attn.q_proj'."
            )
        value = section.integer(pattern, high=MAX_HEADS) if key == "rank_pattern" else section.number(pattern)
        found.append((re.compile(rf"(.*\.)?({pattern})$"), float(value)))
    return found


def _matching(patterns: list[tuple[re.Pattern[str], float]], name: str, default: float) -> float:
    """As PEFT looks patterns up: the first that matches."""
    return next((value for pattern, value in patterns if pattern.match(name)), default)


def _weights_file(directory: Path) -> Path:
    path = directory / WEIGHTS
    if not path.is_file():
        pickled = directory / "adapter_model.bin"
        if pickled.exists():
            raise ModelFileError(
                f"{pickled} is a pickle, which can run any code when it is read. Save the adapter again with "
                "safe_serialization=True.",
                code="unsafe_format",
            )
        raise NotFoundError(f"There is no {WEIGHTS} in {directory}.", code="adapter_not_found")
    return path


def _bind(file: SafetensorsFile, settings: _Settings, spec: ModelSpec, max_rank: int) -> dict[str, LowRankPair]:
    shapes = dict(tensor_shapes(spec))
    halves: dict[str, dict[str, TensorInfo]] = {}
    names: dict[str, str] = {}
    for name, info in file.tensors.items():
        where = f"{file.path}: the tensor {name[:200]!r}"
        match = _TENSOR.fullmatch(name)
        module = _MODULE_OF.get(match[3]) if match else None
        if match is None or module is None:
            raise ModelFileError(
                f"{where} isn't supported: leaving it out would give wrong answers. Adapters may change "
                f"{', '.join(name.split('.')[-1] for name in _MODULE_OF)}, by lora_A and lora_B."
            )
        canonical = f"layers.{int(match[2])}.{module}"
        if f"{canonical}.weight" not in shapes:
            raise ModelFileError(
                f"{where} is of layer {int(match[2])}; {spec.name} has {spec.n_layers} layers. The adapter is for "
                "another base model.",
                code="adapter_mismatch",
            )
        if info.dtype not in DTYPES:
            raise ModelFileError(f"{where} is stored as {info.dtype}; {', '.join(DTYPES)} are supported.")
        if match[4] in halves.setdefault(canonical, {}):
            raise ModelFileError(f"{where} is there twice.")
        halves[canonical][match[4]] = info
        names[canonical] = match[1]
    if not halves:
        raise ModelFileError(f"{file.path} holds no tensors: the adapter changes nothing.")
    _refuse_missing(file, settings, spec, set(names.values()))
    return {
        canonical: _pair(file, settings, canonical, names[canonical], found, shapes[f"{canonical}.weight"], max_rank)
        for canonical, found in halves.items()
    }


def _refuse_missing(file: SafetensorsFile, settings: _Settings, spec: ModelSpec, present: set[str]) -> None:
    """Refuse a file without what its own settings name."""
    if settings.excluded is None:
        return  # a pattern may leave out anything, and running it could take any time
    for target in sorted(settings.targets):
        matching = {name for name in present if _is_among(name, [target])}
        named = {
            (name, layer)
            for layer in range(spec.n_layers)
            for name in (f"model.layers.{layer}.{LAYER_NAMES[module][0]}" for module in MODULES)
            if _is_among(name, [target])
        }
        expected = {layer for name, layer in named if not _is_among(name, settings.excluded)}
        if not matching and (expected or not named):
            raise ModelFileError(
                f"{settings.where}: target_modules names {target[:200]!r}, and {file.path.name} has no tensor for it. "
                "The file is incomplete, or the module isn't one of the model's."
            )
        layers = {int(name.split(".")[2]) for name in matching}
        missing = sorted(expected - layers)
        if settings.every_layer and missing and "layers." not in target:
            raise ModelFileError(
                f"{file.path}: {target} has no tensor in layer {missing[0]} of {spec.n_layers}. The file is "
                "incomplete, or for another base model.",
                code="adapter_mismatch",
            )


def _pair(
    file: SafetensorsFile,
    settings: _Settings,
    canonical: str,
    name: str,
    found: Mapping[str, TensorInfo],
    shape: tuple[int, ...],
    max_rank: int,
) -> LowRankPair:
    for half in "AB":
        if half not in found:
            raise ModelFileError(f"{file.path}: {name}.lora_{half}.weight is missing. The file is incomplete.")
    a, b = found["A"], found["B"]
    rank = settings.rank(name)
    outputs, inputs = shape
    if a.shape[1:] != (inputs,) or b.shape[:1] != (outputs,) or len(b.shape) != 2:
        raise ModelFileError(
            f"{file.path}: {name} is {inputs} to {outputs} in this model, and the adapter's lora_A is of shape "
            f"{a.shape}, its lora_B of shape {b.shape}. The adapter is for another base model.",
            code="adapter_mismatch",
        )
    if a.shape[0] != rank or b.shape[1] != rank:
        raise ModelFileError(
            f"{file.path}: {name} has {a.shape[0]} rows of lora_A and {b.shape[1]} columns of lora_B, and "
            f"{CONFIG} says that its rank is {rank}."
        )
    if rank > max_rank:
        raise ModelFileError(
            f"{file.path}: {name} is of rank {rank}, over the limit of {max_rank}. Raise --max-lora-rank.",
            code="rank_too_large",
        )
    return LowRankPair(canonical, rank, settings.scale(name, rank), a, b)


def _refuse_infinite(file: SafetensorsFile) -> None:
    for name in file.tensors:
        if not is_finite(file, name):
            raise ModelFileError(f"{file.path}: the tensor {name!r} holds NaN or infinite numbers.")
