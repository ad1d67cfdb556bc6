"""How a person sets up the engine: the `[engine]` table, `PENSTOCK_*` variables, flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from penstock.core.setting_kinds import choice, integer, named_paths, number, setting, size, switch, text
from penstock.core.settings import PenstockSettings
from penstock.engine.types import Speculation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from penstock.engine.config import EngineConfig

Runner = Literal["auto", "native", "torch"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8", "int4"]
PinThreads = Literal["auto", "on", "off"]
KvCacheDtype = Literal["auto", "float32", "float16", "bfloat16", "int8"]


@dataclass(frozen=True, kw_only=True)
class EngineSettings(PenstockSettings):
    """`EngineConfig` as people write it; `EngineSettings.load(**flags)` reads all sources."""

    section: ClassVar[str] = "engine"

    model: str = setting("smollm2", text)  # a path, a short name, or hf:owner/name[:QUANT]
    max_model_len: int | None = setting(None, integer(1))  # longest prompt and answer together, in tokens
    max_num_seqs: int = setting(256, integer(1))  # requests that run at the same time
    max_num_batched_tokens: int = setting(2048, integer(1))  # tokens computed in one step
    # Prompt tokens a step may take while others are answered; None: as the device can.
    max_prefill_tokens_while_decoding: int | None = setting(None, integer(1))
    max_waiting: int = setting(4096, integer(0))  # requests that may queue before new ones are refused
    max_queue_delay_ms: float = setting(0.0, number(0, 1000))  # that a text waits for others, of an encoder
    block_size: int = setting(16, integer(1, 1024))  # tokens per block of the KV cache
    kv_memory: int | None = setting(None, size())  # bytes of the KV cache on a CPU
    memory: int | None = setting(None, size())  # bytes of weights and KV cache together
    gpu_memory_utilization: float = setting(0.9, number(0, 1, above=True))  # share of a GPU's memory to use
    enable_prefix_caching: bool = setting(default=True, read=switch)  # reuse the KV of prompts that begin alike
    speculation: Speculation | None = setting(None, choice(Speculation))  # guess ahead; None: where it is exact
    draft_model: str | None = setting(None, text)  # a smaller model that guesses, named as `model` is
    runner: Runner = setting("auto", choice(Runner))  # what computes: our own on CPUs, or PyTorch
    device: Device = setting("auto", choice(Device))  # where the model runs
    dtype: Dtype = setting("auto", choice(Dtype))  # number format; auto: the fastest
    kv_cache_dtype: KvCacheDtype = setting("auto", choice(KvCacheDtype))  # of the KV cache; auto: what suits dtype
    quantization: Quantization | None = setting(None, choice(Quantization))  # float weights become this at load
    threads: int | None = setting(None, integer(1))  # CPU threads
    reserve_cores: int = setting(0, integer(0))  # cores left to the server and to others
    pin_threads: PinThreads = setting("auto", choice(PinThreads))  # a CPU for each; auto: where it can do no harm
    # Keep packed weights and measured choices on disk for the next start.
    runner_cache: bool = setting(default=True, read=switch)
    allow_unverified: bool = setting(default=False, read=switch)  # run paths never tested on their hardware
    lora_modules: tuple[tuple[str, str], ...] = setting(
        (), named_paths, flag="--lora"
    )  # adapters' names and directories
    max_loras: int = setting(8, integer(1, 1024))  # adapters in memory at a time
    max_lora_rank: int = setting(64, integer(1, 1024))  # the greatest rank of one

    def config(self, find: Callable[[str], Path]) -> EngineConfig:
        """The engine's own message; `find` resolves the models' names."""
        from penstock.engine.config import EngineConfig

        values = {name: getattr(self, name) for name in EngineSettings.names() if name != "model"}
        if self.draft_model is not None:
            values["draft_model"] = str(find(self.draft_model))
        return EngineConfig(model_path=str(find(self.model)), **values)
