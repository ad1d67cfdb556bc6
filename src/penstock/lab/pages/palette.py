"""The colours of series: told apart by people who don't see red or green, on light and on dark ground."""

from __future__ import annotations

LIGHT = ("#2171c1", "#e66d40", "#019375", "#a34294", "#8a6d00", "#3c3f8f", "#2e9bc9", "#6b6b6b")
DARK = ("#5cb0f9", "#ef864d", "#43d4a6", "#db91d0", "#d9b93a", "#9495e4", "#7fd0ee", "#b5b5b5")
