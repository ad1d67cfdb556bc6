"""A command line that is read without Typer means what it means to Typer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.cli.app import run
from penstock.cli.flags import SERVED_ENGINE, SERVER
from penstock.cli.plain import Serve, read_serve

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS = [name for table in (SERVED_ENGINE, SERVER) for row in table.rows for name in row.names]
WORDS = st.sampled_from(
    ["m.gguf", "hf:a/b", "1", "0.5", "1e3", "-1", "auto", "float32", "native", "info", "x", "", "--"]
)
ARGUMENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([*OPTIONS, "--offline", "--help", "-h", "--prot"]), WORDS),
        st.tuples(st.builds("{}={}".format, st.sampled_from(OPTIONS), WORDS)),
        st.tuples(st.sampled_from(OPTIONS)),
        st.tuples(WORDS),
    ),
    max_size=4,
).map(lambda groups: ["serve", *(word for group in groups for word in group)])


def as_typer_reads(arguments: Sequence[str]) -> Serve:
    seen: list[Serve] = []

    def start_server(model: str | None, *, offline: bool, engine: Any, server: Any) -> None:
        seen.append(Serve(model, offline, engine, server))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.cli.start_server.start_server", start_server)
        run(arguments)
    return seen[0]


@given(ARGUMENTS)
@settings(deadline=None, max_examples=150)
def test_whatever_is_read_without_typer_is_what_typer_reads(arguments: list[str]) -> None:
    plain = read_serve(arguments)
    if plain is not None:
        assert plain == as_typer_reads(arguments)


@pytest.mark.parametrize(
    "arguments",
    [["serve"], ["serve", "m.gguf", "--port", "9000"], ["serve", "--alias=a", "--alias", "b", "--no-public-probes"]],
    ids=" ".join,
)
def test_what_people_write_most_is_read_without_typer(arguments: list[str]) -> None:
    assert read_serve(arguments) == as_typer_reads(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["chat"], ["--version"], ["serve", "--help"], ["serve", "a", "b"], ["serve", "--prot", "1"],
        ["serve", "--port", "x"], ["serve", "--port"], ["serve", "--port", "-1"], ["serve", "--device", "cdua"],
        ["serve", "--access-log=1"], ["serve", "--drain-timeout", "1e3"], ["serve", "--", "m"], ["serve", ""],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_isnt_plainly_right_is_left_to_typer(arguments: list[str]) -> None:
    assert read_serve(arguments) is None


def test_the_shells_completion_is_left_to_typer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PENSTOCK_COMPLETE", "complete_bash")
    assert read_serve(["serve"]) is None
