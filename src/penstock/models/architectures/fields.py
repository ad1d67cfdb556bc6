"""Typed, bounded access to the settings that a model file claims; what is wrong is named with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.core.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# Above any model's, and low enough that nothing computed from them gets out of hand.
MAX_SIZE = 1 << 24
MAX_LAYERS = 1 << 12
MAX_HEADS = 1 << 16


class Fields:
    """Settings from config.json or GGUF metadata; None counts as absent. `prefix` comes before every key.

    Every getter raises ModelFileError if the value is absent and has no default, or isn't what it must be.
    """

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self._values = values
        self.where = where
        self._prefix = prefix

    def mentions(self, key: str) -> bool:
        """Whether the key is there at all, if only to say null."""
        return self._prefix + key in self._values

    def get(self, key: str) -> Any:
        return self._values.get(self._prefix + key)

    def error(self, key: str, problem: str) -> ModelFileError:
        """A ModelFileError that names the file, the key and its value, and says what is wrong with it."""
        value = self.get(key)
        shown = "absent" if value is None else f"of type {type(value).__name__}"
        if isinstance(value, (str, int, float)):
            # str() of an integer with thousands of digits is an error of its own.
            shown = repr(value)[:100] if not isinstance(value, int) or abs(value) < 1 << 64 else "a huge number"
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            shown = repr(value[:8])[:100]
        return ModelFileError(f"{self.where}: {self._prefix}{key} is {shown}, {problem}.")

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = MAX_SIZE) -> int:
        value = self._value(key, default)
        if type(value) is not int or not low <= value <= high:
            raise self.error(key, f"not a whole number from {low} to {high}")
        return value

    def number(self, key: str, default: float | None = None, *, low: float = 0.0, high: float = 1e12) -> float:
        """A finite number with low < number <= high."""
        value = self._value(key, default)
        if type(value) not in {int, float} or not low < value <= high:  # NaN fails the comparison
            raise self.error(key, f"not a number over {low:g} and up to {high:g}")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "neither true nor false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.error(key, "not a string")
        return value

    def is_nested(self) -> bool:
        """Whether a setting here is itself an object."""
        return any(isinstance(value, dict) for value in self._values.values())

    def strings(self, key: str) -> list[str]:
        """A list of strings; absent means empty."""
        value = self._value(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, "not a list of strings")
        return value

    def section(self, key: str) -> Fields:
        """The settings below `key`; absent means none."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "not an object")
        return Fields(value, f"{self.where}: {self._prefix}{key}")

    def token_ids(self, key: str, vocab_size: int) -> tuple[int, ...]:
        """One token id or a list of them, each once; absent means none. One outside the vocabulary names no token."""
        value = self._value(key, [])
        ids = value if isinstance(value, list) else [value]
        if not all(type(item) is int for item in ids):
            raise self.error(key, "not a token id or a list of them")
        return tuple(dict.fromkeys(item for item in ids if 0 <= item < vocab_size))

    def require_neutral(self, neutral: Mapping[str, Collection[Any]]) -> None:
        """Refuse a setting that changes the computation in a way no runner knows: it must be absent or harmless."""
        for key, harmless in neutral.items():
            value = self.get(key)
            if value is not None and not (isinstance(value, (str, int, float)) and value in harmless):
                raise self.error(key, "which isn't supported: the answers would be wrong")

    def _value(self, key: str, default: Any) -> Any:
        value = self.get(key)
        if value is None and default is None:
            raise ModelFileError(f"{self.where}: {self._prefix}{key} is missing.")
        return default if value is None else value
