"""How an engine is set up; the names follow vLLM's where it has one."""

from __future__ import annotations

import msgspec

from penstock.engine.types import AdapterInfo, Speculation


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the engine core needs to start. It crosses to the core's process, so it is a message."""

    model_path: str  # a GGUF file (first part of a split one) or a directory with config.json and safetensors
    max_model_len: int | None = None  # None: the model's context, cut to what the KV cache holds
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    # Prompt tokens a step may take while other requests decode: a long prompt then stretches their
    # inter-token latency by a bounded amount instead of stalling them. None: what the runner advises for its device.
    max_prefill_tokens_while_decoding: int | None = None
    max_waiting: int = 4096  # requests that may queue before new ones are refused
    max_queue_delay_ms: float = 0.0  # that a text waits for others to be computed with, of an encoder
    block_size: int = 16  # tokens per KV block
    kv_memory: int | None = None  # bytes; None: a quarter of what the cgroup leaves (CPU)
    memory: int | None = None  # bytes of weights and KV cache together; None: as kv_memory says
    gpu_memory_utilization: float = 0.9  # share of a GPU's memory for weights and KV together
    enable_prefix_caching: bool = True
    # None: by the draft model if there is one, else by n-gram look-up where it changes no token
    speculation: Speculation | None = None
    draft_model: str | None = None  # the path of a smaller model of the same vocabulary
    runner: str = "auto"  # "native" and "torch" insist on one
    device: str = "auto"
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    quantization: str | None = None  # "int8", "int4": round a float model's weights at load
    threads: int | None = None  # None: as many as cores the process may use but the reserved ones
    reserve_cores: int = 0  # left to the server and others
    pin_threads: str = "auto"  # "on" insists
    runner_cache: bool = True  # packed weights and measured choices on disk, for the next start
    allow_unverified: bool = False
    lora_modules: tuple[tuple[str, str], ...] = ()  # names and directories of adapters
    max_loras: int = 8  # adapters in memory at a time
    max_lora_rank: int = 64


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the core found once it was up."""

    max_model_len: int
    kv_blocks: int
    block_size: int
    kv_bytes: int
    weight_bytes: int
    runner: dict[str, str]  # device, dtype, attention, verified
    adapters: list[AdapterInfo] = []  # those of the configuration

    @property
    def kv_tokens(self) -> int:
        return self.kv_blocks * self.block_size


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of the core's counters, sent after steps; totals since the core started."""

    running: int = 0
    waiting: int = 0
    kv_blocks_used: int = 0  # held by live requests
    kv_blocks_total: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    prompt_tokens: int = 0  # computed, not taken from the cache
    generation_tokens: int = 0
    draft_tokens: int = 0  # checked
    accepted_draft_tokens: int = 0
