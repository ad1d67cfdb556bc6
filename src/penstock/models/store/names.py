"""What a person may write for a model, told apart without looking at the network."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from penstock.core.errors import InvalidRequestError
from penstock.models.store.catalog import CATALOG, PackagedModel

HUB_PREFIX = "hf:"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubName:
    """`hf:owner/name[:choice]`; the choice is a quantization ("Q4_K_M"), a file's name, or "safetensors"."""

    repo: str
    choice: str | None

    def __str__(self) -> str:
        return HUB_PREFIX + self.repo + (f":{self.choice}" if self.choice else "")


@dataclass(frozen=True, slots=True)
class StoredName:
    """None of the other kinds: the name of something in the store, or a mistake."""

    name: str


ModelName = Path | PackagedModel | HubName | StoredName


def parse_name(name: str) -> ModelName:
    """Tell what `name` means. A catalogue name wins over a file of that name: write ./smollm2 for the file.

    Raises InvalidRequestError if it is empty or a malformed hub name.
    """
    if not name.strip():
        raise InvalidRequestError("The model's name is empty.", param="model")
    if name.startswith(HUB_PREFIX):
        return _hub_name(name)
    if name in CATALOG:
        return CATALOG[name]
    path = Path(name).expanduser()
    if "/" in name or os.sep in name or name.startswith(("~", ".")) or name.endswith(".gguf") or path.exists():
        return path
    return StoredName(name)


def looks_like_repo(name: str) -> bool:
    """Whether `name` could be meant for the hub, "hf:" forgotten."""
    return _REPO.fullmatch(name.partition(":")[0]) is not None


def _hub_name(name: str) -> HubName:
    repo, colon, choice = name.removeprefix(HUB_PREFIX).partition(":")
    if _REPO.fullmatch(repo) is None or "--" in repo or ".." in repo or (colon and not choice):
        raise InvalidRequestError(
            f"{name!r} is no hub name; write hf:owner/name or hf:owner/name:QUANTIZATION, "
            "for example hf:bartowski/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M.",
            param="model",
        )
    return HubName(repo, choice or None)
