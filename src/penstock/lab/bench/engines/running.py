"""An engine from its start to its end: up, answering, asked, and gone."""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import httpx

from penstock.core.errors import EngineDeadError, InvalidRequestError, NotFoundError, OverloadedError
from penstock.lab.bench.endpoint import Endpoint
from penstock.lab.bench.engines.base import free_port
from penstock.lab.bench.engines.process import Child
from penstock.lab.bench.probe import probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from penstock.lab.bench.engines.base import Common, Engine, Launch
    from penstock.lab.bench.engines.model import ModelForms
    from penstock.lab.bench.engines.place import Place

READY_TIMEOUT_S = 900.0
_RETRY_S = 0.05
_RETRY_SHARE = 0.01  # of the time it has taken so far: to ask takes processor time that it could use
_PATIENCE_S = 60.0  # with a server that answers, and isn't what it should be


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """An engine that answers."""

    endpoint: Endpoint
    version: str
    configuration: Mapping[str, Any]
    differs: tuple[str, ...]
    notes: tuple[str, ...]  # what the probe saw
    ready_s: float | None  # from the start to the first answer; None: it was up already
    child: Child | None


@contextmanager
def running(
    engine: Engine,
    place: Place,
    model: ModelForms,
    common: Common,
    *,
    options: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    name: str = "",
    timeout: float = READY_TIMEOUT_S,
) -> Iterator[Up]:
    """Start an engine; when the block is left, nothing of it is.

    Args:
        options: flags of its own, after the common ones.
        env: variables of its own.
        name: of its log; the engine's, unless told.

    Raises:
        NotFoundError: it isn't installed.
        EngineDeadError: it ended, or didn't answer in time; the message has the end of its log.
    """
    version = engine.require_installed(place)
    launch = engine.plan(place, model, common, dict(options or {}), free_port())
    log = place.logs / f"{name or engine.name}.log"
    log.unlink(missing_ok=True)
    child = Child(launch.command, log, env={**launch.env, **(env or {})})
    try:
        endpoint, notes = _ready(engine.name, child, launch, common, timeout)
        yield Up(
            endpoint=endpoint, version=version, configuration={**launch.configuration, **_given(env)},
            differs=launch.differs, notes=notes, ready_s=time.monotonic() - child.spawned, child=child,
        )  # fmt: skip
    finally:
        child.stop()


def _given(env: Mapping[str, str] | None) -> dict[str, Any]:
    return {"extra_environment": dict(env)} if env else {}


def _ready(name: str, child: Child, launch: Launch, common: Common, timeout: float) -> tuple[Endpoint, tuple[str, ...]]:
    base, deadline = f"http://127.0.0.1:{launch.port}", child.spawned + timeout
    _listening(name, child, launch.port, deadline)
    if launch.prepare is not None:
        _answering(name, child, base, deadline)
        launch.prepare()
    endpoint = _listing(name, child, base, launch, deadline)
    endpoint = replace(endpoint, api=common.api, numbered=launch.takes_numbers)
    while True:
        try:
            probed = probe(endpoint, timeout=max(1.0, deadline - time.monotonic()))
        except OverloadedError as error:
            _wait(name, child, deadline, error)
        except (InvalidRequestError, NotFoundError):
            child.check_alive()  # tells more than "it broke the connection"
            raise
        else:
            return probed.endpoint, probed.notes


def _listening(name: str, child: Child, port: int, deadline: float) -> None:
    """Once it takes connections: to find that out costs an engine that is still loading nothing."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError as error:
            _wait(name, child, deadline, error, share=0.0)
        else:
            return


def _answering(name: str, child: Child, base: str, deadline: float) -> None:
    """Once it answers at all."""
    while True:
        try:
            httpx.get(base, timeout=_PATIENCE_S)
        except httpx.HTTPError as error:
            _wait(name, child, deadline, error)
        else:
            return


def _listing(name: str, child: Child, base: str, launch: Launch, deadline: float) -> Endpoint:
    """Once it lists its models."""
    wrong_until = None
    while True:
        try:
            return Endpoint.open(base, body={"temperature": 0, **launch.body}, ignore_eos=launch.ignore_eos)
        except (NotFoundError, OverloadedError) as error:  # it loads its model
            _wait(name, child, deadline, error)
        except InvalidRequestError as error:
            wrong_until = wrong_until or time.monotonic() + _PATIENCE_S
            _wait(name, child, min(deadline, wrong_until), error)


def _wait(name: str, child: Child, deadline: float, error: Exception, *, share: float = _RETRY_SHARE) -> None:
    child.check_alive()
    now = time.monotonic()
    if now > deadline:
        tail = child.log.read_text(errors="replace")[-2000:]
        raise EngineDeadError(f"{name} wasn't ready in time: {error} The end of {child.log}:\n{tail}") from error
    time.sleep(max(_RETRY_S, min(share * (now - child.spawned), deadline - now)))
