"""What the compiler did is read from its own books: breaks with their lines, recompiles with their reasons."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch._dynamo

from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.torch.runner import TorchRunner
from penstock.engine.runners.torch.variant import Variant
from penstock.lab.bench.compile_study.compiling import tensors_of
from penstock.lab.bench.compile_study.watch import Watch
from penstock.lab.bench.compile_study.words import broken, recompiled
from support.runners import generate, make_requests, make_runner, random_prompts
from support.tiny_models import write_tiny_variant

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _fresh() -> Generator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _asks_a_number(x: torch.Tensor) -> torch.Tensor:
    if x.sum().item() > 0:
        return x + 1
    return x - 1


def _prints_in_a_loop(x: torch.Tensor) -> torch.Tensor:
    for _ in range(2):
        x = x + 1
        print("never seen by a graph")
    return x


def _breaks(x: torch.Tensor) -> torch.Tensor:
    x = _asks_a_number(x * 2)
    return _prints_in_a_loop(x) * 3


def _line(function: Callable[..., Any], text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


def test_given_code_that_breaks_graphs_when_compiled_then_each_place_is_named_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    watch = Watch()
    compiled = torch.compile(_breaks, backend="eager", dynamic=False)
    assert compiled(torch.ones(3)).tolist() == _breaks(torch.ones(3)).tolist()
    compiled(torch.ones(4))
    taken = watch.take("a point")
    found = {(each.function, each.line): each for each in watch.breaks}
    number = found["_asks_a_number", _line(_asks_a_number, ".item()")]
    assert number.file == __file__
    assert not number.skipped
    assert number.code == "if x.sum().item() > 0:"
    assert "Tensor.item()" in number.reason
    loop = found["_prints_in_a_loop", _line(_prints_in_a_loop, "print(")]
    assert loop.skipped
    assert len([each for each in watch.breaks if each.line == number.line]) == 1
    assert len(watch.compilations) == taken
    assert {each.point for each in watch.compilations} == {"a point"}


def test_given_changing_shapes_when_compiled_then_recompiles_are_counted_with_their_guards() -> None:
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    counts = {}
    for dynamic in (False, None):
        torch._dynamo.reset()
        watch = Watch()
        compiled = torch.compile(double, backend="eager", dynamic=dynamic)
        counts[dynamic] = []
        for rows in range(2, 13):
            compiled(torch.ones(rows))
            counts[dynamic].append(watch.take(str(rows)))
        again = recompiled(type("Seen", (), {"compilations": watch.compilations})())
        assert all("size mismatch at index 0" in each.reason for each in again)
        assert again[0].point == "3"
        given_up = broken(type("Seen", (), {"compilations": watch.compilations})())
        # A size that changes becomes a variable at its second value; else torch gives up after eight.
        assert len(again) == (7 if dynamic is False else 1)
        assert ["recompile limit" in each.failure for each in given_up] == ([True] if dynamic is False else [])
    assert counts[False][:8] == [1] * 8
    assert counts[None] == [1, 1] + [0] * 9


def test_given_a_runner_when_its_forward_is_traced_then_it_is_one_graph_and_writes_the_same_text(
    tmp_path: Path,
) -> None:
    path = write_tiny_variant(tmp_path / "model", "llama", num_hidden_layers=1)
    prompts = random_prompts(40)
    expected = make_requests(prompts, 3)
    generate(make_runner(path), expected, 3)
    watch = Watch()
    kept: list[int] = []

    def compiler(forward: Any) -> Any:
        kept.append(len(list(tensors_of(forward, with_cache=True))) - len(list(tensors_of(forward, with_cache=False))))
        return torch.compile(forward, backend="eager", fullgraph=True, dynamic=None)

    config = RunnerConfig(model_path=str(path), runner="torch", device="cpu", max_model_len=256, threads=1)
    runner = TorchRunner(config, Variant(compiler, "padded"))
    runner.load()
    runner.allocate(64)
    assert not watch.take("loading"), "who compiles says when"
    requests = make_requests(prompts, 3)
    generate(runner, requests, 3)
    assert [each.output for each in requests] == [each.output for each in expected]
    assert kept == [2], "the layer's cache, and its view by slots"
    assert watch.take("steps") > 0
    assert watch.breaks == []
