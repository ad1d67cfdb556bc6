"""Where engines are installed, and where they write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.paths import cache_dir

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """A pair of folders."""

    venvs: Path  # a folder for each engine
    logs: Path

    @classmethod
    def default(cls) -> Place:
        """Below Penstock's cache directory."""
        venvs = cache_dir() / "peers"
        return cls(venvs, venvs / "logs")
