"""The contract between the engine core and whatever executes a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from penstock.engine.types import StepBatch, StepOutput
    from penstock.models.lora import LoraAdapter
    from penstock.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """What a runner is told before it loads anything."""

    model_path: str
    runner: str = "auto"  # "auto", "native", "torch"
    block_size: int = 16  # tokens
    device: str = "auto"  # "auto", "cpu", "cuda", "mps"
    dtype: str = "auto"  # "auto", "float32", "bfloat16", "float16"
    kv_cache_dtype: str = "auto"  # "auto", "float32", "float16", "bfloat16", "int8"
    quantization: str | None = None  # "int8", "int4": what float weights are rounded to at load; None: nothing
    threads: int | None = None  # None: every core the process may use but the reserved ones
    reserve_cores: int = 0  # left to others
    pin_threads: str = "auto"  # "auto", "on", "off"
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_model_len: int = 2048
    gpu_memory_utilization: float = 0.9  # share of a GPU's memory for weights and KV together
    runner_cache: bool = False  # keep packed weights and measured choices in the cache directory
    allow_unverified: bool = False  # run paths that were never tested on their hardware
    max_loras: int = 8  # adapters in memory at a time
    max_lora_rank: int = 64


@dataclass(frozen=True, slots=True)
class KVCapacity:
    """What one block costs and what this device can spare."""

    bytes_per_block: int
    available_bytes: int  # what the KV cache takes unless told otherwise: on a CPU a quarter of the free memory
    free_bytes: int  # the most it can take
    weight_bytes: int  # what the loaded weights occupy


@dataclass(frozen=True, slots=True)
class Pacing:
    """How much of a prompt a step may take beside decodes so that these are not held up, as this device computes.

    Both follow from the device and the model's sizes, never from a timing: they decide what the scheduler does.
    """

    prefill_tokens: int  # at the beginning of a prompt; about as costly as a step of some decodes
    attention_span: int  # tokens of context that a prefill token attends to at the cost of all the rest of the model


@dataclass(frozen=True, slots=True)
class DraftCost:
    """What checking drafts takes on this device; from the device and the model's sizes, never from a timing."""

    row: float  # one more row in a step, as a share of a step of one row
    exact: bool  # a token comes out the same, bit for bit, however many rows are computed with it


class ModelRunner(Protocol):
    """Executes steps. Knows nothing of HTTP, queues or clients. One thread calls it."""

    def load(self) -> ModelSpec:
        """Read the weights onto the device. Raises ModelFileError or ConfigError."""
        ...

    def kv_capacity(self) -> KVCapacity: ...

    def pacing(self) -> Pacing: ...

    def draft_cost(self) -> DraftCost: ...

    def allocate(self, num_blocks: int) -> None:
        """Reserve the KV cache and warm up; called once, after `load`."""
        ...

    def execute(self, batch: StepBatch) -> StepOutput: ...

    def load_adapter(self, number: int, adapter: LoraAdapter) -> int:
        """Take an adapter, by whose number (above 0, never used before) sequences then ask for it; its bytes in memory.

        Called after `allocate`, between steps. Raises ModelFileError or ConfigError.
        """
        ...

    def unload_adapter(self, number: int) -> None:
        """Forget an adapter, of which no sequence is left."""
        ...

    def describe(self) -> dict[str, str]:
        """Device, dtype, attention path and whether it is verified: for the start-up line and /version."""
        ...

    def shutdown(self) -> None: ...
