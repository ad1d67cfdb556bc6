"""Whether an encoder lies at a path: what a server must know of every model before it loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.models.strict_json import read_object

if TYPE_CHECKING:
    from pathlib import Path

# Architectures whose graph is drawn here. All other encoders come as ONNX.
DRAWN = ("bert", "roberta", "xlm-roberta")
# Known to read whole texts, so that such a directory is never taken for a generator's.
_ENCODERS = (*DRAWN, "albert", "camembert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "nomic_bert")


def is_encoder(path: Path) -> bool:
    """Whether what lies at `path` is a directory with an encoder. Raises ModelFileError for a broken config.json."""
    if not path.is_dir() or not (path / "config.json").is_file():
        return False
    config = read_object(path / "config.json")
    if config.get("model_type") in _ENCODERS:
        return True
    # Repositories of generators may hold ONNX files too.
    architectures = str(config.get("architectures"))
    generates = "ForCausalLM" in architectures or "ForConditionalGeneration" in architectures
    return onnx_file(path) is not None and not generates


def onnx_file(directory: Path) -> str | None:
    """The graph in a directory, if there is one."""
    return next((name for name in ("model.onnx", "onnx/model.onnx") if (directory / name).is_file()), None)
