"""How a person sets up the engine: the `[engine]` table, `PENSTOCK_*` variables, flags."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from penstock.core.settings import PenstockSettings, Size

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.engine.config import EngineConfig


class EngineSettings(PenstockSettings):
    """`EngineConfig` as people write it; `EngineSettings.load(**flags)` reads all sources."""

    section: ClassVar[str] = "engine"

    model: str = Field("smollm2", description="A path, a short name, or hf:owner/name[:QUANT].")
    max_model_len: int | None = Field(None, ge=1, description="Longest prompt and answer together, in tokens.")
    max_num_seqs: int = Field(256, ge=1, description="Requests that run at the same time.")
    max_num_batched_tokens: int = Field(2048, ge=1, description="Tokens computed in one step.")
    max_prefill_tokens_while_decoding: int | None = Field(
        None, ge=1, description="Prompt tokens a step may take while others are answered; by default as the device can."
    )
    max_waiting: int = Field(4096, ge=0, description="Requests that may queue before new ones are refused.")
    block_size: int = Field(16, ge=1, le=1024, description="Tokens per block of the KV cache.")
    kv_memory: Size | None = Field(None, description="Memory of the KV cache on a CPU.")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="Share of a GPU's memory to use.")
    enable_prefix_caching: bool = Field(default=True, description="Reuse the KV of prompts that begin alike.")
    runner: Literal["auto", "native", "torch"] = Field(
        "auto", description="What computes: our own on CPUs, or PyTorch."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where the model runs.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format; auto: the fastest."
    )
    kv_cache_dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] = Field(
        "auto", description="Number format of the KV cache; auto: what suits dtype."
    )
    quantization: Literal["int8", "int4"] | None = Field(
        None, description="What the weights of a float model are rounded to at load."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads.")
    allow_unverified: bool = Field(default=False, description="Run paths never tested on their hardware.")

    def config(self, model_path: Path) -> EngineConfig:
        """The engine's own message, for the model that `model` was resolved to."""
        from penstock.engine.config import EngineConfig

        return EngineConfig(model_path=str(model_path), **self.model_dump(exclude={"model"}))
