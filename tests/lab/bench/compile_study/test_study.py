"""Modes in processes of their own: their order, their failures, and what is made of their answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import ConfigError, InvalidRequestError
from penstock.core.record import Record
from penstock.lab.bench.compile_study import process
from penstock.lab.bench.compile_study.modes import MODES, choose
from penstock.lab.bench.compile_study.page import page_of
from penstock.lab.bench.compile_study.planning import numbers, require_compiler
from penstock.lab.bench.compile_study.process import Ran
from penstock.lab.bench.compile_study.report import keep, record_of, sentences
from penstock.lab.bench.compile_study.study import Plan, study
from penstock.lab.bench.compile_study.trial import Answer, Ask, Break, Compilation, Memory, PointResult
from penstock.lab.pages import render_html, render_markdown

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds of a step, and of compiling, under each mode.
STEP = {"eager": 0.010, "default": 0.008, "max-autotune-no-cudagraphs": 0.012}
COMPILE = {"eager": 0.0, "default": 20.0, "max-autotune-no-cudagraphs": 60.0}


def _plan(**fields: Any) -> Plan:
    usual: dict[str, Any] = {
        "model": "tiny", "model_path": Path("tiny"), "modes": choose(list(MODES)), "backend": "cpu",
        "dtype": "float32", "prefills": (16,), "batches": (1, 4), "context": 8, "steps": 2, "answer": 100,
        "rounds": 3, "passes": 2, "limit": 60.0,
    }  # fmt: skip
    return Plan(**(usual | fields))


def _answer(ask: Ask, *, cold: bool) -> Answer:
    step = STEP[ask.mode]
    cost = COMPILE[ask.mode] * (1.0 if cold else 0.25) / len(ask.points)
    points = tuple(
        PointResult(point, step * point.steps + cost, (step * 0.999, step, step * 1.001), 1, 0, (7,) * point.steps)
        for point in ask.points
    )
    compilations = tuple(
        Compilation("compute", "x/src/penstock/a.py", 3, cost, 40, "" if i == 0 else "size mismatch", "", point.name)
        for i, point in enumerate(ask.points)
    )
    breaks = (Break("x/site-packages/penstock/a.py", 5, "compute", "print(x)", "print", skipped=False),)
    return Answer(
        points=points, compilations=() if ask.mode == "eager" else compilations,
        breaks=() if ask.mode == "eager" else breaks, memory=Memory(10, 20, 30), described={"runner": "torch"},
    )  # fmt: skip


def _runner(ran: list[str], *, fails: str = "", stops_at: int = 99) -> Callable[..., Ran]:
    def run(ask: Ask, cache: Path, _limit: float, _doing: Any) -> Ran:
        if len(ran) == stops_at:
            raise KeyboardInterrupt
        cold = cache.name not in ran
        ran.append(ask.mode)
        assert cache.name == ask.mode
        return Ran(1.0, None, "no memory") if ask.mode == fails else Ran(1.0, _answer(ask, cold=cold))

    return run


def test_given_modes_when_studied_then_passes_turn_round_and_the_record_and_page_say_what_pays(tmp_path: Path) -> None:
    ran: list[str] = []
    found = study(_plan(), lambda *_: None, run=_runner(ran))
    assert ran == ["eager", "default", "max-autotune-no-cudagraphs", *ran[:3][::-1]]
    said = "\n".join(sentences(found))
    assert "reduce-overhead: not measured, needs CUDA graphs, which the cpu backend hasn't." in said
    assert "cuda-graphs: not measured" in said
    # A request of one prompt step and a quarter of 100 decode steps saves 26 x 2 ms; 20 s of compiling are 385 of them.
    assert "default: decode in a batch of 4 is 1.25 times as fast as eager" in said
    assert "compiling takes 20 s, and pays after 385 requests" in said
    assert "max-autotune-no-cudagraphs: decode in a batch of 4 is 0.833 times" in said
    assert "never pays" in said
    record = record_of(found, ["penstock", "bench", "compile-study"])
    assert record.metric("break_even_cold_b4_default").mean == pytest.approx(20 / (26 * 0.002))
    assert record.metric("break_even_warm_b4_default").mean == pytest.approx(5 / (26 * 0.002))
    assert record.metric("compile_cold_default").mean == pytest.approx(20)
    assert (record.metric("recompilations_default").mean, record.metric("graph_breaks_default").mean) == (2, 1)
    assert record.metric("decode_b1_eager").n == 6
    assert not any("break_even" in each.name and "autotune" in each.name for each in record.metrics)
    assert Record.load(keep(record, tmp_path)) == record
    markdown = render_markdown.render(page_of(found, record))
    assert "penstock/a.py:5" in markdown
    assert "pays after 385 requests" in markdown
    assert "x/src" not in markdown
    assert "Time saved, batch of 4" in render_html.render(page_of(found, record))


def test_given_a_mode_that_fails_when_studied_then_the_others_go_on_without_it() -> None:
    ran: list[str] = []
    found = study(_plan(), lambda *_: None, run=_runner(ran, fails="default"))
    assert ran == ["eager", "default", "max-autotune-no-cudagraphs", "max-autotune-no-cudagraphs", "eager"]
    assert "default: not measured, no memory." in sentences(found)
    record_of(found)
    without_eager = study(_plan(), lambda *_: None, run=_runner([], fails="eager"))
    assert "compile_cold_default" not in {each.name for each in record_of(without_eager).metrics}
    page_of(without_eager, record_of(without_eager))


def test_given_ctrl_c_when_studied_then_what_was_measured_is_kept_and_marked() -> None:
    found = study(_plan(), lambda *_: None, run=_runner([], stops_at=2))
    record = record_of(found)
    assert [each.kind for each in record.flaws] == ["cut"]
    assert record.metric("compile_cold_default").mean == pytest.approx(20)
    assert "max-autotune-no-cudagraphs: not measured, not reached." in record.notes


def test_given_nothing_possible_when_studied_then_it_says_why() -> None:
    with pytest.raises(ConfigError, match="cuda-graphs needs CUDA graphs, which the cpu backend hasn't"):
        study(_plan(modes=choose(["cuda-graphs"])), lambda *_: None, run=_runner([]))
    with pytest.raises(InvalidRequestError, match=r"'defualt' is none of the modes.*default"):
        choose(["defualt"])


@pytest.mark.parametrize("text", ["", "1,", "0", "-1", "1.5", "x", "99999999999999", "٣"])
def test_given_a_list_that_is_none_when_read_then_it_is_named(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="--batches is whole numbers"):
        numbers(text, "batches")
    assert numbers("8, 1,8", "batches") == (1, 8)


def test_given_no_compiler_when_a_cpu_is_studied_then_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match="no g\\+\\+ or clang\\+\\+: install g\\+\\+"):
        require_compiler()
    monkeypatch.setenv("CXX", sys.executable)
    require_compiler()


ASK = Ask(
    model_path="none", mode="eager", shapes="automatic", points=_plan().points, rounds=2, device="cpu",
    dtype="float32", threads=1, block_size=16, seed=0,
)  # fmt: skip
TELL = 'import sys; print(\'{"type":"progress","doing":"compiling"}\', flush=True); '


@pytest.mark.parametrize(
    ("code", "limit", "reason"),
    [
        ("import time; time.sleep(60)", 1.0, "took longer than 1 s, during compiling"),
        (
            "import time; print('{\"type', end='', flush=True); time.sleep(60)",
            1.0,
            "took longer than 1 s, during compiling",
        ),
        ("sys.exit('out of luck')", 60.0, "ended with exit code 1: out of luck"),
        ("import os; os.kill(os.getpid(), 9)", 60.0, "was ended by SIGKILL"),
        ('print(\'{"type":"failed","reason":"no memory"}\')', 60.0, "no memory"),
    ],
)
def test_given_a_process_that_doesnt_answer_when_run_then_the_reason_is_told(
    tmp_path: Path, code: str, limit: float, reason: str
) -> None:
    heard: list[str] = []
    ran = process.run(ASK, tmp_path, limit, heard.append, command=(sys.executable, "-c", TELL + code))
    assert (ran.answer, ran.failure, heard) == (None, reason, ["compiling"])


def test_given_a_process_with_children_when_it_is_late_then_they_end_too(tmp_path: Path) -> None:
    # The grandchild keeps a lock for as long as it lives.
    code = (
        "import subprocess, sys, time; held = open(sys.argv[1], 'w'); import fcntl; fcntl.flock(held, fcntl.LOCK_EX);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], pass_fds=[held.fileno()]);"
        "held.close(); time.sleep(60)"
    )
    lock = tmp_path / "lock"
    process.run(ASK, tmp_path, 1.5, lambda _: None, command=(sys.executable, "-c", code, str(lock)))
    import fcntl

    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # waits until its last holder is gone; the test's own time limit is CI's
