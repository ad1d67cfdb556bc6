"""A whole server as a process: its start, its address, its end by signals, and a real engine behind it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import psutil
import pytest

from penstock.core.errors import ConfigError, ModelFileError
from penstock.engine.client import EngineClient
from penstock.engine.config import EngineConfig
from penstock.server.declared import DeclaredModel
from penstock.server.listen import Listener
from penstock.server.run import model_lines, serve, telling_of_loading
from penstock.server.settings import ServerSettings
from support.asking import CHAT, COMPLETIONS, error_of, events
from support.eventually import eventually
from support.fake_engine import INFO, SPEC
from support.listening import client_of
from support.tiny_chat import write_tiny_chat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = """
import asyncio, json, sys
from penstock.engine.config import EngineConfig
from penstock.server.declared import DeclaredModel
from penstock.server.run import serve
from penstock.server.settings import ServerSettings
engine, server = json.loads(sys.argv[1])
settings = ServerSettings(**server)
asyncio.run(serve([DeclaredModel.of(EngineConfig(**engine), settings)], settings))
"""
ENDLESS = {"prompt": "a", "ignore_eos": True, "max_tokens": 4000, "temperature": 0, "stream": True}
PATIENCE = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"), max_position_embeddings=4096)


def engine_options(model: Path) -> dict[str, Any]:
    return {"model_path": str(model), "dtype": "float32", "kv_memory": 16 << 20, "threads": 1}


class Running:
    """A server process and what it has said so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.ready = threading.Event()
        self._reader = threading.Thread(target=self._read, name="server-output")
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if line.strip().startswith("ready"):
                self.ready.set()
        self.ready.set()

    @property
    def url(self) -> str:
        assert self.ready.wait(PATIENCE), self.lines
        found = [line.split()[1] for line in self.lines if line.strip().startswith("address")]
        assert found, "\n".join(self.lines)
        return found[0]

    def wait(self, timeout: float = PATIENCE) -> int:
        status = self.process.wait(timeout)
        self._reader.join(PATIENCE)
        return status


@contextmanager
def server_process(engine: dict[str, Any], **server: Any) -> Iterator[Running]:
    """A server on a free port unless told otherwise; nothing of it is left afterwards."""
    arguments = json.dumps([engine, {"port": 0, **server}])
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, arguments], stderr=subprocess.PIPE, text=True)
    with ending(process) as running:
        yield running


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[Running]:
    """A server process that was just started; nothing of it is left afterwards."""
    running = Running(process)
    family = psutil.Process(process.pid)
    try:
        yield running
    finally:
        left = [*family.children(recursive=True), family] if family.is_running() and process.poll() is None else []
        for each in left:
            each.kill()
        running.wait()
        assert process.stderr is not None
        process.stderr.close()


def children_of(running: Running) -> list[psutil.Process]:
    return psutil.Process(running.process.pid).children(recursive=True)


def test_loading_that_takes_long_is_told_of_and_a_quick_one_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    async def load(after: float) -> str:
        with telling_of_loading(["a", "b"], after):
            await asyncio.sleep(0)  # one turn of the loop, in which a call that is due is made
            await asyncio.sleep(0)
        return capsys.readouterr().err

    assert asyncio.run(load(0.0)) == "Loading a, b ...\n"
    assert asyncio.run(load(3600.0)) == ""


def test_settings_that_can_never_work_are_refused_before_anything_is_loaded(model: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.touch()
    for settings, said in (
        ({"port": 8001, "grpc_port": 8001}, "--port and --grpc-port are both 8001."),
        ({"data_dir": str(blocked / "data")}, f"Nothing can be written in {blocked}. Choose another --data-dir."),
    ):
        with pytest.raises(ConfigError) as caught:
            asyncio.run(serve([], ServerSettings.load(**settings)))
        assert caught.value.message.startswith(said)


def test_it_starts_says_what_it_found_answers_and_leaves_nothing_behind(model: Path) -> None:
    with server_process(engine_options(model), aliases="gpt-4o") as running:
        answer = httpx.post(running.url + CHAT, json={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5})
        assert answer.json()["usage"]["completion_tokens"] in range(1, 6)
        children = children_of(running)
        assert children
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 0
        assert not any(child.is_running() for child in children)
    said = "\n".join(running.lines)
    for expected in (
        "float32",
        "verified",
        " tokens, ",
        " requests of 4096",
        running.url,
        "ready      after",
        "Stopped.",
    ):
        assert expected in said, said
    assert "HTTP/1.1" not in said, "the access log is off unless asked for"
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_streams_end_and_refuses_new_work(model: Path, number: signal.Signals) -> None:
    with server_process(engine_options(model)) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        body = {**ENDLESS, "max_tokens": 3800}  # enough to outlast the questions below
        with client.stream("POST", COMPLETIONS, json=body) as response:
            parts = response.iter_text()
            text = next(parts)
            running.process.send_signal(number)
            while (ready := client.get("/ready")).status_code == 200:
                pass
            assert error_of(ready)["code"] == "engine_draining"
            refused = client.post(COMPLETIONS, json={"prompt": "a"})
            assert (refused.status_code, error_of(refused)["code"]) == (503, "engine_draining")
            text += "".join(parts)
        *_, last, done = events(text)
        assert (last["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
        assert running.wait() == 0


def test_a_hang_up_during_the_start_or_the_drain_ends_nothing(model: Path) -> None:
    with server_process(engine_options(model)) as running, httpx.Client(timeout=60) as client:
        while not children_of(running):
            assert running.process.poll() is None, running.lines
        running.process.send_signal(signal.SIGHUP)
        with client.stream("POST", running.url + COMPLETIONS, json={**ENDLESS, "max_tokens": 3800}) as response:
            parts = response.iter_text()
            text = next(parts)
            running.process.send_signal(signal.SIGTERM)
            while client.get(running.url + "/ready").status_code == 200:
                pass
            running.process.send_signal(signal.SIGHUP)
            text += "".join(parts)
        assert events(text)[-1] == "[DONE]"
        assert running.wait() == 0


def test_a_second_signal_stops_at_once(model: Path) -> None:
    with server_process(engine_options(model), drain_timeout=600) as running:
        with httpx.stream("POST", running.url + COMPLETIONS, json=ENDLESS, timeout=60) as response:
            parts = response.iter_text()
            text = next(parts)
            running.process.send_signal(signal.SIGTERM)
            while httpx.get(running.url + "/ready").status_code == 200:
                pass
            running.process.send_signal(signal.SIGTERM)
            text += "".join(parts)
        assert set(events(text)[-1]) == {"error"}
        assert running.wait(15) == 0


def test_what_outlasts_the_drain_timeout_is_cut_with_an_error(model: Path) -> None:
    with server_process(engine_options(model), drain_timeout=0.2) as running:
        with httpx.stream("POST", running.url + COMPLETIONS, json=ENDLESS, timeout=60) as response:
            parts = response.iter_text()
            text = next(parts)
            running.process.send_signal(signal.SIGTERM)
            text += "".join(parts)
        assert set(events(text)[-1]) == {"error"}
        assert running.wait(15) == 0
    assert "cut off" in "\n".join(running.lines)


def test_a_signal_during_the_start_ends_it(model: Path) -> None:
    with server_process(engine_options(model)) as running:
        while not (children := children_of(running)):
            assert running.process.poll() is None, running.lines
        running.process.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
        assert not any(child.is_running() for child in children)


def test_a_core_that_is_killed_comes_back_and_the_server_says_so_meanwhile(model: Path) -> None:
    async def run() -> None:
        engine = EngineClient(EngineConfig(**engine_options(model)))
        await engine.start()
        async with client_of(engine) as client:
            async with client.stream("POST", COMPLETIONS, json=ENDLESS) as response:
                parts = response.aiter_text()
                text = await anext(parts)
                assert engine.core_pid is not None
                os.kill(engine.core_pid, signal.SIGKILL)
                text += "".join([part async for part in parts])
            assert events(text)[-1]["error"]["code"] == "engine_died"
            assert (await client.get("/health")).status_code == 200
            await eventually(lambda: engine.state == "ready", "the core is back", within=PATIENCE)
            health = (await client.get("/health")).json()
            assert (health["status"], health["engine"], health["restarts"]) == ("ok", "ready", 1)
            assert list(health["models"].values()) == ["ready"]
            again = await client.post(COMPLETIONS, json={"prompt": "a", "max_tokens": 2, "ignore_eos": True})
            assert again.json()["usage"]["completion_tokens"] == 2
            metrics = (await client.get("/metrics")).text
            found = re.search(r"^penstock_engine_restarts_total{.*} (\S+)", metrics, re.MULTILINE)
            assert found is not None
            assert float(found[1]) == 1

    asyncio.run(run())


def test_a_real_engine_gives_the_same_text_streamed_and_whole_and_frees_what_is_dropped(model: Path) -> None:
    async def run() -> None:
        engine = EngineClient(EngineConfig(**engine_options(model)))
        await engine.start()
        async with client_of(engine) as client:
            body = {"prompt": "The quick brown fox " * 12, "temperature": 0, "max_tokens": 40, "ignore_eos": True}
            whole = (await client.post(COMPLETIONS, json={**body, "logprobs": 2})).json()
            streamed = events((await client.post(COMPLETIONS, json={**body, "stream": True})).text)[:-1]
            text = whole["choices"][0]["text"]
            assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == text
            assert len(whole["choices"][0]["logprobs"]["tokens"]) == 40
            again = (await client.post(COMPLETIONS, json=body)).json()
            assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
            scored = (
                await client.post(COMPLETIONS, json={**body, "max_tokens": 0, "echo": True, "logprobs": 1})
            ).json()
            logprobs = scored["choices"][0]["logprobs"]["token_logprobs"]
            assert len(logprobs) == scored["usage"]["prompt_tokens"]
            assert logprobs[0] is None
            assert all(value < 0 for value in logprobs[1:])
            async with client.stream("POST", COMPLETIONS, json={**ENDLESS, "n": 3}) as response:
                await anext(response.aiter_bytes())
                assert engine.stats.kv_blocks_used > 0
            await eventually(lambda: engine.stats.kv_blocks_used == 0, "the blocks are free")
            steps = engine.stats.steps
            await client.post(COMPLETIONS, json={"prompt": "a", "max_tokens": 1})
            assert engine.stats.steps <= steps + 3, "what was dropped is not computed any further"

    asyncio.run(run())


# --- several models ---


def test_a_hangup_swaps_models_under_live_traffic_without_a_lost_request(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "penstock.toml"

    def write(extra: str, *names: str) -> None:
        tables = [f'[[models]]\nname = "{name}"\nmodel = "{model}"\nthreads = 1\n{extra}\n' for name in names]
        file.write_text('[engine]\ndtype = "float32"\nkv_memory = "16MiB"\n[server]\nport = 0\n' + "".join(tables))

    write("", "a", "b")
    command = [sys.executable, "-m", "penstock.cli", "serve"]
    environment = {**os.environ, "PENSTOCK_CONFIG": str(file), "PENSTOCK_RUNNER_CACHE": "off"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    with ending(process) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["a", "b"]
        before = {child.pid for child in children_of(running)}
        assert len(before) == 2
        with client.stream("POST", COMPLETIONS, json={**ENDLESS, "model": "b", "max_tokens": 3800}) as response:
            parts = response.iter_text()
            text = next(parts)
            write("max_num_seqs = 7", "b", "c")
            running.process.send_signal(signal.SIGHUP)
            while not any(line.startswith("Serves") for line in running.lines):
                answer = client.post(COMPLETIONS, json={"model": "b", "prompt": "a", "max_tokens": 1})
                assert answer.status_code == 200
            assert client.post(COMPLETIONS, json={"model": "c", "prompt": "a"}).status_code == 200
            assert client.post(COMPLETIONS, json={"model": "a", "prompt": "a"}).status_code == 404
            text += "".join(parts)
        *_, last, done = events(text)
        assert (last["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
        while {child.pid for child in children_of(running)} & before:
            assert running.process.poll() is None
        file.write_text("[[models]]")
        running.process.send_signal(signal.SIGHUP)
        while not any("the models stay as they are" in line for line in running.lines):
            assert client.get("/ready").status_code == 200


# --- the address ---


def declared(path: Path) -> DeclaredModel:
    return DeclaredModel(config=EngineConfig(model_path=str(path)))


def test_a_port_in_use_is_known_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} of 127.0.0.1 is in use"):
            asyncio.run(serve([declared(tmp_path / "no model")], ServerSettings(port=port)))


def test_an_exposed_address_without_a_key_is_refused_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="API key is needed"):
        asyncio.run(serve([declared(tmp_path / "no model")], ServerSettings(host="0.0.0.0", port=0)))


def test_a_model_that_cannot_be_loaded_gives_the_address_back(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(12))
    path = tmp_path / "socket"
    with pytest.raises(ModelFileError):
        asyncio.run(serve([declared(broken)], ServerSettings(uds=path)))
    assert not path.exists()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_a_host_that_is_not_here_is_named(host: str) -> None:
    with pytest.raises(ConfigError, match=host):
        Listener(ServerSettings(host=host, port=0))


def test_a_free_port_is_shown_and_ipv6_gets_its_brackets() -> None:
    listener = Listener(ServerSettings(port=0))
    assert listener.url == f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    listener.close()
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        listener = Listener(ServerSettings(host="::1", port=0))
    except ConfigError:
        pytest.skip("no IPv6 here")
    assert listener.url.startswith("http://[::1]:")
    listener.close()


def test_every_address_of_a_name_is_listened_on_under_one_port() -> None:
    listener = Listener(ServerSettings(host="localhost", port=0))
    ports = {each.getsockname()[1] for each in listener.sockets}
    assert len(ports) == 1
    listener.close()


def test_a_unix_socket_is_for_this_user_alone_serves_and_is_gone_afterwards(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "penstock.sock"
    with server_process(engine_options(model), uds=str(path)) as running:
        assert running.url == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://any.name") as client:
            assert client.get("/ready").status_code == 200
            assert client.post(COMPLETIONS, json={"prompt": "a", "max_tokens": 1}).status_code == 200
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 0
    assert not path.exists()


def test_a_socket_left_over_is_taken_and_one_in_use_or_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    settings = ServerSettings(uds=path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listener = Listener(settings)
    listener.sockets[0].listen()
    with pytest.raises(ConfigError, match="Another server listens"):
        Listener(settings)
    listener.close()
    path.write_text("precious")
    with pytest.raises(ConfigError, match="can't be listened on"):
        Listener(settings)
    assert path.read_text() == "precious"


def test_the_start_up_lines_tell_an_unverified_path() -> None:
    runner = {"device": "mps", "dtype": "float16", "verified": "no: never run"}
    info = msgspec.structs.replace(INFO, runner=runner)
    said = "\n".join(model_lines(SPEC, info))
    assert "mps, float16, attention ?, unverified (no: never run)" in said
    assert "4096 tokens, 8 requests of 512" in said


def test_the_start_up_lines_tell_what_was_made_of_the_weights() -> None:
    info = msgspec.structs.replace(INFO, runner={"device": "cpu", "quantization": "int4"})
    said = "\n".join(model_lines(SPEC, info))
    assert f"{SPEC.quantization} made int4," in said
