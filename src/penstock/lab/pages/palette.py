"""The colours of series: told apart by people who don't see red or green, on light and on dark ground."""

from __future__ import annotations

LIGHT = ("#0a6cb5", "#c4520a", "#00866a", "#a8479b", "#8a6d00", "#3c3f8f", "#2e9bc9", "#6b6b6b")
DARK = ("#58a6e8", "#f08a4b", "#2bc09a", "#d98fd0", "#d9b93a", "#9a9cf0", "#7fd0ee", "#b5b5b5")
