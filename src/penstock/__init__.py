"""Penstock serves open-weight language models on the machines people have.

>>> from penstock import LLM, SamplingParams
>>> llm = LLM("smollm2")  # doctest: +SKIP
>>> llm.generate(["The capital of France is"], SamplingParams(max_tokens=8))  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.engine.llm import LLM, AsyncLLM
    from penstock.engine.types import SamplingParams

__version__ = "0.1.0"  # here too: asking the package's metadata takes as long as reading a model
__all__ = ["LLM", "AsyncLLM", "SamplingParams", "__version__"]

_LAZY = {
    "LLM": "penstock.engine.llm",
    "AsyncLLM": "penstock.engine.llm",
    "SamplingParams": "penstock.engine.types",
}


def __getattr__(name: str) -> Any:
    """Import the public names only when they are used, so that `penstock --help` stays instant."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")
