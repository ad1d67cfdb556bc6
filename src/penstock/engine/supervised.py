"""A process that computes for this one and is kept alive: started, watched, started again when it dies, and ended."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

import msgspec

from penstock.core.errors import EngineDeadError, PenstockError
from penstock.engine import wire

if TYPE_CHECKING:
    from penstock.engine.spawn import CoreProcess

log = logging.getLogger(__name__)

State = Literal["starting", "ready", "restarting", "draining", "stopped"]
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
CLOSE_SECONDS = 10.0  # how long a process may take to end by itself

M = TypeVar("M")  # what the process says


class Supervised(ABC, Generic[M]):
    """Owns one process at the other end of a socket, which says that it is ready before all else.

    A process that dies takes its requests with it (they raise EngineDeadError) and is started again, at once and then
    with growing pauses; meanwhile `state` is "restarting" and new requests raise EngineDeadError.

    Args:
        decoder: of what the process says, `wire.Failed` among it.

    Attributes:
        whole: what this is, for people.
        part: what its process is.
        state: whether requests are taken.
        restarts: how often the process died and is up again.
    """

    whole: ClassVar[str]
    part: ClassVar[str]

    def __init__(self, decoder: msgspec.msgpack.Decoder[M]) -> None:
        self.state: State = "starting"
        self.restarts = 0
        self._decoder = decoder
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()  # set while no request is in flight
        self._idle.set()

    @abstractmethod
    def _spawn(self) -> CoreProcess:
        """A process that has been told what to load."""

    @abstractmethod
    def _greet(self, message: M) -> bool:
        """Take the first message of a process; False if it doesn't say that the process is ready."""

    @abstractmethod
    def _receive(self, message: M) -> bool:
        """Take a later one; False if it isn't one that comes later."""

    @abstractmethod
    def _fail_all(self, sentence: str) -> None:
        """Every request in flight raises EngineDeadError."""

    def _died(self) -> None:
        """Forget what was true of the process that died."""

    async def _open(self) -> asyncio.StreamReader:
        """Bring up the first process, and what this needs itself."""
        return await self._launch()

    async def start(self) -> None:
        """Start the process and wait until it can serve. Raises ConfigError or ModelFileError."""
        try:
            reader = await self._open()
        except BaseException:
            await self.close()
            raise
        self.state = "ready"
        self._supervisor = asyncio.create_task(self._supervise(reader))

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109 - the bound is part of the operation
        """Refuse new requests and wait for those in flight; False if some were left after `timeout` seconds."""
        if self.state == "ready":
            self.state = "draining"
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End the process; what is still in flight raises EngineDeadError."""
        self.state = "stopped"
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        self._fail_all(f"The {self.whole} was stopped.")
        await self._end()

    def _check_state(self) -> None:
        if self.state == "ready":
            return
        sentence = {
            "starting": f"The {self.whole} is starting; try again in a few seconds.",
            "restarting": f"The {self.part} died and is being started again; try again in a few seconds.",
            "draining": "The server is shutting down and takes no new requests.",
            "stopped": f"The {self.whole} was stopped.",
        }[self.state]
        raise EngineDeadError(sentence, code=f"engine_{self.state}")

    @property
    def _is_connected(self) -> bool:
        """Whether what is sent may arrive."""
        return self._writer is not None and not self._writer.is_closing()

    def _write(self, frame: bytes) -> None:
        if self._writer is None:
            raise EngineDeadError(f"The {self.part} is not running.", code="engine_stopped")
        self._writer.write(frame)

    async def _launch(self) -> asyncio.StreamReader:
        """Spawn a process and wait until it is ready. Raises what it failed with, or EngineDeadError."""
        child = self._spawn()
        self._process = child.process
        reader, self._writer = await asyncio.open_connection(sock=child.socket)
        try:
            message = await self._next(reader)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise EngineDeadError(
                f"The {self.part} ended while it was loading (exit status {await self._end()}); its message is above."
            ) from error
        if isinstance(message, wire.Failed):
            await self._end()
            raise wire.error_class(message.error_type)(message.message, param=message.param)
        if not self._greet(message):
            await self._end()
            raise EngineDeadError(f"The {self.part} sent {type(message).__name__} before it was ready.")
        return reader

    async def _supervise(self, reader: asyncio.StreamReader) -> None:
        """Take messages for as long as the process lives, and start another when it dies."""
        backoff = 0.0
        while True:
            since = time.monotonic()
            reason = await self._pump(reader)
            if time.monotonic() - since > LONGEST_BACKOFF_SECONDS:
                backoff = 0.0
            self.state = "draining" if self.state == "draining" else "restarting"
            status = await self._end()
            log.error("the %s died (exit status %s, %s); starting it again", self.part, status, reason)
            self._fail_all(f"The {self.part} died while it worked on this request; it is being started again.")
            self._died()
            while True:
                await asyncio.sleep(backoff)
                backoff = min(max(2 * backoff, FIRST_BACKOFF_SECONDS), LONGEST_BACKOFF_SECONDS)
                try:
                    reader = await self._launch()
                except (PenstockError, OSError) as error:  # OSError: no room for another process now
                    log.error("the %s could not be started again: %s", self.part, error)  # noqa: TRY400
                else:
                    break
            self.restarts += 1
            self.state = "draining" if self.state == "draining" else "ready"
            log.warning("the %s is up again", self.part)

    async def _pump(self, reader: asyncio.StreamReader) -> str:
        """Take messages until the socket ends; returns why it did."""
        try:
            while self._receive(message := await self._next(reader)):
                pass
        except asyncio.IncompleteReadError:
            return "its socket closed"
        except (ConnectionError, msgspec.DecodeError) as error:
            return str(error)
        return f"unexpected {type(message).__name__}"

    async def _next(self, reader: asyncio.StreamReader) -> M:
        return self._decoder.decode(await wire.read_frame(reader))

    async def _end(self) -> int | None:
        """Close the socket and reap the process, by force if it doesn't end by itself; its exit status."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            return await asyncio.to_thread(process.wait, CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return await asyncio.to_thread(process.wait)
