"""uvicorn's server without its command line, which takes longer to import than the server itself.

uvicorn's package imports both. Here it stays empty until somebody asks it for something, and only the modules of the
server are imported.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from typing import Any


def _postpone(name: str) -> None:
    """Let the package `name` run its own code only when one of its attributes is asked for."""
    spec = find_spec(name)
    if name in sys.modules or spec is None or spec.loader is None:
        return
    loader, package = spec.loader, module_from_spec(spec)

    def run_and_get(attribute: str) -> Any:
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__dict__["__getattr__"] = run_and_get  # PEP 562
    sys.modules[name] = package


_postpone("uvicorn")

from uvicorn.config import Config  # noqa: E402 - after the above
from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: E402
from uvicorn.server import Server  # noqa: E402

for _part in (Config, Server):  # which uvicorn's own modules take from the package
    setattr(sys.modules["uvicorn"], _part.__name__, _part)

__all__ = ["Config", "H11Protocol", "Server"]
