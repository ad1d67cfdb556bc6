"""What can go wrong in a benchmark."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A peer failed, or answered something other than the work it was given; the figure would be worthless."""
