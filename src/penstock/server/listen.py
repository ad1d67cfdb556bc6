"""Where the server listens: taken before the model is loaded, so that a port in use is known at once."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from penstock.core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.server.settings import ServerSettings


class Listener:
    """Bound sockets, not listening yet, and the address that people type.

    Raises ConfigError if the address can't be had.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._path = settings.uds
        if settings.uds is not None:
            self.sockets = [_bind_path(settings.uds)]
            self.url = f"unix:{settings.uds}"
            return
        self.sockets = _bind_host(settings.host, settings.port)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"http://{host}:{self.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Give the address back."""
        for listener in self.sockets:
            listener.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _bind_host(host: str, port: int) -> list[socket.socket]:
    """One socket for each address of the host: "localhost" is often two."""
    # As bytes: a string would be put through a codec for international names, which takes longer than all of this.
    name = host.encode() if host.isascii() else host
    try:
        found = socket.getaddrinfo(name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"The host {host!r} can't be resolved: {error.strerror}.", param="host") from error
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            bound.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            port = port or (bound[0].getsockname()[1] if len(bound) > 1 else 0)
            listener.bind((address[0], port, *address[2:]))
    except OSError as error:
        for listener in bound:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"Port {port} of {host} is in use. Choose another with --port, or 0 for a free one."
        else:
            message = f"{host}:{port} can't be listened on: {error.strerror}."
        raise ConfigError(message, param="port") from error
    return bound


def _bind_path(path: Path) -> socket.socket:
    """A Unix socket for this user alone. A socket left over from a server that is gone is taken over."""
    if path.is_socket():
        if _answers(path):
            raise ConfigError(f"Another server listens on {path}.", param="uds")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise ConfigError(f"{path} can't be listened on: {error.strerror or error}.", param="uds") from error
    finally:
        os.umask(before)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(str(path)) == 0
