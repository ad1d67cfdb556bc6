"""Writes GGUF files for tests: whole models, and headers with a lie in them.

Written from the format's specification and apart from the reader under test, so that a misreading of one
isn't repeated in the other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from penstock.models.spec import ModelSpec

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
SCALAR_FORMATS = {
    U8: "<B",
    I8: "<b",
    U16: "<H",
    I16: "<h",
    U32: "<I",
    I32: "<i",
    F32: "<f",
    BOOL: "<B",
    U64: "<Q",
    I64: "<q",
    F64: "<d",
}
# name -> (number, elements in a block, bytes of a block)
TYPES = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "IQ4_NL": (20, 32, 18),
    "IQ4_XS": (23, 256, 136),
    "BF16": (30, 1, 2),
    "TQ1_0": (34, 256, 54),
    "MXFP4": (39, 32, 17),
}
# Where the K-quants, which the gguf library can't make, keep their half-precision scales.
K_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


@dataclass(frozen=True)
class Value:
    """A metadata value of a given type; an array is `Value(ARRAY, [...], element)`."""

    kind: int
    value: Any
    element: int | None = None


@dataclass(frozen=True)
class Tensor:
    """A tensor as the header states it; `offset` None places it after the one before."""

    name: str
    shape: tuple[int, ...]  # slowest dimension first
    type_number: int
    data: bytes
    offset: int | None = None


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def encode_value(value: Any) -> bytes:
    """Type number and value; plain Python values take the type that fits them."""
    if not isinstance(value, Value):
        value = _typed(value)
    if value.kind != ARRAY:
        return struct.pack("<I", value.kind) + _bare(value.kind, value.value)
    items = b"".join(_bare(value.element, item) for item in value.value)
    return struct.pack("<IIQ", ARRAY, value.element, len(value.value)) + items


def _typed(value: Any) -> Value:
    if isinstance(value, list):
        return Value(ARRAY, value, _typed(value[0]).kind if value else I32)
    kinds = {bool: BOOL, int: U32, float: F32, str: STRING}
    return Value(kinds[type(value)], value)


def _bare(kind: int | None, value: Any) -> bytes:
    return string(value) if kind == STRING else struct.pack(SCALAR_FORMATS[kind], value)


def encode_gguf(
    metadata: Mapping[str, Any],
    tensors: Sequence[Tensor] = (),
    *,
    version: int = 3,
    alignment: int = 32,
    tensor_count: int | None = None,
    key_count: int | None = None,
) -> bytes:
    """A whole GGUF file. The counts are the true ones unless given."""
    header = b"GGUF" + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(metadata) if key_count is None else key_count,
    )
    header += b"".join(string(key) + encode_value(value) for key, value in metadata.items())
    data = b""
    for tensor in tensors:
        offset = len(data) if tensor.offset is None else tensor.offset
        dims = tuple(reversed(tensor.shape))
        header += string(tensor.name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, tensor.type_number, offset)
        data += _padded(tensor.data, alignment)
    return _padded(header, alignment) + data


def _padded(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)


def tensor(name: str, values: np.ndarray, dtype: str = "F32") -> Tensor:
    """`values` (float32) stored as `dtype`; for K-quants random content of the same shape, which only looks alike."""
    return Tensor(name, values.shape, TYPES[dtype][0], quantized(values, dtype))


def quantized(values: np.ndarray, dtype: str) -> bytes:
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype in K_SCALES or dtype not in {"F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}:
        return random_blocks(values.size, dtype, seed=values.size)
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    return quantize(values, GGMLQuantizationType[dtype]).tobytes()


def random_blocks(elements: int, dtype: str, seed: int) -> bytes:
    """Blocks of random bytes, with scales that make finite numbers of ordinary size."""
    _, block_size, block_bytes = TYPES[dtype]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (elements // block_size, block_bytes), dtype=np.uint8)
    for offset in K_SCALES.get(dtype, ()):
        scales = rng.uniform(1e-4, 1e-3, len(blocks)).astype("<f2")
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.tobytes()


GGUF_GLOBALS = {
    "embed.weight": "token_embd.weight",
    "final_norm.weight": "output_norm.weight",
    "head.weight": "output.weight",
}
GGUF_MODULES = {
    "attn_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "o": "attn_output",
    "attn_post_norm": "post_attention_norm",
    "mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "mlp_post_norm": "post_ffw_norm",
}


def gguf_tensor_name(canonical: str) -> str:
    if canonical in GGUF_GLOBALS:
        return GGUF_GLOBALS[canonical]
    _, layer, module, kind = canonical.split(".")
    return f"blk.{layer}.{GGUF_MODULES[module]}.{kind}"


def gguf_metadata(spec: ModelSpec, **overrides: Any) -> dict[str, Any]:
    """The metadata of a model of this spec. In `overrides`, "__" stands for "." and a value None drops the key."""
    prefix = spec.architecture
    metadata: dict[str, Any] = {
        "general.architecture": prefix,
        "general.name": spec.name,
        f"{prefix}.block_count": spec.n_layers,
        f"{prefix}.context_length": spec.context_length,
        f"{prefix}.embedding_length": spec.hidden_size,
        f"{prefix}.feed_forward_length": spec.ffn_size,
        f"{prefix}.attention.head_count": spec.n_heads,
        f"{prefix}.attention.head_count_kv": spec.n_kv_heads,
        f"{prefix}.attention.key_length": spec.head_dim,
        f"{prefix}.attention.value_length": spec.head_dim,
        f"{prefix}.attention.layer_norm_rms_epsilon": spec.rms_norm_eps,
        f"{prefix}.rope.freq_base": spec.rope_theta,
        f"{prefix}.rope.dimension_count": spec.head_dim,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"<{i}>" for i in range(spec.vocab_size)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    if prefix == "gemma3":
        metadata |= {
            "gemma3.attention.sliding_window": spec.sliding_window,
            "gemma3.attention.sliding_window_pattern": [spec.window(i) is not None for i in range(spec.n_layers)],
            "gemma3.rope.freq_base_swa": spec.local_rope_theta,
        }
    metadata |= {key.replace("__", "."): value for key, value in overrides.items()}
    return {key: value for key, value in metadata.items() if value is not None}


def gguf_tensors(
    spec: ModelSpec, values: Mapping[str, np.ndarray], dtype_of: Callable[[str], str] | str = "F32"
) -> list[Tensor]:
    """`values` by canonical name, stored as GGUF does: vectors in F32, matrices as `dtype_of` says, and the rows
    of Llama's Q and K so that those rotated together are neighbours."""
    tensors = []
    for canonical, array in values.items():
        heads = {"q": spec.n_heads, "k": spec.n_kv_heads}.get(canonical.split(".")[-2], 0)
        if heads and spec.architecture == "llama":
            array = interleaved(array, heads)  # noqa: PLW2901
        dtype = dtype_of if isinstance(dtype_of, str) else dtype_of(canonical)
        tensors.append(tensor(gguf_tensor_name(canonical), array, dtype if array.ndim > 1 else "F32"))
    return tensors


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Row j + d/2 of each head moves next to row j."""
    size = len(array) // heads
    order = [head * size + half * (size // 2) + j for head in range(heads) for j in range(size // 2) for half in (0, 1)]
    return np.ascontiguousarray(array[order])


def write_gguf_from_hf(
    directory: Path, path: Path, dtype: Callable[[str], str] | str = "F32", **overrides: Any
) -> Path:
    """The model of a Hugging Face directory as a GGUF file; `overrides` as in `gguf_metadata`."""
    from penstock.models.load import load

    spec, weights = load(directory)
    with weights:
        values = {name: weights.read(name) for name in weights.names()}
    path.write_bytes(encode_gguf(gguf_metadata(spec, **overrides), gguf_tensors(spec, values, dtype)))
    return path


def tiny_spec(architecture: str = "llama", **overrides: Any) -> ModelSpec:
    """Hidden 64 (256 for K-quants: override it), 4 heads over 2, 2 layers."""
    from penstock.models.spec import ModelSpec

    fields = {
        "architecture": architecture,
        "name": "tiny",
        "vocab_size": 48,
        "hidden_size": 64,
        "ffn_size": 96,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 16,
        "context_length": 128,
        "rms_norm_eps": 2.0**-17,
        "rope_theta": 10000.0,
        "qkv_bias": architecture == "qwen2",
        "qk_norm": architecture in {"qwen3", "gemma3"},
        "bos_token_id": 1,
        "eos_token_ids": (2,),
    }
    if architecture == "gemma3":
        fields |= {
            "activation": "gelu",
            "post_norms": True,
            "embedding_scale": 8.0,
            "sliding_window": 24,
            "global_layers": (1,),
            "local_rope_theta": 500.0,
            "tied_embeddings": True,
        }
    return ModelSpec(**(fields | overrides))


def random_values(spec: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 tensors of a spec, by canonical name."""
    from penstock.models.architectures.base import tensor_shapes

    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in tensor_shapes(spec)}


def write_tiny_gguf(
    path: Path,
    architecture: str = "llama",
    types: Callable[[str], str] | str = "F32",
    *,
    seed: int = 0,
    spec: ModelSpec | None = None,
    extra: Sequence[Tensor] = (),
    **overrides: Any,
) -> tuple[ModelSpec, dict[str, np.ndarray]]:
    """A random model, made without torch; returns its spec and its float32 values before quantization.

    `types` is the type of the matrices, or says it by canonical name; `extra` are further tensors;
    `overrides` as in `gguf_metadata`.
    """
    spec = spec or tiny_spec(architecture)
    values = random_values(spec, seed)
    tensors = [*gguf_tensors(spec, values, types), *extra]
    path.write_bytes(encode_gguf(gguf_metadata(spec, **overrides), tensors))
    return spec, values


def write_split_gguf(directory: Path, parts: int, architecture: str = "llama", stem: str = "tiny") -> list[Path]:
    """A random model in several files; the metadata is in the first, the tensors are dealt out in order."""
    spec = tiny_spec(architecture)
    tensors = gguf_tensors(spec, random_values(spec))
    paths = []
    for part in range(parts):
        split = {
            "split.no": Value(U16, part),
            "split.count": Value(U16, parts),
            "split.tensors.count": Value(I32, len(tensors)),
        }
        share = tensors[part * len(tensors) // parts : (part + 1) * len(tensors) // parts]
        path = directory / f"{stem}-{part + 1:05}-of-{parts:05}.gguf"
        path.write_bytes(encode_gguf((gguf_metadata(spec) if part == 0 else {}) | split, share))
        paths.append(path)
    return paths
