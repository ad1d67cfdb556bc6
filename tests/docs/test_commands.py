"""Every command and program in the README and in docs/ runs, in the order it stands on its page."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from penstock.lab.exits import INVALID

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
READY_SECONDS = 60

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    return [Block(*found.groups()) for found in BLOCK.finditer(page.read_text())]


class Terminal:
    """What a reader has before them: a folder, the command on the path, at most one server running."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe, socket.socket() as other:
            probe.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            self.port, self.grpc_port = probe.getsockname()[1], other.getsockname()[1]
        self.folder = folder
        self.env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.server: subprocess.Popen[str] | None = None

    def run(self, block: Block) -> None:
        text = block.text.replace("8000", str(self.port)).replace("8001", str(self.grpc_port))
        if block.language == "python":
            self._check([sys.executable, "-c", text])
        elif text.startswith("make run"):  # the lines of a `make` block are what this suite itself runs under
            self._serve("penstock serve smollm2 --port " + str(self.port))
        elif text.startswith("penstock serve"):
            self._serve(self._check(["bash", "-c", f"echo {text}"]).strip())
        elif not text.startswith("make "):
            # A measurement on a machine that is busy with other tests may be invalid, and says so by its exit code.
            allowed = (0, INVALID) if "penstock bench " in text else (0,)
            self._check(["bash", "-euo", "pipefail", "-c", text], allowed)

    def _check(self, command: list[str], allowed: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode in allowed, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _serve(self, command: str) -> None:
        self.close()
        self.server = subprocess.Popen(shlex.split(command), cwd=self.folder, env=self.env, text=True)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            assert self.server.poll() is None, f"{command} ended with {self.server.returncode}"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=1):
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"{command} was not ready within {READY_SECONDS} s")

    def close(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            assert self.server.wait(timeout=40) == 0
            self.server = None


@pytest.fixture
def terminal(tmp_path: Path, smollm2_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_the_page_runs(page: Path, terminal: Terminal) -> None:
    for block in blocks_of(page):
        terminal.run(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing
