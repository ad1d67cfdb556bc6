"""What a model is, whatever file it came from: its sizes, its weights and their canonical names.

Canonical tensor names (every loader renames to these; `{i}` is the layer):

    embed.weight                       [vocab, hidden]
    layers.{i}.attn_norm.weight        [hidden]
    layers.{i}.q.weight                [n_heads * head_dim, hidden]      (+ .bias if qkv_bias)
    layers.{i}.k.weight                [n_kv_heads * head_dim, hidden]   (+ .bias if qkv_bias)
    layers.{i}.v.weight                [n_kv_heads * head_dim, hidden]   (+ .bias if qkv_bias)
    layers.{i}.q_norm.weight           [head_dim]                        (if qk_norm)
    layers.{i}.k_norm.weight           [head_dim]                        (if qk_norm)
    layers.{i}.o.weight                [hidden, n_heads * head_dim]
    layers.{i}.attn_post_norm.weight   [hidden]                          (if post_norms)
    layers.{i}.mlp_norm.weight         [hidden]
    layers.{i}.gate.weight             [ffn, hidden]
    layers.{i}.up.weight               [ffn, hidden]
    layers.{i}.down.weight             [hidden, ffn]
    layers.{i}.mlp_post_norm.weight    [hidden]                          (if post_norms)
    final_norm.weight                  [hidden]
    head.weight                        [vocab, hidden]                   (absent if tied_embeddings)

Q and K rows are in "rotate half" order (element j pairs with j + head_dim/2): a loader whose file pairs
neighbours (GGUF's llama family) permutes the rows. Norms multiply with their weights as they are: a loader whose
file counts them from one (Gemma's safetensors) adds it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray


# `gelu` is the approximation by tanh (Hendrycks and Gimpel, arXiv:1606.08415).
Activation = Literal["silu", "gelu"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched past the trained context.

    `linear` divides positions by `factor`; `llama3` is the smoothed, per-frequency rule of Llama 3.1
    (low and high frequency factors around `original_context`); `factors` divides each frequency by its
    own number (GGUF's `rope_freqs.weight`), head_dim / 2 of them.
    """

    kind: Literal["linear", "llama3", "factors"]
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Architecture and sizes of a decoder-only transformer with RMSNorm, rotary positions and a gated feed-forward."""

    architecture: str  # "llama", "qwen2", "qwen3", "gemma3"
    name: str
    vocab_size: int
    hidden_size: int
    ffn_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    context_length: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = False
    activation: Activation = "silu"  # of the feed-forward's gate
    post_norms: bool = False  # RMSNorm of what attention and the feed-forward give, before it is added
    embedding_scale: float = 1.0  # what looked-up embeddings are multiplied with
    query_scalar: float | None = None  # scores are divided by its square root; None: head_dim
    sliding_window: int | None = None  # tokens each query sees, itself included
    global_layers: tuple[int, ...] = ()  # layers that have no window all the same, in order
    local_rope_theta: float | None = None  # of layers with a window, never scaled; None: as the others
    quantization: str = "BF16"  # the most frequent weight type in the file, e.g. "Q4_1"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = field(default=())

    @property
    def parameters(self) -> int:
        """Number of weights, tied embeddings counted once."""
        attention = self.hidden_size * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        mlp = 3 * self.hidden_size * self.ffn_size
        heads = 1 if self.tied_embeddings else 2
        return heads * self.vocab_size * self.hidden_size + self.n_layers * (attention + mlp)

    @property
    def multiplied_parameters(self) -> int:
        """Weights that a token is multiplied with: all but embeddings that are only looked up."""
        return self.parameters - (0 if self.tied_embeddings else self.vocab_size * self.hidden_size)

    @property
    def attention_scale(self) -> float:
        """What the products of queries and keys are multiplied with."""
        return float((self.head_dim if self.query_scalar is None else self.query_scalar) ** -0.5)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The windows that there are among the layers, each once; None, which sees all, first."""
        found = {self.window(layer) for layer in range(self.n_layers)}
        return tuple(sorted(found, key=lambda window: (window is not None, window)))

    def window(self, layer: int) -> int | None:
        """Tokens that a query of this layer sees, itself included; None: all."""
        return None if layer in self.global_layers else self.sliding_window

    @property
    def attention_span(self) -> int:
        """Tokens of context at which attending to them takes as many operations as all the products with weights."""
        return max(1, self.multiplied_parameters // (2 * self.n_layers * self.n_heads * self.head_dim))

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """Bytes of K and V over all layers for one token whose elements take `itemsize` bytes."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * itemsize


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor, in row-major shape (slowest dimension first)."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # GGML type name ("Q4_1", "F32") or safetensors' ("BF16")
    nbytes: int


class Weights(Protocol):
    """A model's tensors under canonical names, memory-mapped; nothing is read until asked for."""

    def names(self) -> Iterator[str]: ...

    def __contains__(self, name: object) -> bool: ...

    def info(self, name: str) -> TensorInfo:
        """Raises ModelFileError if there is no such tensor."""
        ...

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor dequantized to float32, in `info(name).shape`; a fresh array, never a view of the file.

        Raises ConfigError without numpy, which comes with the extra `torch`.
        """
        ...

    def raw(self, name: str) -> memoryview:
        """The stored bytes as they are in the file (Q/K rows already permuted, so possibly a copy)."""
        ...

    def are_finite(self, name: str) -> bool:
        """Whether the tensor holds finite numbers only. Reads it from end to end."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
