"""What a machine can do at most, by its maker's data sheet, and what a model asks of it for a token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.core.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DTYPE_BYTES = {
    "float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5, "fp4": 0.5,
}  # fmt: skip
_DTYPE_NAMES = {"fp32": "float32", "f32": "float32", "bf16": "bfloat16", "fp16": "float16", "f16": "float16",
                "half": "float16", "float8": "fp8", "e4m3": "fp8", "w8a8": "int8", "nvfp4": "fp4", "mxfp4": "fp4",
                "float4": "fp4", "q8_0": "int8", "q4_0": "int4", "awq": "int4", "gptq": "int4"}  # fmt: skip
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([kKMGTPB]?)([A-Za-z/]*)\s*")
_POWERS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "P": 1e15}


@dataclass(frozen=True, slots=True)
class Chip:
    """One accelerator's published peaks; operations are of dense matrices, a multiplication and an addition are two."""

    name: str
    pattern: str  # of the names that drivers and people give it
    memory_bytes: float
    bandwidth: float  # bytes/s
    operations: Mapping[str, float]  # operations/s by type
    source: str


def _chip(
    name: str, pattern: str, memory_gb: float, gb_per_s: float, source: str, half: float, eight: float = 0.0,
    four: float = 0.0,
) -> Chip:  # fmt: skip
    """Tera-operations/s of 16, 8 and 4 bits, dense; 0: it computes those in the next wider type."""
    eight = eight or half
    operations = {"float16": half, "bfloat16": half, "fp8": eight, "int8": eight, "fp4": four or eight,
                  "int4": four or eight, "float32": half}  # fmt: skip
    return Chip(name, pattern, memory_gb * 1e9, gb_per_s * 1e9, {k: v * 1e12 for k, v in operations.items()}, source)


# The first pattern that is found in a name counts, so the narrower ones stand first. Where a chip computes narrow
# integers faster than narrow floats the faster figure stands for both: a limit must never be too low.
CHIPS = (
    _chip("B200", r"\bB200", 192, 8000, "NVIDIA DGX B200 datasheet", 2250, 4500, 9000),
    _chip("GH200", r"GH200", 144, 4900, "NVIDIA GH200 Grace Hopper Superchip datasheet", 990, 1979),
    _chip("H200", r"\bH200", 141, 4800, "NVIDIA H200 datasheet", 990, 1979),
    _chip("H100 NVL", r"H100.*NVL", 94, 3900, "NVIDIA H100 datasheet", 836, 1671),
    _chip("H100 PCIe", r"H100.*PCIe", 80, 2000, "NVIDIA H100 datasheet", 757, 1514),
    _chip("H100 SXM", r"\bH100", 80, 3350, "NVIDIA H100 datasheet", 990, 1979),
    _chip("A100 40GB", r"A100.*40 ?GB", 40, 1555, "NVIDIA A100 datasheet", 312, 624, 1248),
    _chip("A100 80GB", r"\bA100", 80, 2039, "NVIDIA A100 datasheet", 312, 624, 1248),
    _chip("L40S", r"\bL40S", 48, 864, "NVIDIA L40S datasheet", 362.05, 733, 733),
    _chip("L4", r"\bL4\b", 24, 300, "NVIDIA L4 datasheet", 121, 242.5),
    _chip("A10", r"\bA10\b", 24, 600, "NVIDIA A10 datasheet", 125, 250, 500),
    _chip("T4", r"\bT4\b", 16, 320, "NVIDIA T4 datasheet", 65, 130, 260),
    _chip("V100", r"\bV100", 32, 1134, "NVIDIA V100 datasheet (V100S)", 130),
    _chip("RTX 4090", r"RTX\s*4090", 24, 1008, "NVIDIA Ada GPU architecture whitepaper", 330.3, 660.6, 1321.2),
    _chip("RTX 3090", r"RTX\s*3090", 24, 936, "NVIDIA Ampere GA102 GPU architecture whitepaper", 142, 284, 568),
    _chip("MI325X", r"MI325X", 256, 6000, "AMD Instinct MI325X data sheet", 1307.4, 2614.9),
    _chip("MI300X", r"MI300X", 192, 5300, "AMD Instinct MI300X data sheet", 1307.4, 2614.9),
    _chip("MI250X", r"MI250X", 128, 3276.8, "AMD Instinct MI250X data sheet", 383),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a measurement from outside. 0: not known, so not judged."""

    bandwidth: float = 0.0  # bytes/s of memory, of all devices together
    operations: float = 0.0  # operations/s, of all devices together
    weights_bytes: float = 0.0  # read for one decoding step
    params: float = 0.0  # that a token is multiplied by
    tokens_per_step: float = 1.0  # over 1 with speculation
    cached: float = 0.0  # share of the prompts' tokens that a prefix cache held
    source: str = ""


def chip_of(name: str) -> Chip | None:
    """The chip that a driver's or a person's name means, such as "NVIDIA H100 80GB HBM3"; None: not in the table."""
    return next((chip for chip in CHIPS if re.search(chip.pattern, name, re.IGNORECASE)), None)


def known_chip(name: str) -> Chip:
    """Raises InvalidRequestError, with the names there are."""
    if (chip := chip_of(name)) is not None:
        return chip
    names = [chip.name for chip in CHIPS]
    raise InvalidRequestError(
        f"No published peaks of {name!r} are known here.{did_you_mean(name, names)} Give --bandwidth and --peak,"
        f" or one of {', '.join(names)}.",
        param="hardware",
    )


def limits(
    *,
    hardware: str | None = None,
    devices: int = 1,
    bandwidth: float | None = None,
    peak: float | None = None,
    params: float | None = None,
    dtype: str | None = None,
    weights_bytes: float | None = None,
    tokens_per_step: float = 1.0,
    cached: float = 0.0,
) -> Limits:
    """From what is known of a machine and a model; what is given outweighs the table.

    Args:
        hardware: a chip of the table.
        devices: that share the weights.
        bandwidth: bytes/s of one device.
        peak: operations/s of one device.
        params: that a token is multiplied by: of a mixture of experts the active ones.
        dtype: of the weights and of the arithmetic.
        weights_bytes: read for one decoding step; else `params` in `dtype`.

    Raises:
        InvalidRequestError: a chip or type that isn't known.
    """
    chip = None if hardware is None else known_chip(hardware)
    kind = None if dtype is None else dtype_of(dtype)
    if weights_bytes is None and params is not None and kind is not None:
        weights_bytes = params * _DTYPE_BYTES[kind]
    if chip is not None:
        bandwidth = bandwidth or chip.bandwidth
        # Weights of a narrow type may be multiplied in any: without a type the fastest is the limit.
        peak = peak or (chip.operations[kind] if kind in ("float16", "bfloat16") else max(chip.operations.values()))
    return Limits(
        (bandwidth or 0.0) * devices, (peak or 0.0) * devices, weights_bytes or 0.0, params or 0.0, tokens_per_step,
        cached, chip.source if chip else "",
    )  # fmt: skip


def dtype_of(name: str) -> str:
    """Raises InvalidRequestError, with the names there are."""
    plain = name.strip().lower().replace("torch.", "")
    plain = _DTYPE_NAMES.get(plain, plain)
    if plain not in _DTYPE_BYTES:
        raise InvalidRequestError(
            f"{name!r} is no type of weights known here: {', '.join(_DTYPE_BYTES)}. Or give --weights-bytes.",
            param="dtype",
        )
    return plain


def parse_quantity(text: str, param: str, units: Iterable[str]) -> float:
    """ "8B" -> 8e9, "3.35TB/s" -> 3.35e12, "989TFLOP/s" -> 9.89e14; a bare number is itself.

    Raises InvalidRequestError.
    """
    match = _QUANTITY.fullmatch(text)
    wanted = {"", *units}
    value = 0.0
    if match is not None:
        power, unit = match[2], match[3]
        if power == "B" and ("B" + unit) in wanted:  # bytes, not billions
            power, unit = "", "B" + unit
        if unit in wanted:
            value = float(match[1]) * _POWERS[power]
    if not 0 < value < float("inf"):
        example = {"params": "8B", "bandwidth": "3.35TB/s", "peak": "989TFLOP/s", "weights-bytes": "16GB"}[param]
        raise InvalidRequestError(f"--{param} {text!r} is no quantity; write for example {example}.", param=param)
    return value
