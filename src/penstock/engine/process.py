"""The engine core's process: a socket in, a loop, a socket out.

Started as `python -m penstock.engine.process FD` (`engine/child.py`). The main thread sleeps on the queue of messages
while there is no work, so an idle engine uses no processor time.
"""

from __future__ import annotations

import logging
import queue
from contextlib import suppress
from typing import TYPE_CHECKING

from penstock.core.errors import ModelFileError, NotFoundError, PenstockError
from penstock.engine import child, wire

if TYPE_CHECKING:
    import socket

    from penstock.engine.core import EngineCore
    from penstock.engine.types import RequestOutput

log = logging.getLogger(__name__)


class _Wake:
    """In the inbox: the core has something to `poll` for."""


_Inbox = queue.SimpleQueue[wire.ToCore | _Wake | None]  # None: the client is gone


def serve_core(sock: socket.socket) -> None:
    """Load what the first message says, then run until the other end closes."""
    from penstock.engine.core import EngineCore  # while whoever starts us imports what it needs itself

    first = wire.receive(sock)
    if first is None:
        return
    start = wire.to_core_decoder.decode(first)
    if not isinstance(start, wire.Start):
        raise TypeError(f"the first message must be Start, not {type(start).__name__}")
    inbox: _Inbox = queue.SimpleQueue()
    child.read_in_thread(lambda: _receive(sock), inbox.put)
    try:
        core = EngineCore(start.config, wake=lambda: inbox.put(_Wake()))
    except PenstockError as error:
        sock.sendall(wire.frame(wire.Failed(type(error).__name__, error.message, error.param)))
        return
    try:
        sock.sendall(wire.frame(wire.Ready(core.spec, core.info)))
        child.keep_what_is_there()
        _loop(core, sock, inbox)
    finally:
        core.shutdown()


def _loop(core: EngineCore, sock: socket.socket, inbox: _Inbox) -> None:
    while True:
        refused: list[RequestOutput] = []
        if not _take(core, inbox, refused, sock):
            return
        refused += core.poll()
        outputs = core.step() if core.has_work else []
        if not core.has_work:
            core.idle()
        if refused or outputs or not core.has_work:
            sock.sendall(wire.frame(wire.Outputs(refused + outputs, core.stats())))


def _take(core: EngineCore, inbox: _Inbox, refused: list[RequestOutput], sock: socket.socket) -> bool:
    """Apply every message that is there; wait for one if there is no work. False: the client has gone."""
    while True:
        waits = not core.has_work and not refused
        try:
            message = inbox.get(waits, core.patience if waits else None)
        except queue.Empty:
            if waits:
                core.settle()
            return True
        match message:
            case _Wake():
                return True
            case wire.Add(request):
                refusal = core.add(request)
                if refusal is not None:
                    refused.append(refusal)
            case wire.Abort(request_ids):
                for request_id in request_ids:
                    core.abort(request_id)
                if not core.has_work:
                    return True  # the counters changed: let the loop report them before it sleeps
            case wire.LoadAdapter():
                sock.sendall(wire.frame(load_adapter(core, message)))
            case wire.UnloadAdapter(name):
                with suppress(NotFoundError):
                    core.adapters.unload(name)
            case _:
                return False


def load_adapter(core: EngineCore, message: wire.LoadAdapter) -> wire.AdapterLoaded | wire.AdapterFailed:
    """Do it between two steps, and say what came of it."""
    try:
        return wire.AdapterLoaded(core.adapters.load(message.name, message.path))
    except PenstockError as error:
        failure = error
    except Exception:  # a disk that fails, a device without room: no request that runs need suffer
        log.exception("the adapter %s could not be loaded", message.name)
        failure = ModelFileError(f"The adapter {message.name!r} could not be loaded; the server's log has the cause.")
    return wire.AdapterFailed(message.name, type(failure).__name__, failure.message, failure.param, failure.code)


def _receive(sock: socket.socket) -> wire.ToCore | None:
    body = wire.receive(sock)
    return None if body is None else wire.to_core_decoder.decode(body)


if __name__ == "__main__":
    child.run(serve_core, "engine core")
