"""The engines' own figures, read at each scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING

import penstock
from penstock.engine.client import EngineClient
from penstock.telemetry import metrics as table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.server.engines import Engine
    from penstock.server.served_encoder import ServedEncoder
    from penstock.server.served_model import ServedModel
    from penstock.telemetry.metrics import Metric, Snapshot


def figures(models: Iterable[ServedModel | ServedEncoder]) -> Snapshot:
    """What the engines of the models that are in memory say of themselves."""
    rows: dict[Metric, dict[tuple[str, ...], float]] = {row: {} for row in table.TABLE if row.origin == "snapshot"}
    for model in models:
        engine, name = model.engine, model.name
        for row, value in _engine_figures(engine).items():
            rows[row][name,] = value
        for state in ("starting", "ready", "restarting", "draining", "stopped"):
            rows[table.ENGINE_STATE][name, state] = float(engine.state == state)
        runner = engine.info.runner
        quantization = runner.get("quantization", engine.spec.quantization)
        described = (runner.get(part, "") for part in ("device", "dtype", "attention"))
        if isinstance(engine, EngineClient):
            config = engine.config
            rows[table.ENGINE_CONFIG][
                name, str(config.max_num_seqs), str(config.max_num_batched_tokens), str(config.block_size),
                str(config.enable_prefix_caching), config.kv_cache_dtype, config.speculation or "default",
                runner.get("threads", ""),
            ] = 1.0  # fmt: skip
        rows[table.BUILD_INFO][penstock.__version__, name, quantization, *described] = 1.0
    return rows


def _engine_figures(engine: Engine) -> dict[Metric, float]:
    stats = engine.stats
    if not engine.info.kv_blocks:  # an encoder keeps nothing
        return {
            table.REQUESTS_RUNNING: stats.running,
            table.WEIGHT_BYTES: engine.info.weight_bytes,
            table.ENGINE_RESTARTS: engine.restarts,
        }
    blocks = stats.kv_blocks_total or engine.info.kv_blocks
    return {
        table.REQUESTS_RUNNING: stats.running,
        table.REQUESTS_WAITING: stats.waiting,
        table.KV_BLOCKS_USED: stats.kv_blocks_used,
        table.KV_BLOCKS_TOTAL: blocks,
        table.KV_BYTES: engine.info.kv_bytes,
        table.WEIGHT_BYTES: engine.info.weight_bytes,
        table.KV_USAGE: stats.kv_blocks_used / blocks if blocks else 0.0,
        table.PREFIX_QUERIES: stats.prefix_query_tokens,
        table.PREFIX_HITS: stats.prefix_hit_tokens,
        table.PREEMPTIONS: stats.preemptions,
        table.STEPS: stats.steps,
        table.PROMPT_TOKENS: stats.prompt_tokens,
        table.GENERATION_TOKENS: stats.generation_tokens,
        table.DRAFT_TOKENS: stats.draft_tokens,
        table.ACCEPTED_DRAFT_TOKENS: stats.accepted_draft_tokens,
        table.ENGINE_RESTARTS: engine.restarts,
    }
