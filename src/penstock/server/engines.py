"""From a model's configuration to the engine that runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from penstock.core.errors import ConfigError
from penstock.engine.client import EngineClient
from penstock.models.encoder_files import is_encoder

if TYPE_CHECKING:
    from penstock.engine.config import EngineConfig
    from penstock.engine.encoders.client import EncoderClient
    from penstock.engine.spawn import CoreProcess

    Engine = EngineClient | EncoderClient


def make_engine(config: EngineConfig, cores: list[CoreProcess]) -> Engine:
    """An engine for what lies at the configured path, not started.

    Args:
        config: of an encoder only the threads, the memory, the queue's bounds and the length count.
        cores: that are loading this very configuration, or none; a generator takes one.

    Raises ModelFileError for a model directory whose config.json is broken, and ConfigError for adapters of an
    encoder.
    """
    path = Path(config.model_path)
    if not is_encoder(path):
        return EngineClient(config, cores.pop() if cores else None)
    if config.lora_modules:
        raise ConfigError(f"{path.name} is an encoder, and adapters are for generators.", param="lora_modules")
    from penstock.engine.encoders.client import EncoderClient
    from penstock.engine.encoders.messages import EncoderConfig

    return EncoderClient(
        EncoderConfig(
            directory=str(path),
            threads=config.threads,
            memory=config.memory,
            max_waiting=config.max_waiting,
            max_queue_delay=config.max_queue_delay_ms / 1000,
            max_length=config.max_model_len,
        )
    )
