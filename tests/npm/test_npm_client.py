"""Runs openai_client.test.mjs: Node's own runner, the `openai` package as npm has it, servers from here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from penstock.core.errors import EngineDeadError, OverloadedError, PenstockError
from support.fake_engine import FakeEngine, write_model
from support.live_server import serve, serve_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

HERE = Path(__file__).parent
FAULTS = {
    "429": OverloadedError("The queue is full. Try again in a moment.", code="queue_full"),
    "503": EngineDeadError("The engine core died and is being started again.", code="engine_restarting"),
}


class FalteringEngine(FakeEngine):
    """Refuses as a real engine does that is full or restarting, once for each fault in its list."""

    faults: deque[PenstockError]

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.faults = deque()

    def generate(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        if self.faults:
            raise self.faults.popleft()
        return super().generate(*arguments, **options)


@pytest.fixture(scope="session")
def node() -> str:
    """Node, with the packages of the lock file beside this file."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.skip("service: Node (apt-get install nodejs npm)")
    if not _is_installed():
        done = subprocess.run([npm, "ci"], cwd=HERE, capture_output=True, text=True, timeout=180, check=False)
        if done.returncode:
            shutil.rmtree(HERE / "node_modules", ignore_errors=True)
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            pytest.skip(f"service: npm registry ({' '.join(last)[:200]})")
    return program


def _is_installed() -> bool:
    """Whether node_modules holds what the lock file names; npm keeps a copy of the lock it installed from."""
    wanted, found = HERE / "package-lock.json", HERE / "node_modules" / ".package-lock.json"
    if not found.exists():
        return False
    versions = [re.findall(r'"integrity": "([^"]+)"', path.read_text()) for path in (wanted, found)]
    return versions[0] == versions[1]


def test_the_npm_client_drives_the_server_unmodified(node: str, tmp_path: Path) -> None:
    model = write_model(tmp_path)
    held, faltering = FakeEngine(model, held=True), FalteringEngine(model)
    with ExitStack() as servers:
        urls = {
            "OPEN_URL": servers.enter_context(serve_engine(FakeEngine(model), aliases=("gpt-3.5-turbo",))).url,
            "KEYED_URL": servers.enter_context(serve_engine(FakeEngine(model), api_keys=("right",))).url,
            "FALTERING_URL": servers.enter_context(serve_engine(faltering)).url,
        }
        holding = servers.enter_context(serve_engine(held))
        control = _control(held, faltering, lambda tokens: holding.call(held.release, tokens))
        urls["HELD_URL"] = holding.url
        urls["CONTROL_URL"] = servers.enter_context(serve(control)).url
        done = subprocess.run(
            [node, "--test", "--test-reporter=tap", "openai_client.test.mjs"],
            cwd=HERE,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **urls},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    counts = {name: int(number) for name, number in re.findall(r"^# (\w+) (\d+)$", done.stdout, re.MULTILINE)}
    assert done.returncode == 0, done.stdout + done.stderr
    written = len(re.findall(r"^ *test\(", (HERE / "openai_client.test.mjs").read_text(), re.MULTILINE))
    assert counts["pass"] >= written, done.stdout
    assert counts["fail"] == counts["skipped"] == counts["todo"] == counts["cancelled"] == 0, done.stdout


def _control(held: FakeEngine, faltering: FalteringEngine, release: Any) -> Starlette:
    """POST /ACTION/VALUE: what the client's tests must know of the engines, and what they may change."""

    def falter(status: str) -> int:
        faltering.faults.append(FAULTS[status])
        return len(faltering.faults)

    def fail_after_first_token(on: str) -> bool:
        faltering.failure = PenstockError("Something has gone wrong with this one.") if on else None
        return bool(on)

    actions = {
        "aborted": lambda _: len(held.aborted),
        "running": lambda _: held.running,
        "release": lambda value: release(int(value)),
        "falter": falter,
        "faults-left": lambda _: len(faltering.faults),
        "fail-after-first-token": fail_after_first_token,
    }

    def act(request: Request) -> JSONResponse:
        return JSONResponse({"value": actions[request.path_params["action"]](request.path_params["value"])})

    return Starlette(routes=[Route("/{action}/{value:path}", act, methods=["POST"])])
