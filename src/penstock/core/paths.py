"""Where this user's files live."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """What can be fetched again, the model store first: `PENSTOCK_HOME`, else the platform's cache directory."""
    if home := os.environ.get("PENSTOCK_HOME"):
        return Path(home).expanduser().absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "penstock"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "penstock"
    return Path.home() / ".cache" / "penstock"


def data_dir() -> Path:
    """What can't be fetched again: `XDG_DATA_HOME`, else the platform's directory for data."""
    if base := os.environ.get("XDG_DATA_HOME"):
        return Path(base) / "penstock"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "penstock" / "data"
    return Path.home() / ".local" / "share" / "penstock"


def config_dir() -> Path:
    """What the user wrote: `penstock.toml`."""
    if base := os.environ.get("XDG_CONFIG_HOME"):
        return Path(base) / "penstock"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "penstock"
    return Path.home() / ".config" / "penstock"
