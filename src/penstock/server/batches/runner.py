"""Runs batches behind live traffic: a few lines at a time, at a priority that gives way to everything else.

What: each line goes the way of an HTTP request, through the same endpoint. A full queue or an engine that is being
    started again makes a line wait, never fail. A line's result is written once, in the order in which lines end.
Inputs: batches and their lines, from the store.
Config: how many lines run at once, over all batches.
Trade-offs: a line that was running when the server died runs again from its beginning, since nothing of it was written;
    lines that end while others wait for the engine keep their places idle for a moment.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import TYPE_CHECKING

import msgspec

from penstock.engine.types import BACKGROUND_PRIORITY
from penstock.server.batches.files import find_file
from penstock.server.batches.objects import BatchError, InputLine, LineError, LineResponse, OutputLine
from penstock.server.batches.reading import BadFileError, read_lines
from penstock.server.batches.store import FINAL, BatchStore
from penstock.server.body import IGNORED_FIELDS, with_ignored
from penstock.server.inside import post

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from penstock.server.batches.objects import Batch
    from penstock.server.inside import InsideAnswer
    from penstock.server.registry import ModelRegistry
    from penstock.server.storage import Storage

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.5  # between tries of a line while the queue is full or the engine is being started again
MOST_CRASHES = 3  # of the engine under one line, which then has failed
PAGE_LINES = 64  # read from the journal at once
_NOT_YET = frozenset({"engine_starting", "engine_restarting", "engine_draining", "engine_stopped"})


class BatchRunner:
    """Runs this server's batches.

    Args:
        app: answers their lines.
        models: whose batches may be taken up.
        storage: where they are kept.
        places: lines that run at once, over all batches.
    """

    def __init__(self, app: ASGIApp, models: ModelRegistry, storage: Storage, *, places: int) -> None:
        self.store = BatchStore(storage)
        self._app = app
        self._models = models
        self._places = asyncio.Semaphore(places)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str) -> None:
        """Run a batch from where it stands."""
        self._tasks[name] = task = asyncio.create_task(self._run(name))
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def take_up(self) -> None:
        """Go on with the batches of servers that are gone."""
        for name in await self.store.take_up(self._models.names):
            self.start(name)

    async def cancel(self, name: str) -> Batch:
        """Cancel a batch; lines that are running are dropped. Raises NotFoundError."""
        batch = await self.store.cancel(name)
        task = self._tasks.get(name)
        if batch.status == "cancelling" and task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if name not in self._tasks:  # else somebody else who cancelled it was sooner
                self.start(name)
        return batch

    async def close(self) -> None:
        """Leave what is unfinished to the next server."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, name: str) -> None:
        try:
            batch = await self.store.get(name)
            if batch.status == "validating":
                batch = await self._read(batch)
            expired = batch.status == "in_progress" and await self._run_lines(batch)
            if batch.status not in FINAL:
                await self.store.finalize(name, expired=expired)
        except Exception:
            log.exception("the batch %s stopped; it goes on when the server is started again", name)

    async def _read(self, batch: Batch) -> Batch:
        storage = self.store.storage
        file = await storage.run(lambda database: find_file(database, batch.input_file_id))
        if file is None:
            message = f"The input file {batch.input_file_id} is gone."
            gone = BatchError(code="file_not_found", message=message, param="input_file_id")
            await self.store.fail(batch.id, [gone])
            return await self.store.get(batch.id)
        try:
            lines = await asyncio.to_thread(read_lines, storage.files / file.id, batch.endpoint)
        except BadFileError as error:
            await self.store.fail(batch.id, [error.error])
            return await self.store.get(batch.id)
        model = next((line.model for line in lines if line.model is not None), None)
        return await self.store.begin(batch, lines, model)

    async def _run_lines(self, batch: Batch) -> bool:
        """Until every line has a result, the batch is no longer to go on, or (True) its time is over."""
        running: set[asyncio.Task[bool]] = set()
        goes_on = True
        try:
            async with asyncio.timeout(max(batch.expires_at - time.time(), 0)):
                beyond = 0
                while goes_on:
                    batch, lines = await self.store.pending(batch.id, beyond=beyond, limit=PAGE_LINES)
                    goes_on = bool(lines) and batch.status == "in_progress"
                    for number, line in lines if goes_on else ():
                        await self._places.acquire()
                        task = asyncio.create_task(self._run_line(batch, number, line))
                        task.add_done_callback(lambda _: self._places.release())
                        running.add(task)
                        done = {task for task in running if task.done()}
                        running -= done
                        goes_on = all(task.result() for task in done)
                        if not goes_on:
                            break
                        beyond = number
                await asyncio.gather(*running)
        except TimeoutError:
            return True
        else:
            return False
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _run_line(self, batch: Batch, number: int, line: bytes) -> bool:
        """Run one line and write its result; whether the batch is to go on."""
        asked = msgspec.json.decode(line)
        body, unknown = asked["body"], [name for name in asked if name not in _MEMBERS]
        own = body.get("priority") or 0
        if isinstance(own, int):  # what isn't is refused as any request's would be
            body["priority"] = BACKGROUND_PRIORITY + min(max(own, 0), BACKGROUND_PRIORITY)
        answer = await self._ask(batch.endpoint, msgspec.json.encode(body))
        result = OutputLine(
            id=f"batch_req_{uuid.uuid4().hex}",
            custom_id=asked["custom_id"],
            response=LineResponse(
                status_code=answer.status,
                request_id=answer.headers.get("x-request-id", ""),
                body=msgspec.Raw(answer.body),
                ignored_fields=with_ignored(answer.headers, unknown).get(IGNORED_FIELDS, msgspec.UNSET),
            ),
            error=None
            if answer.status == OK
            else LineError(code=str(answer.status), message=_why(answer), line=number),
        )
        return await self.store.commit(batch.id, number, result, failed=answer.status != OK)

    async def _ask(self, path: str, body: bytes) -> InsideAnswer:
        crashes = 0
        while True:
            answer = await post(self._app, path, body)
            if answer.status == UNAVAILABLE:
                known = _code(answer) in _NOT_YET
                crashes += not known
                if crashes >= MOST_CRASHES:
                    return answer
            elif answer.status != TOO_MANY:
                return answer
            await asyncio.sleep(PATIENCE_SECONDS)


_MEMBERS = frozenset(InputLine.__struct_encode_fields__)
OK, TOO_MANY, UNAVAILABLE = 200, 429, 503


def _code(answer: InsideAnswer) -> str | None:
    code: str | None = msgspec.json.decode(answer.body)["error"].get("code")
    return code


def _why(answer: InsideAnswer) -> str:
    message: str = msgspec.json.decode(answer.body)["error"]["message"]
    return message
