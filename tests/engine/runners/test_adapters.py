"""Adapters in the runners: a sequence's bits with any company, in any chunks, and in steps of fixed shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.engine.runners.torch.graphs import DecodeGraphs
from penstock.engine.types import SamplingParams
from penstock.models.load import load
from support.adapters import write_adapter
from support.runners import KINDS, Request, generate, load_adapter, make_runner, random_prompts, write_model

SCORED = SamplingParams(temperature=0, logprobs=5, prompt_logprobs=3)
# Of each sequence: its prompt's length and its adapter.
ASKED = [(20, 1), (3, 0), (12, 2), (9, 1), (1, 3)]


@pytest.fixture(scope="module", params=KINDS)
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A runner of each kind with three adapters, 1 to 3."""
    directory = tmp_path_factory.mktemp("model")
    model = write_model(directory, "llama", request.param)
    spec, weights = load(model)
    weights.close()
    made = make_runner(model, request.param, blocks=128, threads=2)
    shapes = (
        (8, ("q_proj", "k_proj", "up_proj")),
        (3, ("v_proj", "gate_proj", "down_proj")),
        (20, ("o_proj", "q_proj")),
    )
    for number, (rank, targets) in enumerate(shapes, start=1):
        adapter = write_adapter(directory / f"adapter{number}", spec, rank, targets, seed=number)
        load_adapter(made, number, model, adapter)
    yield made
    made.shutdown()


def new_requests() -> list[Request]:
    prompts = random_prompts(*(length for length, _ in ASKED))
    return [
        Request(prompt, [len(ASKED) * j + i for j in range(5)], SCORED, adapter=adapter)
        for i, (prompt, (_, adapter)) in enumerate(zip(prompts, ASKED, strict=True))
    ]


def test_results_of_a_mixed_batch_are_those_that_each_sequence_has_alone(runner: Any) -> None:
    alone = new_requests()
    for request in alone:
        generate(runner, [request], 6)
    for chunk in (7, 1 << 30):
        together = new_requests()
        generate(runner, together, 6, chunk=chunk)
        for one, other in zip(alone, together, strict=True):
            assert other.output == one.output
            assert [r.logprobs for r in other.results if r.logprobs] == [r.logprobs for r in one.results if r.logprobs]
            scores = [[p for r in request.results for p in r.prompt_logprobs] for request in (one, other)]
            assert scores[0] == scores[1]


def test_a_sequence_whose_adapter_is_unloaded_leaves_others_as_they_were(runner: Any, tmp_path: Path) -> None:
    before = new_requests()[2]
    generate(runner, [before], 8)
    model = Path(runner._config.model_path)
    spec, weights = load(model)
    weights.close()
    load_adapter(runner, 4, model, write_adapter(tmp_path / "wide", spec, 32, seed=4))
    changed = Request(before.prompt, before.table, SCORED, adapter=4)
    generate(runner, [changed], 8)
    runner.unload_adapter(4)
    after = new_requests()[2]
    generate(runner, [after], 8)
    assert after.output == before.output != changed.output


def test_decode_steps_of_fixed_shape_give_what_steps_of_their_own_shape_do(tmp_path: Path) -> None:
    model = write_model(tmp_path, "llama", "torch")
    spec, weights = load(model)
    weights.close()
    runner = make_runner(model, "torch", blocks=128)
    executor = runner._executor
    parts = (executor._compute, executor._planner, executor._cache, executor.bank)
    with torch.inference_mode():
        graphs = DecodeGraphs(*parts, torch.float32, torch.device("cpu"), captures=False)
        for number, rank in ((1, 8), (2, 5), (3, 24)):  # the last is wider than there was room for
            load_adapter(runner, number, model, write_adapter(tmp_path / str(number), spec, rank, seed=number))
            requests = new_requests()
            for request in requests:
                request.adapter = min(request.adapter, number)
            generate(runner, requests, 1)
            steps = [request.next_step() for request in requests]
            fixed = graphs.run(steps).clone()
            hidden, rows = executor._forward(steps)
            expected = torch.cat([hidden[part] for part in rows])
            torch.testing.assert_close(fixed, expected, atol=1e-5, rtol=1e-5)
