"""The engine core's process: a socket in, a loop, a socket out.

Started as `python -m penstock.engine.process FD`. A thread reads the socket into a queue; the main thread
sleeps on that queue while there is no work, so an idle engine uses no processor time. When the client's end
closes, however that came about, the process ends.
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from penstock.core.errors import NotFoundError, PenstockError
from penstock.engine import wire

if TYPE_CHECKING:
    from penstock.engine.core import EngineCore
    from penstock.engine.types import RequestOutput

log = logging.getLogger(__name__)
GRACE_SECONDS = 5.0  # how long a step may go on after the client has gone
CLOSED = None  # in the inbox: the client is gone


class _Wake:
    """In the inbox: the core has something to `poll` for."""


_Inbox = queue.SimpleQueue[wire.ToCore | _Wake | None]


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
    threading.Thread(target=_read, args=(sock, inbox), name="core-reader", daemon=True).start()
    try:
        core = EngineCore(start.config, wake=lambda: inbox.put(_Wake()))
    except PenstockError as error:
        sock.sendall(wire.frame(wire.Failed(type(error).__name__, error.message, error.param)))
        return
    try:
        sock.sendall(wire.frame(wire.Ready(core.spec, core.info)))
        gc.freeze()  # what is there now stays to the end: no collection need look at it again
        gc.enable()
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
                sock.sendall(wire.frame(_load_adapter(core, message)))
            case wire.UnloadAdapter(name):
                with suppress(NotFoundError):
                    core.adapters.unload(name)
            case _:
                return False


def _load_adapter(core: EngineCore, message: wire.LoadAdapter) -> wire.AdapterLoaded | wire.AdapterFailed:
    try:
        return wire.AdapterLoaded(core.adapters.load(message.name, message.path))
    except PenstockError as error:
        return wire.AdapterFailed(message.name, type(error).__name__, error.message, error.param, error.code)


def _read(sock: socket.socket, inbox: _Inbox) -> None:
    try:
        while (body := wire.receive(sock)) is not None:
            inbox.put(wire.to_core_decoder.decode(body))
    except OSError:
        log.info("the client's end was reset")
    finally:
        inbox.put(CLOSED)
        # Loading a model or a very long step must not outlive the client.
        timer = threading.Timer(GRACE_SECONDS, os._exit, args=(0,))
        timer.daemon = True
        timer.start()


def main() -> None:
    """Entry point of the core's process; its one argument is the inherited socket's descriptor."""
    gc.disable()  # nothing that a start makes is garbage soon; `serve_core` enables it once it is ready
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then closes the socket
    logging.basicConfig(level=logging.INFO, format="%(asctime)s engine core: %(message)s", stream=sys.stderr)
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        try:
            serve_core(sock)
        except (BrokenPipeError, ConnectionResetError):
            log.info("the client has gone")


if __name__ == "__main__":
    main()
