"""What all workloads are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.lab.bench.planned import Planned


class Workload(Protocol):
    """A source of requests."""

    @property
    def name(self) -> str:
        """As in records: "synthetic", "conversations", "azure" ..."""

    @property
    def seed(self) -> int:
        """Of everything random in it."""

    def describe(self) -> dict[str, Any]:
        """Parameters for the record, JSON values."""

    def requests(self) -> Iterator[Planned]:
        """Anew each time, the same each time; endless unless it is a file's. `due` is set only by traces."""
