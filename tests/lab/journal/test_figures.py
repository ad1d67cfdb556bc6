"""Which numbers of a page are figures, and which Records they are found in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.record import Metric
from penstock.lab.journal.evidence import Exhibit
from penstock.lab.journal.figures import figures_in
from penstock.lab.journal.layout import Journal, JournalSettings
from penstock.lab.journal.truth import Truth
from support.journals import a_record

JOURNAL = Journal(Path("/j"), JournalSettings())


def texts(page: str) -> list[str]:
    return [figure.text for figure in figures_in(page)]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("TTFT is 12.3 ms.", ["12.3 ms"]),
        ("It took 12–14 ms.", ["12 ms", "14 ms"]),
        ("It took 12-14 ms.", ["12 ms", "14 ms"]),
        ("3.1, 3.2 and 3.4 s", ["3.1 s", "3.2 s", "3.4 s"]),
        ("1,204 tokens/s or 1\u202f204 tok/s", ["1,204 tokens/s", "1\u202f204 tok/s"]),
        ("12 % less, -3 % and 2.3x", ["12 %", "-3 %", "2.3 x"]),
        ("a ratio of 1.42", ["1.42"]),
        ("1.5e-3 nats, 41.2 GB/s, 0.7 cores", ["1.5e-3 nats", "41.2 GB/s", "0.7 cores"]),
        ("**12.3 ms** and _4.5 s_.", ["12.3 ms", "4.5 s"]),
        ("(12.3 ms)", ["12.3 ms"]),
    ],
)
def test_a_number_with_a_unit_or_a_point_is_a_figure(page: str, expected: list[str]) -> None:
    assert texts(page) == expected


@pytest.mark.parametrize(
    "page",
    [
        "In 2026, on 2026-11-22 at 10:30.5, 8 streams made 300 requests of 128 tokens on 2 cores.",
        "penstock 0.1.0, v1.2.3, Python 3.11, CUDA 12.4, release 2.5",
        "SmolLM2-135M, Q4_1, 1.7B, int8, p99, 4th, 0x1f, utf-8.5x",
        "## 12.3 ms",
        "`12.3 ms` and ``4 `5 ms` s``",
        "```\n12.3 ms\n```",
        "~~~text\n12.3 ms\n```\n4 s\n~~~",
        "[a](b-12.3-ms.md) <https://x.y/12.3> https://x.y/3.5ms",
        "<!-- 12.3 ms -->\n<!--\n4.5 ms\n-->",
        "95 % confidence, 95 % intervals",
        "5,000 tokens/s are wanted. <!-- not measured -->",
        "<!-- not measured: a guess -->\n\n12.3 ms\nand 4.5 ms\n",
        "## Prediction\n\n12.3 ms\n\n### Of the rest\n\n4.5 ms",
        "## Hypothesis: x\n12.3 ms\n## Method\n60 s",
        '<!-- journal:figure records="a" metric="b" -->12.3 ms<!-- /journal -->',
    ],
)
def test_what_measures_nothing_is_none(page: str) -> None:
    assert texts(page) == []


def test_a_mark_reaches_no_further_than_its_line_or_its_block() -> None:
    assert texts("1.5 ms <!-- not measured -->\n2.5 ms") == ["2.5 ms"]
    assert texts("<!-- not measured -->\n1.5 ms\n\n2.5 ms") == ["2.5 ms"]
    assert texts("## Prediction\n1.5 ms\n## Result\n2.5 ms") == ["2.5 ms"]


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    page = "# T\n\n<!-- a\nb -->\n```\nx\n```\n1.5 ms\n\n| a, ms |\n|---|\n| 3 |\n"
    assert [(figure.line, figure.text) for figure in figures_in(page)] == [(8, "1.5 ms"), (12, "3 ms")]


def test_a_cell_has_its_own_unit_or_its_columns_or_its_rows() -> None:
    head = "| engine | output, tokens/s | TTFT (ms) | n |\n|---|---|---|---|\n"
    page = f"{head}| a 0.1.0 | 282 (259.5 to 305) [70%] | 12 | 3 |"
    assert texts(page) == ["282 tokens/s", "259.5 tokens/s", "305 tokens/s", "70 %", "12 ms"]
    assert texts("| metric | median | unit |\n|---|---|---|\n| x | 3 | ms |") == ["3 ms"]


def found(page: str, **changes: object) -> bool:
    """Whether every figure of the page, of which there is at least one, is in the record."""
    truth = Truth([Exhibit(a_record(**changes), Path("/j/r.json"), "r")], JOURNAL)
    figures = figures_in(page)
    assert figures
    return all(truth.find(figure) for figure in figures)


@pytest.mark.parametrize(
    "page",
    [
        "12.34 ms",  # the median, exactly
        "12.3 ms",  # rounded
        "12 ms",
        "0.0123 s",
        "12,340 µs",
        "about 10 ms",
        "over 100 tokens/s",
        "under 13 ms",
        "12 % less",  # of a ratio of 0.88
        "-12 %",
        "0.88 times",
        "88 %",
        "17.2 GB",  # the machine's memory, in powers of ten
        "± 2 tokens/s",
    ],
)
def test_a_figure_that_a_value_rounds_to_is_found(page: str) -> None:
    assert found(page)


@pytest.mark.parametrize(
    "page",
    [
        "12.6 ms",  # no rounding leads there
        "12.30 ms",  # claims a digit that isn't there
        "12.34 s",  # the digits of another unit
        "12.34 tokens/s",
        "over 90,000 tokens/s",
        "over 10 tokens/s",  # true, and says nothing
        "under 11 ms",
        "13 % less",
        "about 30 ms",
        "± 50 tokens/s",
    ],
)
def test_a_figure_that_no_value_rounds_to_is_not(page: str) -> None:
    assert not found(page)


@given(st.floats(1e-6, 1e6), st.integers(1, 6))
def test_any_value_is_found_by_any_honest_rounding_and_not_two_digits_off(value: float, digits: int) -> None:
    metrics = (Metric.from_samples("ttft", "s", [value]),)
    text = f"{value:.{digits - 1}e}"
    assert found(f"It was {text} s.", metrics=metrics)
    mantissa, _, exponent = text.partition("e")
    last = 10.0 ** -(digits - 1)
    off = f"{float(mantissa) + 2 * last:.{digits - 1}f}e{exponent}"
    assert not found(f"It was {off} s.", metrics=metrics)


@given(st.text(st.sampled_from("0123456789.,-–+ emsx%|`<!->#\n*_()/±~"), max_size=120))
def test_no_page_breaks_the_reader_and_every_figure_is_on_a_line_that_is_there(page: str) -> None:
    lines = page.splitlines()
    for figure in figures_in(page):
        assert 1 <= figure.line <= len(lines)
        assert figure.step > 0
