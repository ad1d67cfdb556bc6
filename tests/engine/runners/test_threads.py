"""How many threads runners have, and what they say of where these are."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import pytest

from penstock.core.errors import ConfigError
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.threads import place_threads
from penstock.engine.runners.torch.runner import TorchRunner
from support.runners import generate, make_requests, make_runner, random_prompts
from support.tiny_models import write_tiny_variant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux pins threads")


def config(**fields: object) -> RunnerConfig:
    return RunnerConfig(model_path="unused", device="cpu", **fields)  # type: ignore[arg-type]


@pytest.fixture
def cpus() -> Iterator[list[int]]:
    before = os.sched_getaffinity(0)
    yield sorted(before)
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_variant(tmp_path_factory.mktemp("tiny"), "llama")


def test_threads_are_cut_by_a_quota_and_never_below_one(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("20000 100000\n")
    assert place_threads(config(), tmp_path).threads == 1
    assert 1 <= place_threads(config(), tmp_path / "nowhere").threads <= (os.cpu_count() or 1)
    assert place_threads(config(threads=7), tmp_path).threads == 7


@linux
def test_the_affinity_mask_bounds_the_threads(cpus: list[int]) -> None:
    os.sched_setaffinity(0, cpus[-1:])
    assert place_threads(config()).threads == 1


@pytest.mark.parametrize(("fields", "message"), [
    ({"reserve_cores": 100_000}, "--reserve-cores 100000 leaves"),
    ({"pin_threads": "on", "threads": 10_000}, "10000 threads and .* CPUs|no way"),
    ({"pin_threads": "sometimes"}, "'sometimes': auto, on or off"),
])  # fmt: skip
def test_threads_that_cannot_be_placed_as_asked_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place_threads(config(**fields))


def test_torch_refuses_to_pin() -> None:
    with pytest.raises(ConfigError, match="--runner native") as caught:
        TorchRunner(config(pin_threads="on"))
    assert caught.value.param == "pin_threads"


@linux
def test_pinned_threads_are_told_and_leave_the_caller_free(tiny: Path, cpus: list[int]) -> None:
    prompts = random_prompts(3, 17, 9)
    texts = []
    one_of_them = "|".join(map(str, cpus))
    for pin, told in (("on", f"pinned to CPUs ({one_of_them})"), ("off", "not pinned: --pin-threads is off")):
        runner = make_runner(tiny, "native-int8", pin_threads=pin)
        assert re.match(told, runner.describe()["placement"])
        requests = make_requests(prompts, 5)
        generate(runner, requests, 5)
        texts.append([request.output for request in requests])
        assert sorted(os.sched_getaffinity(0)) == cpus
    assert texts[0] == texts[1]
