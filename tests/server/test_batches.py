"""Files and batches: what is uploaded, what each line of it becomes, and what a crash in the midst leaves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from penstock.engine.types import BACKGROUND_PRIORITY
from penstock.server.storage import Storage
from support.asking import CHAT, COMPLETIONS, ask, error_of
from support.eventually import eventually
from support.fake_engine import FakeEngine
from support.listening import listening
from support.tiny_chat import write_tiny_chat

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from openai.types import Batch

SAID = "user\nhello\nassistant\n"
END = ("completed", "failed", "expired", "cancelled")


@pytest.fixture
def engine(echo_model: Path) -> FakeEngine:
    return FakeEngine(echo_model)


def line(name: str, url: str = CHAT, **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, **fields}
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def jsonl(*lines: Any) -> bytes:
    return b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines)


def with_client(
    engine: FakeEngine, tmp_path: Path, work: Callable[[AsyncOpenAI], Awaitable[Any]], **settings: Any
) -> Any:
    """Run `work(client)` against the engine served on a socket."""

    async def run() -> Any:
        async with (
            listening(engine, **{"data_dir": tmp_path, **settings}) as url,
            AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", timeout=20, max_retries=0) as client,
        ):
            return await asyncio.wait_for(work(client), 30)

    return asyncio.run(run())


async def begin(client: AsyncOpenAI, *lines: Any, endpoint: Any = CHAT, window: Any = "24h", **fields: Any) -> Batch:
    file = await client.files.create(file=("in.jsonl", jsonl(*lines)), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window=window, **fields)


async def ended(client: AsyncOpenAI, name: str) -> Batch:
    """A batch, polled until its status is final."""
    for _ in range(20_000):
        batch = await client.batches.retrieve(name)
        if batch.status in END:
            return batch
    raise AssertionError(f"{name} does not end")


async def lines_of(client: AsyncOpenAI, file: str | None) -> list[dict[str, Any]]:
    assert file is not None
    return [json.loads(each) for each in (await client.files.content(file)).text.splitlines()]


@pytest.mark.proves(
    file_upload="file purpose expires_after[anchor] expires_after[seconds]",
    file="file_id",
    file_list="limit order purpose after",
    file_content="file_id",
    file_delete="file_id",
    FileObject="id object bytes created_at expires_at filename purpose status",
    FileList="object data first_id last_id has_more",
    FileDeleted="id object deleted",
)
def test_files_are_kept_listed_read_and_deleted(engine: FakeEngine, tmp_path: Path) -> None:
    content = os.urandom(700_000)

    async def work(client: AsyncOpenAI) -> None:
        first = await client.files.create(file=("a ü.jsonl", content), purpose="batch")
        assert (first.filename, first.bytes, first.purpose) == ("a ü.jsonl", len(content), "batch")
        assert (first.object, first.status, first.expires_at) == ("file", "processed", None)
        expires: Any = {"anchor": "created_at", "seconds": 3600}
        second = await client.files.create(file=("b", b""), purpose="batch", expires_after=expires)
        assert second.expires_at == second.created_at + 3600
        assert await client.files.retrieve(first.id) == first
        assert (await client.files.content(first.id)).content == content
        assert [file.id async for file in client.files.list(limit=1)] == [second.id, first.id]
        oldest = await client.files.list(order="asc", limit=1, purpose="batch")
        assert ([file.id for file in oldest.data], oldest.has_more) == ([first.id], True)
        assert not (await client.files.list(purpose="vision")).data
        assert not (await client.files.list(after=first.id)).data
        deleted = await client.files.delete(first.id)
        assert (deleted.id, deleted.object, deleted.deleted) == (first.id, "file", True)
        with pytest.raises(openai.NotFoundError):
            await client.files.content(first.id)
        assert [path.name for path in (tmp_path / "files").iterdir()] == [second.id]

    with_client(engine, tmp_path, work)


@pytest.mark.parametrize(
    ("data", "file", "param"),
    [
        ({"purpose": "batch"}, None, "file"),
        ({}, ("a", b"x"), "purpose"),
        ({"purpose": "fine-tune"}, ("a", b"x"), "purpose"),
        ({"purpose": "x" * 2000}, ("a", b"x"), "purpose"),
        ({"purpose": "batch", "more": "x"}, ("a", b"x"), "more"),
        ({"purpose": "batch", "expires_after[seconds]": "1"}, ("a", b"x"), "expires_after[seconds]"),
        ({"purpose": "batch", "expires_after[anchor]": "now"}, ("a", b"x"), "expires_after[anchor]"),
        ({"purpose": "batch"}, (None, b"x"), "file"),
    ],
)
def test_a_form_that_cannot_be_is_refused_and_leaves_nothing(
    engine: FakeEngine, tmp_path: Path, data: dict[str, str], file: Any, param: str
) -> None:
    fields = {name: (None, value) for name, value in data.items()} | ({} if file is None else {"file": file})
    request = httpx.Request("POST", "http://x", files=fields)
    headers = {"content-type": request.headers["content-type"]}
    response = ask(engine, "POST", "/v1/files", request.read(), headers=headers, data_dir=tmp_path)
    assert (response.status_code, error_of(response)["param"]) == (400, param)
    assert not [*(tmp_path / "files").iterdir()]


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
@pytest.mark.parametrize("limit", ["0", "x", "10001", "9" * 5000])
def test_a_page_without_a_fitting_size_is_refused(engine: FakeEngine, tmp_path: Path, path: str, limit: str) -> None:
    assert error_of(ask(engine, "GET", f"{path}?limit={limit}", data_dir=tmp_path))["param"] == "limit"


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(engine: FakeEngine, tmp_path: Path) -> None:
    request = httpx.Request("POST", "http://x", files={"purpose": (None, "batch"), "file": ("a", b"x" * 2000)})
    headers = {"content-type": request.headers["content-type"]}
    response = ask(engine, "POST", "/v1/files", request.read(), headers=headers, data_dir=tmp_path, max_file_bytes=1024)
    assert (response.status_code, error_of(response)["code"]) == (413, "file_too_large")
    assert not [*(tmp_path / "files").iterdir()]


@pytest.mark.proves(
    batches="input_file_id endpoint completion_window metadata",
    batch="batch_id",
    batch_list="limit after",
    Batch="""id object endpoint errors input_file_id completion_window status output_file_id error_file_id created_at
        in_progress_at expires_at finalizing_at completed_at failed_at expired_at cancelling_at cancelled_at
        request_counts metadata""",
    RequestCounts="total completed failed",
    BatchErrors="object data",
    BatchError="code message line param",
    BatchList="object data first_id last_id has_more",
)
def test_each_line_is_answered_and_a_bad_one_fails_alone(engine: FakeEngine, tmp_path: Path) -> None:
    good = [line(f"good {number}") for number in range(20)]
    bad: dict[int, Any] = {
        3: b"{not json",
        5: {**line("bad url"), "url": COMPLETIONS},
        6: b"\xff",
        8: line("good 0"),
        9: {"method": "POST", "url": CHAT, "body": {}},
        11: line("bad stream", stream=True),
        12: line("bad model", model="none"),
        14: line("bad priority", priority="high"),
    }
    lines: list[Any] = [*good]
    for number, each in bad.items():
        lines.insert(number - 1, each)

    async def work(client: AsyncOpenAI) -> None:
        begun = await begin(client, *lines, b"", metadata={"a": "b"})
        assert (begun.object, begun.endpoint, begun.completion_window) == ("batch", CHAT, "24h")
        assert (begun.status, begun.expires_at) == ("validating", begun.created_at + 86400)
        batch = await ended(client, begun.id)
        counts = batch.request_counts
        assert counts is not None
        assert (batch.status, counts.total, counts.completed, counts.failed) == ("completed", 28, 20, 8)
        assert batch.metadata == {"a": "b"}
        assert None not in (batch.completed_at, batch.finalizing_at, batch.in_progress_at)
        answers = await lines_of(client, batch.output_file_id)
        assert [answer["custom_id"] for answer in answers] == [each["custom_id"] for each in good]
        for answer in answers:
            assert (answer["error"], answer["response"]["status_code"]) == (None, 200)
            body = answer["response"]["body"]
            assert (answer["response"]["request_id"], answer["id"][:10]) == (body["id"], "batch_req_")
            assert body["choices"][0]["message"]["content"] == SAID
        errors = await lines_of(client, batch.error_file_id)
        assert [error["error"]["line"] for error in errors] == [*bad]
        assert errors[6]["response"]["status_code"] == 404
        assert errors[7]["response"]["body"]["error"]["param"] == "priority"
        assert batch.errors is not None
        assert batch.errors.data is not None
        assert [error.line for error in batch.errors.data] == [3, 5, 6, 8, 9, 11]
        other = await begin(client, line("a", COMPLETIONS, prompt="x"), endpoint=COMPLETIONS)
        await ended(client, other.id)
        assert [each.id async for each in client.batches.list(limit=1)] == [other.id, begun.id]
        files = [file async for file in client.files.list(purpose="batch_output")]
        assert {file.id for file in files} >= {batch.output_file_id, batch.error_file_id}
        assert not await Storage(tmp_path).run(lambda db: db.execute("SELECT 1 FROM batch_lines").fetchall())

    with_client(engine, tmp_path, work)
    assert {request.priority for request in engine.added} == {BACKGROUND_PRIORITY}


@pytest.mark.parametrize(("endpoint", "field"), [("/v1/responses", "input"), ("/v1/completions", "prompt")])
def test_other_endpoints_answer_lines_too(engine: FakeEngine, tmp_path: Path, endpoint: str, field: str) -> None:
    async def work(client: AsyncOpenAI) -> None:
        batch = await begin(client, line("a", endpoint, **{"messages": None, field: "hello"}), endpoint=endpoint)
        batch = await ended(client, batch.id)
        [answer] = await lines_of(client, batch.output_file_id)
        assert answer["response"]["body"]["object"] in ("response", "text_completion")

    with_client(engine, tmp_path, work)


def test_a_file_from_windows_is_read_as_any_other(engine: FakeEngine, tmp_path: Path) -> None:
    async def work(client: AsyncOpenAI) -> None:
        content = b"\xef\xbb\xbf" + jsonl(line("a"), line("b")).replace(b"\n", b"\r\n") + b"\r\n"
        file = await client.files.create(file=("in.jsonl", content), purpose="batch")
        batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        batch = await ended(client, batch.id)
        assert [each["custom_id"] for each in await lines_of(client, batch.output_file_id)] == ["a", "b"]

    with_client(engine, tmp_path, work)


def test_what_had_no_effect_is_named_beside_a_lines_answer(engine: FakeEngine, tmp_path: Path) -> None:
    async def work(client: AsyncOpenAI) -> None:
        batch = await begin(client, {**line("a", user="me"), "priority": 3}, line("b"))
        batch = await ended(client, batch.id)
        first, second = await lines_of(client, batch.output_file_id)
        assert first["response"]["ignored_fields"] == "user, priority"
        assert "ignored_fields" not in second["response"]

    with_client(engine, tmp_path, work)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({**line("a"), "method": "GET"}, "'method' is not valid: 'GET' is none of POST"),
        ({**line("a"), "body": None}, "'body' is not valid: expected `object`, got `null`"),
        ({"custom_id": "a"}, "'method' is missing"),
        ([], "the line must be a JSON object: expected `object`, got `array`"),
    ],
    ids=["method", "body", "missing", "array"],
)
def test_a_bad_line_is_told_by_number_and_field(engine: FakeEngine, tmp_path: Path, wrong: Any, why: str) -> None:
    async def work(client: AsyncOpenAI) -> None:
        batch = await ended(client, (await begin(client, line("good"), wrong)).id)
        [told] = await lines_of(client, batch.error_file_id)
        assert told["error"]["message"] == f"Line 2 can't be run: {why}."

    with_client(engine, tmp_path, work)


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/responses"), ("POST", "/v1/files")])
def test_a_directory_that_cannot_be_used_is_a_503_that_says_so(
    engine: FakeEngine, tmp_path: Path, method: str, path: str
) -> None:
    blocked = tmp_path / "a file"
    blocked.touch()
    form = httpx.Request("POST", "http://x", files={"purpose": (None, "batch"), "file": ("a", b"x")})
    body, kind = (form.read(), form.headers["content-type"]) if path == "/v1/files" else ({"input": "a"}, "a/json")
    response = ask(engine, method, path, body, headers={"content-type": kind}, data_dir=blocked / "data")
    assert (response.status_code, error_of(response)["code"]) == (503, "storage_unavailable")
    assert str(tmp_path) not in response.text


@pytest.mark.parametrize(
    ("content", "code"), [(b"", "empty_file"), (b"\n\n", "empty_file"), (b"{}\n" * 50_001, "too_many_tasks")]
)
def test_a_file_that_is_no_use_fails_the_batch(engine: FakeEngine, tmp_path: Path, content: bytes, code: str) -> None:
    async def work(client: AsyncOpenAI) -> None:
        file = await client.files.create(file=("in", content), purpose="batch")
        batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        batch = await ended(client, batch.id)
        assert batch.status == "failed"
        assert batch.errors is not None
        assert batch.errors.data is not None
        assert [error.code for error in batch.errors.data] == [code]

    with_client(engine, tmp_path, work)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/files"}, "endpoint"),
        ({"input_file_id": "file-none"}, "file_id"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(engine: FakeEngine, tmp_path: Path, fields: Any, param: str) -> None:
    asked = {"endpoint": CHAT, "input_file_id": "file-none", "completion_window": "24h", **fields}
    response = ask(engine, "POST", "/v1/batches", asked, data_dir=tmp_path)
    assert response.status_code in (400, 404)
    assert error_of(response)["param"] == param


@pytest.mark.parametrize("path", ["/v1/batches/none", "/v1/files/none", "/v1/files/..%2fpenstock.sqlite3/content"])
def test_what_is_not_there_is_a_404(engine: FakeEngine, tmp_path: Path, path: str) -> None:
    assert ask(engine, "GET", path, data_dir=tmp_path).status_code == 404


@pytest.mark.proves(batch_cancel="batch_id")
def test_a_cancelled_batch_keeps_what_it_has(echo_model: Path, tmp_path: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(client: AsyncOpenAI) -> None:
        batch = await begin(client, *(line(str(number)) for number in range(6)))
        await eventually(lambda: engine.running == 2, "two lines run")
        assert (await client.batches.cancel(batch.id)).status == "cancelling"
        batch = await ended(client, batch.id)
        assert (batch.status, engine.running, batch.output_file_id) == ("cancelled", 0, None)
        assert None not in (batch.cancelling_at, batch.cancelled_at)
        errors = await lines_of(client, batch.error_file_id)
        assert [error["error"]["code"] for error in errors] == ["batch_cancelled"] * 6
        assert (await client.batches.cancel(batch.id)).status == "cancelled"

    with_client(engine, tmp_path, work, batch_concurrency=2)


def test_given_several_who_cancel_at_once_then_the_batch_is_ended_once_and_loses_nothing(
    echo_model: Path, tmp_path: Path
) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(client: AsyncOpenAI) -> None:
        batch = await begin(client, *(line(str(number)) for number in range(3)))
        await eventually(lambda: engine.running == 2, "two lines run")
        await asyncio.gather(*(client.batches.cancel(batch.id) for _ in range(8)))
        batch = await ended(client, batch.id)
        assert len(await lines_of(client, batch.error_file_id)) == 3
        files = [file.id async for file in client.files.list(purpose="batch_output")]
        assert files == [batch.error_file_id]

    with_client(engine, tmp_path, work, batch_concurrency=2)


def test_a_batch_whose_time_is_over_says_which_lines_were_not_run(echo_model: Path, tmp_path: Path) -> None:
    engine = FakeEngine(echo_model, held=True)

    async def work(client: AsyncOpenAI) -> None:
        batch = await begin(client, *(line(str(number)) for number in range(3)), window="1s")
        batch = await ended(client, batch.id)
        assert (batch.status, batch.completed_at) == ("expired", None)
        assert batch.expired_at
        errors = await lines_of(client, batch.error_file_id)
        assert [error["error"]["code"] for error in errors] == ["batch_expired"] * 3

    with_client(engine, tmp_path, work)


def test_lines_wait_while_the_queue_is_full_and_while_the_engine_is_being_started_again(
    echo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.server.batches.runner.PATIENCE_SECONDS", 0.01)
    engine = FakeEngine(echo_model, held=True, max_num_seqs=1, max_waiting=0)

    async def work(client: AsyncOpenAI) -> None:
        hello: Any = [{"role": "user", "content": "hello"}]
        live = asyncio.create_task(client.chat.completions.create(model="Echo-1B", messages=hello))
        await eventually(lambda: engine.running == 1, "the live request runs")
        begun = await begin(client, *(line(str(number)) for number in range(5)))
        while (await client.batches.retrieve(begun.id)).status == "validating":
            pass
        engine.state = "restarting"
        await asyncio.sleep(0)
        engine.state = "ready"
        assert engine.running == 1
        engine.release(1000)
        await live
        counts = (await ended(client, begun.id)).request_counts
        assert counts is not None
        assert (counts.completed, counts.failed) == (5, 0)

    with_client(engine, tmp_path, work)


def test_a_line_that_brings_the_engine_down_each_time_fails(
    echo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.server.batches.runner.PATIENCE_SECONDS", 0.01)
    engine = FakeEngine(echo_model, held=True)

    async def work(client: AsyncOpenAI) -> None:
        batch = await begin(client, line("a"))
        for crash in range(3):
            await eventually(
                lambda: engine.running == 1,
                "the line runs",
            )
            assert len(engine.added) == crash + 1
            engine.die()
            engine.state = "ready"
        batch = await ended(client, batch.id)
        [error] = await lines_of(client, batch.error_file_id)
        assert error["response"]["status_code"] == 503

    with_client(engine, tmp_path, work)


def test_a_file_is_gone_while_another_server_still_runs_its_batch(echo_model: Path, tmp_path: Path) -> None:
    """Two servers over one directory: each runs its own batches, and either shows both."""
    first, second = FakeEngine(echo_model, held=True), FakeEngine(echo_model)

    async def run() -> None:
        async with (
            listening(first, data_dir=tmp_path) as one,
            listening(second, data_dir=tmp_path) as two,
            AsyncOpenAI(base_url=f"{one}/v1", api_key="unused", max_retries=0) as mine,
            AsyncOpenAI(base_url=f"{two}/v1", api_key="unused", max_retries=0) as other,
        ):
            batch = await begin(mine, line("a"))
            await eventually(lambda: first.running == 1, "the line runs")
            theirs = await begin(other, line("b"))
            assert (await ended(other, theirs.id)).status == "completed"
            assert (await other.batches.retrieve(batch.id)).status == "in_progress"
            first.release(1000)
            assert (await ended(other, batch.id)).status == "completed"
        assert len(first.added) == len(second.added) == 1

    asyncio.run(asyncio.wait_for(run(), 30))


PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from penstock.engine.config import EngineConfig
from penstock.server.declared import DeclaredModel
from penstock.server.run import serve
from penstock.server.settings import ServerSettings
engine, server = json.loads(sys.argv[1])
settings = ServerSettings(**{name: Path(value) if name != "drain_timeout" else value for name, value in server.items()})
asyncio.run(serve([DeclaredModel.of(EngineConfig(**engine), settings)], settings))
"""


@contextmanager
def server(model: Path, socket: Path, data: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real server on a Unix socket; killed at the end unless it has ended."""
    socket.unlink(missing_ok=True)
    engine = {"model_path": str(model), "dtype": "float32", "kv_memory": 16 << 20, "threads": 1}
    settings = {"uds": str(socket), "data_dir": str(data), "drain_timeout": 5.0}
    arguments = [sys.executable, "-c", PROGRAM, json.dumps([engine, settings])]
    said = data.parent / "said"
    with said.open("wb") as stderr:
        process = subprocess.Popen(arguments, stderr=stderr)
    try:
        deadline = time.monotonic() + 60
        while "\n  ready" not in said.read_text():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def over(socket: Path) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://localhost", timeout=30)


def test_a_server_that_is_killed_goes_on_where_its_journal_ends(tmp_path: Path) -> None:
    """Each line has one answer in the end, though the server is killed twice in the midst of them."""
    model, socket, data = write_tiny_chat(tmp_path), tmp_path / "socket", tmp_path / "data"
    names = [f"line {number}" for number in range(60)]
    content = jsonl(*(line(name, max_tokens=20, ignore_eos=True, seed=1) for name in names))

    def counts(client: httpx.Client) -> Counter[str]:
        found: Counter[str] = Counter(client.get(f"/v1/batches/{batch}").json()["request_counts"])
        return found

    def wait_for(client: httpx.Client, completed: int) -> int:
        deadline = time.monotonic() + 60
        while (found := counts(client)["completed"]) < completed:
            assert time.monotonic() < deadline, f"{found} of {completed} lines"
        return found

    with server(model, socket, data) as process, over(socket) as client:
        form = {"purpose": (None, "batch"), "file": ("in.jsonl", content)}
        file = client.post("/v1/files", files=form).json()["id"]
        asked = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        batch = client.post("/v1/batches", json=asked).json()["id"]
        before = wait_for(client, 5)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with server(model, socket, data) as process, over(socket) as client:
        assert counts(client)["completed"] >= before
        wait_for(client, before + 10)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with server(model, socket, data) as process, over(socket) as client:
        wait_for(client, len(names))
        deadline = time.monotonic() + 30
        while (ended := client.get(f"/v1/batches/{batch}").json())["status"] != "completed":
            assert time.monotonic() < deadline
        output = client.get(f"/v1/files/{ended['output_file_id']}/content").text.splitlines()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    answers = [json.loads(each) for each in output]
    assert [answer["custom_id"] for answer in answers] == names
    assert len({answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers}) == 1
    assert ended["request_counts"] == {"total": 60, "completed": 60, "failed": 0}
    assert not [*(data / "owners").iterdir()]
