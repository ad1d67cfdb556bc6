"""Byte sizes as people write them: "2GiB", "512M", "1.5 GB"."""

from __future__ import annotations

import re

from penstock.core.errors import ConfigError

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "byte": 1, "bytes": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS[f"{_letter}b"] = 1000**_power
    # A bare letter is binary, as in Kubernetes' "Mi", Java's -Xmx and vLLM's --kv-cache-memory-bytes.
    _UNITS[_letter] = _UNITS[f"{_letter}i"] = _UNITS[f"{_letter}ib"] = 1024**_power


def parse_size(text: str | float) -> int:
    """Bytes in `text`; a bare number is bytes. Raises ConfigError if it is no positive size."""
    match = _SIZE.fullmatch(str(text))
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None or isinstance(text, bool):
        raise ConfigError(f"{text!r} is not a size; write a number with a unit, for example 2GiB or 512MiB.")
    size = int(float(match[1]) * factor)
    if size <= 0:
        raise ConfigError(f"{text!r} is not a size above zero.")
    return size


def format_size(size: float) -> str:
    """`size` bytes in the largest binary unit that leaves a number of at least one, as in "93.8 MiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
