"""JSON from files we don't trust: one object, no key twice, bounded in size, errors that name the file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from penstock.core.errors import ModelFileError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES = 100_000_000
# A value takes up to two hundred bytes once parsed: this bounds what a file made of "[[],[],..." costs.
MAX_VALUES = 2_000_000


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises NotFoundError if the file is missing, ModelFileError if it is wrong."""
    try:
        if not path.is_file():
            raise NotFoundError(f"There is no file {path}.")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelFileError(f"{path} has {size} bytes, more than the {MAX_FILE_BYTES} allowed.")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} can't be read: {error}.") from error
    return parse_object(data, str(path))


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """The object in `data`; `where` names it in the error. Raises ModelFileError."""
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ModelFileError(f"{where} holds more than {MAX_VALUES} JSON values, which no model needs.")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique_keys)
    except RecursionError as error:
        raise ModelFileError(f"{where} is nested too deeply.") from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ModelFileError(f"{where} isn't valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{where} must be a JSON object, and is a {type(value).__name__}.")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:100]!r} is there twice")
            seen.add(key)
    return values
