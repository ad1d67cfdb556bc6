"""What bound a load, read from what servers export."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.lab.bench.bounds import by_server


def told(increases: dict[str, float] | None = None, **series: list[float | None]) -> dict[str, Any]:
    length = max((len(values) for values in series.values()), default=0)
    return {"times": list(range(length)), "series": series, "increases": increases or {}, "means": {}}


@pytest.mark.parametrize(
    ("server", "what"),
    [
        (told(kv_usage=[0.5, 0.97, 0.99, 0.98, 0.99], waiting=[0, 5, 9, 12, 15], running=[4, 9, 8, 9, 8]), "KV memory"),
        (told({"preemptions": 12, "finished": 400}, running=[9, 9, 9, 9, 9], waiting=[0, 0, 0, 0, 0]), "KV memory"),
        (told(kv_usage=[0.2] * 6, waiting=[0, 3, 6, 9, 12, 15], running=[3, 8, 8, 8, 8, 8]), "queue"),
        (told(gpu_usage=[0.97] * 5, waiting=[0] * 5, running=[10, 30, 50, 70, 90]), "compute"),
        (told(gpu_memory_usage=[0.8] * 5, gpu_usage=[0.97] * 5), "memory bandwidth"),
    ],
)
def test_each_bound_is_told_from_the_others_by_the_servers_own_metrics(server: dict[str, Any], what: str) -> None:
    found = by_server(server, 100.0)
    assert found is not None
    assert found.what == what


def test_readings_after_the_requests_and_those_that_failed_count_for_nothing() -> None:
    server = told(waiting=[None, 5, 6, None, 0, 0], running=[8, 8, 8, 8, 1, 0])
    found = by_server(server, 3.0)
    assert found is not None
    assert found.what == "queue"


def test_a_server_that_tells_nothing_decides_nothing() -> None:
    assert by_server(told(), 10.0) is None
    assert by_server(told(kv_usage=[0.3] * 4, waiting=[0] * 4, running=[1, 2, 1, 2]), 10.0) is None
