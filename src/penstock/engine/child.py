"""What a process at the other end of a `CoreProcess` does: one thread reads the socket into a queue, another works.

When the client's end closes, however that came about, the process ends.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0  # how long the work at hand may go on after the client has gone


def read_in_thread(receive: Callable[[], object], put: Callable[[Any], None]) -> None:
    """Put every message that is received, then None: the client has gone, and the process soon will be.

    Args:
        receive: waits for a message; None when the other end has closed.
        put: called in the thread.
    """
    threading.Thread(target=_read, args=(receive, put), name="reader", daemon=True).start()


def run(serve: Callable[[socket.socket], None], who: str) -> None:
    """A process's whole life; the command line's one argument is the inherited socket's descriptor.

    Args:
        serve: works until the other end closes; once it is ready it calls `keep_what_is_there`.
        who: the process, in the log.
    """
    gc.disable()  # nothing that a start makes is garbage soon
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then closes the socket
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {who}: %(message)s", stream=sys.stderr)
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        try:
            serve(sock)
        except (BrokenPipeError, ConnectionResetError):
            log.info("the client has gone")


def keep_what_is_there() -> None:
    """The start is over: what was made stays to the end, and no collection need look at it again."""
    gc.freeze()
    gc.enable()


def _read(receive: Callable[[], object], put: Callable[[Any], None]) -> None:
    try:
        while (message := receive()) is not None:
            put(message)
    except OSError:
        log.info("the client's end was reset")
    finally:
        put(None)
        # Loading a model or a very long step must not outlive the client.
        timer = threading.Timer(GRACE_SECONDS, os._exit, args=(0,))
        timer.daemon = True
        timer.start()
