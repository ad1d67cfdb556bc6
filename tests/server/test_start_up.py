"""What the two processes of a server leave alone until they are ready, by name: times depend on the machine."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from penstock.engine import wire
from penstock.engine.config import EngineConfig
from penstock.server.routes import GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Each takes a good part of a second, or as long as several others that are needed.
HEAVY = {
    "torch", "numpy", "pydantic", "click", "typer", "rich", "httpx", "huggingface_hub", "psutil", "importlib.metadata",
    "tomllib", "encodings.idna", "grpc", "google.protobuf", "penstock.models.dequantize", "penstock.models.safetensors",
    "sqlite3", "websockets", "llguidance", "onnxruntime",
    "penstock.server.kserve.protocol", "penstock.server.kserve.http", "penstock.engine.encoders",
    "penstock.server.manifest.table", "penstock.server.manifest.references", "penstock.server.openapi",
    "penstock.server.endpoints", "penstock.server.websocket", "penstock.server.served_encoder",
    "penstock.server.scoring", "penstock.server.adapters", "penstock.server.tokens",
    "penstock.server.responses_api", "penstock.server.messages_api", "penstock.server.batches",
    "penstock.engine.structured.schemas", "penstock.engine.structured.lark",
    "penstock.engine.structured.thinking_budget", "penstock.models.encoder_spec",
    "penstock.models.answer_grammar", "penstock.models.tool_formats",
    *(group.module for group in GROUPS),
}  # fmt: skip
# A process that computes has no part in HTTP, and doesn't encode text.
FOREIGN_TO_THE_CORE = {
    "asyncio", "ssl", "http", "email", "uvicorn", "starlette", "jinja2", "prometheus_client", "tokenizers",
    "penstock.server",
}  # fmt: skip
TIMED = [sys.executable, "-X", "importtime"]


def uncovered() -> dict[str, str]:
    """The environment of a child that coverage doesn't follow: following it imports what we look for."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


def imported(lines: Iterable[str]) -> set[str]:
    """Modules that `-X importtime` tells of in `lines`."""
    return {found[1] for line in lines if (found := re.match(r"import time: .*\|\s*([\w.]+)$", line.rstrip()))}


def test_a_server_is_ready_before_it_imports_anything_heavy(smollm2_path: Path, tmp_path: Path) -> None:
    command = [*TIMED, "-m", "penstock.cli", "serve", str(smollm2_path), "--port", "0", "--kv-memory", "64MiB"]
    command += ["--data-dir", str(tmp_path)]  # with nothing in it to be taken up
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=uncovered(), text=True) as process:
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.strip().startswith("ready"):
                break
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    found = imported(seen)
    assert {"penstock.server.app", "tokenizers", "jinja2"} <= found
    assert not HEAVY & found


def test_a_core_is_ready_before_it_imports_anything_heavy(smollm2_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [*TIMED, "-m", "penstock.engine.process", str(theirs.fileno())]
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, pass_fds=[theirs.fileno()], env=uncovered(), text=True
        ) as process:
            theirs.close()
            config = EngineConfig(model_path=str(smollm2_path), kv_memory=64 << 20)
            ours.sendall(wire.frame(wire.Start(config)))
            answer = wire.receive(ours)
            ours.close()
            _, said = process.communicate()
    assert isinstance(wire.from_core_decoder.decode(answer or b""), wire.Ready)
    found = imported(said.splitlines())
    assert "penstock.engine.runners.native" in found
    assert not (HEAVY | FOREIGN_TO_THE_CORE) & found


def test_uvicorn_is_whole_again_for_whoever_asks_for_it() -> None:
    program = (
        "import sys; import penstock.server.run; assert 'click' not in sys.modules; "
        "import uvicorn; assert callable(uvicorn.run) and uvicorn.Server.__name__ == 'Server'"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=uncovered())
