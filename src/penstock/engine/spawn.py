"""Starts the engine core's process. Imports next to nothing, so that it can be the first thing a command does."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

    from penstock.engine.config import EngineConfig


class CoreProcess:
    """A core that waits to be told what to load, importing meanwhile.

    As a context manager it ends one that nobody has taken over and ended.

    Args:
        module: what the child runs, with the socket's descriptor as its argument.

    Attributes:
        process: the child.
        socket: our end; when it is closed, the child ends by itself.
    """

    def __init__(self, module: str = "penstock.engine.process") -> None:
        self.socket, theirs = socket.socketpair()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C must not reach it before the server has drained
            )
        except BaseException:
            self.socket.close()
            raise
        finally:
            theirs.close()

    def load(self, config: EngineConfig) -> None:
        """Tell it, once; `Ready` or `Failed` comes over the socket."""
        from penstock.engine import wire

        self.tell(wire.frame(wire.Start(config)))

    def tell(self, frame: bytes) -> None:
        """Send it its first message. One that has died says so over the socket too."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def discard(self) -> None:
        """End it, unless it has ended."""
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
