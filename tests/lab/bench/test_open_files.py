"""More streams than files a process starts with may be open."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from penstock.lab.bench.stub import Stub

CLIENT = """
import resource, sys
soft, hard, streams = map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
import numpy as np
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.observations import Ending
from penstock.lab.bench.offer import Manner, offer
from penstock.lab.bench.planned import Planned
endpoint = Endpoint.open(sys.argv[1], model="stub")
seen = offer(endpoint, (Planned("a b", 2) for _ in range(streams)), Manner(slots=streams))
open("/dev/null").close()  # the process itself still may
whole = seen.where(seen.ending == Ending.WHOLE)
steps = np.concatenate([np.ones(len(whole)), -np.ones(len(whole))])[np.argsort([*whole.connected, *whole.last_text])]
print(len(whole), int(np.cumsum(steps).max()), {Ending(e).name for e in seen.ending.tolist()})
print(next(iter(seen.details.values()), ""))
"""


def offered(stub: Stub, *, soft: int, hard: int, streams: int) -> tuple[int, int, str, str]:
    """Answers that were whole, and at once; how requests ended; and one error."""
    command = [sys.executable, "-c", CLIENT, stub.url, str(soft), str(hard), str(streams)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    counts, detail = done.stdout.splitlines()
    whole, at_once, endings = counts.split(maxsplit=2)
    return int(whole), int(at_once), endings, detail


def test_given_a_soft_limit_of_1024_when_2000_streams_are_opened_at_once_then_it_is_raised_and_all_are_whole() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"this system allows a process {hard} files")
    with Stub(ttft=2.0, itl=0.01) as stub:
        whole, at_once, endings, _ = offered(stub, soft=1024, hard=4096, streams=2000)
    assert (whole, at_once, endings) == (2000, 2000, "{'WHOLE'}")


def test_given_a_hard_limit_when_more_streams_are_opened_then_the_error_says_what_to_do_and_the_rest_is_measured() -> (
    None
):
    with Stub(ttft=0.3, itl=0.01) as stub:
        whole, _, endings, detail = offered(stub, soft=100, hard=100, streams=200)
    assert 30 < whole < 100
    assert set(endings.strip("{}").replace("'", "").split(", ")) == {"WHOLE", "CONNECT"}
    assert "ulimit -n" in detail
