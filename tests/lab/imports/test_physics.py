"""What measured runs can't break, and what a single wrong figure must."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from penstock.lab.imports.figures import Figures, Spread
from penstock.lab.imports.hardware import CHIPS, chip_of, limits, parse_quantity
from penstock.lab.imports.physics import breaches

H100 = limits(hardware="H100 SXM", params=8e9, dtype="bfloat16")


@dataclass(frozen=True)
class Run:
    """A simulated run: one that could have been."""

    figures: Figures
    samples: dict[str, np.ndarray]


def spread(values: np.ndarray, *, whole: bool) -> Spread:
    known = dict(zip(("p50", "p90", "p95", "p99"), np.percentile(values, (50, 90, 95, 99)).tolist(), strict=True))
    known |= {"mean": float(values.mean())}
    if whole:
        known |= {"min": float(values.min()), "max": float(values.max()), "std": float(values.std())}
        return Spread(known, len(values))
    return Spread({name: known[name] for name in ("mean", "p50", "p99")})


@st.composite
def runs(draw: st.DrawFn, *, whole: bool | None = None, fixed: bool | None = None, closed: bool | None = None) -> Run:
    """Closed or open loop, any latencies and lengths, told in full or as tables tell."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, streams = draw(st.integers(20, 300)), draw(st.integers(1, 32))
    whole = draw(st.booleans()) if whole is None else whole
    fixed = draw(st.booleans()) if fixed is None else fixed
    closed = draw(st.booleans()) if closed is None else closed
    tokens = np.full(n, draw(st.integers(2, 500)))
    if not fixed:
        tokens = np.maximum(1, random.lognormal(math.log(40), draw(st.floats(0.1, 1.5)), n).astype(int))
    assume((tokens > 1).any())
    per_token = 10 ** draw(st.floats(-3, -1)) * random.lognormal(0, draw(st.floats(0, 0.5)), n)
    decoding = (tokens - 1) * per_token
    ttft = decoding.mean() * draw(st.floats(0.3, 3)) * random.lognormal(0, draw(st.floats(0, 1)), n)
    e2e = ttft + decoding
    if closed:
        free = [0.0] * streams
        begun = [heapq.heapreplace(free, free[0] + each) for each in e2e]
    else:
        begun = np.cumsum(random.exponential(e2e.mean() / streams, n)).tolist()
    start = np.array(begun)
    seconds = float((start + e2e).max() - start.min())
    many = tokens[tokens > 1]
    prompts = random.integers(1, 1000, n)
    samples = {"ttft": ttft, "e2e": e2e, "tpot": per_token[tokens > 1], "output_tokens": tokens.astype(float),
               "prompt_tokens": prompts.astype(float)}  # fmt: skip
    spreads = {name: spread(values, whole=whole) for name, values in samples.items()}
    gaps = int((many - 1).sum())
    spreads["itl"] = Spread({"mean": float(decoding.sum() / gaps)}, gaps if whole else None)
    for name, value in {
        "request_throughput": n / seconds, "output_throughput": tokens.sum() / seconds,
        "total_throughput": (tokens.sum() + prompts.sum()) / seconds, "requests": float(n), "duration": seconds,
        "streams": float(e2e.sum() / seconds),
    }.items():  # fmt: skip
        spreads[name] = Spread({"mean": float(value)}, 1)
    return Run(Figures(spreads, float(streams) if closed else None, job=True), samples)


@settings(deadline=None, max_examples=60)
@given(runs())
def test_a_run_that_could_have_been_breaks_no_law(run: Run) -> None:
    assert breaches(run.figures) == []
    assert breaches(replace(run.figures, job=False)) == []


@settings(deadline=None, max_examples=60)
@given(runs(), st.data())
def test_any_part_of_a_possible_run_breaks_no_law(run: Run, data: st.DataObject) -> None:
    kept = data.draw(st.sets(st.sampled_from(sorted(run.figures.spreads))))
    assert breaches(replace(run.figures, spreads={name: run.figures.spreads[name] for name in kept})) == []


@settings(deadline=None, max_examples=60)
@given(runs(), st.data())
def test_printed_with_few_digits_a_possible_run_breaks_no_law(run: Run, data: st.DataObject) -> None:
    decimals = data.draw(st.integers(0, 3))

    def printed(each: Spread) -> Spread:
        scale = 10.0**decimals
        rounded = {name: round(value * scale) / scale for name, value in each.statistics.items()}
        return Spread(rounded, each.n, half=0.5 / scale)

    # In ms, as tables have it: below a thousandth of one there would be zeros.
    in_ms = {name: each.scaled(1e3) if name in ("ttft", "tpot", "itl", "e2e") else each
             for name, each in run.figures.spreads.items()}  # fmt: skip
    rounded = {name: printed(each).scaled(1e-3 if name in ("ttft", "tpot", "itl", "e2e") else 1.0)
               for name, each in in_ms.items()}  # fmt: skip
    assume(all(each.statistics["mean"] > 0 for each in rounded.values()))
    assume(all(rounded[name].statistics[key] > 0 for name in ("ttft", "e2e") for key in rounded[name].statistics
               if key != "std"))  # fmt: skip
    assert breaches(replace(run.figures, spreads=rounded)) == []


QUANTITIES = (
    "e2e", "output_tokens", "prompt_tokens", "request_throughput", "output_throughput", "total_throughput", "duration",
    "requests", "streams", "itl",
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(runs(whole=True), st.sampled_from(QUANTITIES), st.sampled_from([1 / 1000, 1 / 2, 2.0, 1000.0]))
def test_given_one_quantity_that_is_off_by_a_factor_then_it_is_found(run: Run, quantity: str, factor: float) -> None:
    found = breaches(run.figures.scaled(quantity, factor))
    assert any(quantity in {name.partition(".")[0] for name in each.figures} for each in found)


@settings(deadline=None, max_examples=60)
@given(runs(whole=True), st.sampled_from([1 / 1000, 3.0, 1000.0]))
def test_given_a_ttft_that_is_off_by_a_factor_then_it_is_found(run: Run, factor: float) -> None:
    # It is at least a quarter of E2E in these runs; of less than a twentieth nothing could be told.
    assert any("ttft.mean" in each.figures for each in breaches(run.figures.scaled("ttft", factor)))


@settings(deadline=None, max_examples=60)
@given(runs(whole=True), st.sampled_from([1 / 1000, 1000.0]), st.data())
def test_given_one_statistic_in_another_unit_then_it_is_found(run: Run, factor: float, data: st.DataObject) -> None:
    quantity = data.draw(st.sampled_from(["ttft", "e2e", "tpot"]))
    statistic = data.draw(st.sampled_from(["mean", "p50", "p90", "p95", "p99", "min", "max"]))
    assume((statistic, factor) not in (("min", 1 / 1000), ("max", 1000.0)))  # an extreme may be that extreme
    found = breaches(run.figures.scaled(quantity, factor, statistic))
    assert any(f"{quantity}.{statistic}" in each.figures and each.law == "order" for each in found)


@settings(deadline=None, max_examples=60)
@given(runs(closed=True, whole=True), st.floats(1.5, 100))
def test_given_more_answers_than_streams_could_bring_then_it_is_found(run: Run, factor: float) -> None:
    figures = run.figures
    assume(figures.mean("streams") > 0.8 * figures.at_most)  # type: ignore[operator]
    for name in ("request_throughput", "output_throughput", "total_throughput", "requests"):
        figures = figures.scaled(name, factor)  # consistently: no law but Little's can tell
    without = {name: each for name, each in figures.spreads.items() if name != "streams"}
    assert {each.law for each in breaches(replace(figures, spreads=without))} == {"concurrency"}


@settings(deadline=None, max_examples=60)
@given(runs(), st.data())
def test_given_no_number_or_a_negative_one_then_it_is_named(run: Run, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(run.figures.spreads)))
    statistic = data.draw(st.sampled_from(sorted(run.figures.spreads[name].statistics)))
    wrong = data.draw(st.sampled_from([math.nan, math.inf, -math.inf, -1.0]))
    spreads = {**run.figures.spreads, name: Spread({**run.figures.spreads[name].statistics, statistic: wrong})}
    found = breaches(replace(run.figures, spreads=spreads))
    assert ("sign", (f"{name}.{statistic}",)) in [(each.law, each.figures) for each in found]


def figures(at_most: float | None = None, **means: float) -> Figures:
    return Figures({name: Spread({"mean": value}) for name, value in means.items()}, at_most)


def test_given_milliseconds_taken_for_seconds_then_the_unit_is_suspected() -> None:
    told = figures(ttft=120.0, itl=0.01, e2e=1.39, output_tokens=128.0)
    assert [each.hint for each in breaches(told)] == ["A thousandth of ttft.mean would do: is it in milliseconds?"]


def test_given_a_stream_faster_than_memory_then_it_is_named_with_the_source_and_the_limit() -> None:
    (breach,) = breaches(figures(tpot=0.003), H100)  # 16 GB at 3.35 TB/s: 4.776 ms
    assert (breach.law, breach.figures) == ("memory", ("tpot.mean",))
    assert "4.776 ms" in breach.what
    assert "H100 datasheet" in breach.what
    assert breach.factor == pytest.approx(16e9 / 3.35e12 / 0.003)
    assert breaches(figures(tpot=0.0048), H100) == []
    assert breaches(figures(tpot=0.003), replace(H100, tokens_per_step=2.0)) == []
    assert breaches(figures(tpot=0.0004), replace(H100, weights_bytes=0.2e9)) == []  # may stay in a cache


def test_given_more_tokens_than_arithmetic_allows_then_it_is_named() -> None:
    fastest = 990e12 / 16e9
    for told in (
        {"output_throughput": 1.1 * fastest}, {"output_throughput": 1.0, "total_throughput": 1.1 * fastest},
        {"prompt_tokens": 10_000.0, "ttft": 0.1},
    ):  # fmt: skip
        assert [each.law for each in breaches(figures(**told), H100)] == ["arithmetic"], told
        halved = {name: value / (1.2 if name != "ttft" else 1) for name, value in told.items()}
        assert breaches(figures(**halved), replace(H100, cached=0.5)) == []


def test_given_rate_and_gap_alone_then_the_streams_they_take_are_held_against_those_there_were() -> None:
    assert breaches(figures(at_most=8, output_throughput=800.0, itl=0.01)) == []
    assert [each.law for each in breaches(figures(at_most=8, output_throughput=3200.0, itl=0.01))] == ["concurrency"]


@pytest.mark.parametrize(
    ("told", "chip"),
    [("NVIDIA H100 80GB HBM3", "H100 SXM"), ("NVIDIA H100 PCIe", "H100 PCIe"), ("NVIDIA H100 NVL", "H100 NVL"),
     ("NVIDIA A100-SXM4-40GB", "A100 40GB"), ("NVIDIA A100-SXM4-80GB", "A100 80GB"), ("h200", "H200"),
     ("NVIDIA L4", "L4"), ("NVIDIA L40S", "L40S"), ("GH200 480GB", "GH200"), ("Tesla T4", "T4"),
     ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("AMD Instinct MI300X", "MI300X"), ("NVIDIA B200", "B200")],
)  # fmt: skip
def test_given_a_drivers_name_then_its_chip_is_known(told: str, chip: str) -> None:
    assert (found := chip_of(told)) is not None
    assert found.name == chip


def test_every_chip_of_the_table_is_found_by_its_own_name() -> None:
    assert [chip_of(chip.name) for chip in CHIPS] == list(CHIPS)
    assert chip_of("an abacus") is None


def test_given_a_quantity_with_a_unit_then_it_is_read() -> None:
    assert parse_quantity("8B", "params", ()) == 8e9
    assert parse_quantity("3.35TB/s", "bandwidth", ("B/s",)) == 3.35e12
    assert parse_quantity("989TFLOP/s", "peak", ("FLOP/s",)) == 9.89e14
    assert parse_quantity("16GB", "weights-bytes", ("B",)) == 16e9
    assert parse_quantity("135000000", "params", ()) == 135e6
