"""Runs in the OpenVINO GenAI environment: its continuous batching pipeline behind /v1/models and /v1/completions.

Streams only, greedy only: what a comparison asks. A thread owns the pipeline and steps it while there is work; text
leaves as the tokens come, so a chunk is as many tokens as a step gave the request.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino
import openvino_genai

_HEAD_BYTES = 1 << 16
_CONTEXT_TOKENS = 4  # before a piece of text, so that it is decoded as part of its word


@dataclass
class Job:
    """One request on its way through the pipeline."""

    ids: list[int]
    max_tokens: int
    ignore_eos: bool
    outbox: asyncio.Queue[tuple[str, str | None]]  # text, finish reason
    tokens: list[int] = field(default_factory=list)
    sent: int = 0  # tokens whose text has left
    handle: Any = None


class Pipeline:
    """The pipeline's thread."""

    def __init__(self, model: str, scheduler: dict[str, Any], properties: dict[str, str]) -> None:
        config = openvino_genai.SchedulerConfig()
        for name, value in scheduler.items():
            setattr(config, name, value)
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(model, config, "CPU", properties)
        self.tokenizer = self._pipeline.get_tokenizer()
        self._inbox: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, job: Job) -> None:
        self._inbox.put(job)

    def _run(self) -> None:
        jobs: list[Job] = []
        number = 0
        while True:
            while not jobs or not self._inbox.empty():
                job = self._inbox.get()
                config = openvino_genai.GenerationConfig()
                config.max_new_tokens = job.max_tokens
                config.ignore_eos = job.ignore_eos
                config.do_sample = False
                prompt = openvino.Tensor(np.array([job.ids], dtype=np.int64))
                job.handle = self._pipeline.add_request(number, prompt, config)
                number += 1
                jobs.append(job)
            self._pipeline.step()
            jobs = [job for job in jobs if not self._deliver(job)]

    def _deliver(self, job: Job) -> bool:
        """Send what came; whether that was the end."""
        reason = None
        while job.handle.can_read():
            for output in job.handle.read().values():
                job.tokens += output.generated_ids
                name = getattr(output.finish_reason, "name", "NONE")
                reason = {"LENGTH": "length", "STOP": "stop"}.get(name, reason)
        if reason is None and len(job.tokens) >= job.max_tokens:
            reason = "length"
        text = self._text(job, final=reason is not None)
        if text or reason:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(job.outbox.put_nowait, (text, reason))
        return reason is not None

    def _text(self, job: Job, *, final: bool) -> str:
        start = max(0, job.sent - _CONTEXT_TOKENS)
        before = self.tokenizer.decode(job.tokens[start : job.sent], skip_special_tokens=False) if job.sent else ""
        whole = self.tokenizer.decode(job.tokens[start:], skip_special_tokens=False)
        if not final and whole.endswith("\ufffd"):
            return ""  # a character's other bytes are still to come
        job.sent = len(job.tokens)
        return str(whole[len(before) :])


class Server:
    def __init__(self, pipeline: Pipeline, name: str) -> None:
        self._pipeline = pipeline
        self._name = name

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests one after the other, until the client closes."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = head[0].split(" ", 2)
                await self._answer(writer, method, path, body)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            pass  # it hung up, or what it sent is no HTTP
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, method: str, path: str, body: bytes) -> None:
        if (method, path) == ("GET", "/v1/models"):
            await _whole(writer, 200, {"object": "list", "data": [{"id": self._name, "object": "model"}]})
        elif (method, path) != ("POST", "/v1/completions"):
            await _whole(writer, 404, {"error": {"message": f"There is no {method} {path}."}})
        else:
            try:
                asked = json.loads(body)
                job = self._job(asked)
            except (ValueError, KeyError, TypeError) as error:
                await _whole(writer, 400, {"error": {"message": f"The request can't be read: {error}."}})
                return
            await self._stream(writer, job)

    def _job(self, asked: dict[str, Any]) -> Job:
        prompt = asked["prompt"]
        if not asked.get("stream"):
            raise ValueError("this server streams only")
        if isinstance(prompt, str):
            prompt = self._pipeline.tokenizer.encode([prompt]).input_ids.data[0].tolist()
        return Job(prompt, int(asked["max_tokens"]), bool(asked.get("ignore_eos")), asyncio.Queue())

    async def _stream(self, writer: asyncio.StreamWriter, job: Job) -> None:
        self._pipeline.submit(job)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
            b"cache-control: no-cache\r\n\r\n"
        )
        reason = None
        while reason is None:
            text, reason = await job.outbox.get()
            usage = {"prompt_tokens": len(job.ids), "completion_tokens": len(job.tokens)} if reason else None
            choice = {"index": 0, "text": text, "finish_reason": reason}
            _event(writer, json.dumps({"object": "text_completion", "choices": [choice], "usage": usage}))
            await writer.drain()
        _event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _event(writer: asyncio.StreamWriter, data: str) -> None:
    event = f"data: {data}\n\n".encode()
    writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")


async def _whole(writer: asyncio.StreamWriter, status: int, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    words = {200: "OK", 400: "Bad Request", 404: "Not Found"}[status]
    head = f"HTTP/1.1 {status} {words}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def main() -> None:
    model, name, port, settings = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
    pipeline = Pipeline(model, settings["scheduler"], settings["properties"])
    pipeline.start(asyncio.get_running_loop())
    server = await asyncio.start_server(
        Server(pipeline, name).connection, "127.0.0.1", port, limit=_HEAD_BYTES, backlog=4096
    )  # fmt: skip
    await server.serve_forever()


asyncio.run(main())
