"""The command and the packages of a record."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from penstock.core.provenance import command_of, package_versions


def test_versions_are_of_penstock_what_it_requires_and_what_was_asked_for() -> None:
    versions = package_versions("pytest", "no-such-distribution")
    assert versions["msgspec"] == version("msgspec")
    assert versions["pytest"] == version("pytest")
    assert "penstock" in versions
    assert "no-such-distribution" not in versions


@pytest.mark.parametrize(
    "given",
    [
        ["--api-key", "k-123"],
        ["--api-key=k-123"],
        ["--header", "Authorization: k-123"],
        ["--out", "/k-123"],
        ["--out=/k-123"],
        ["--out"],
    ],
)
def test_a_command_line_keeps_neither_secrets_nor_places(given: list[str]) -> None:
    rest = ["penstock", "bench", "run", "--rate", "5"]
    assert command_of([*rest[:3], *given, *rest[3:]] if len(given) > 1 or "=" in given[0] else [*rest, *given]) == (
        *rest,
    )
