"""Workers on Ray: on a cluster that is there, or on one of this machine alone, started and stopped here."""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import penstock
from penstock.core.errors import ConfigError, InvalidRequestError, NotFoundError
from penstock.lab.bench.spread.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_S = 120.0  # for workers to be there
_CALLS = 8  # of a worker's methods at once
_TOKEN = secrets.token_hex(32)  # of local clusters; one for all, as Ray remembers the first that it sees in a process
_OBJECTS_BYTES = 512 << 20  # of a local cluster's object store


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A worker that is up."""

    actor: Any  # Ray's handle of a `Worker`
    about: dict[str, Any]  # `Worker.about()`
    here: bool  # on the same machine as this process


@contextmanager
def workers(count: int, address: str | None) -> Iterator[list[Member]]:
    """So many workers, for as long as the context lasts.

    Args:
        address: of a Ray cluster, HOST:PORT or "auto" for the one that this machine belongs to; None: of this machine,
            for this purpose, unless this process is connected to Ray already.

    Raises:
        ConfigError: Ray isn't installed, its cluster has too few processors, or its machines another Penstock.
        InvalidRequestError: an address of Ray's client, through which no clocks can be compared.
        NotFoundError: there is no such cluster.
    """
    if find_spec("ray") is None:
        raise ConfigError("Workers run on Ray: pip install 'penstock[lab,ray]'.", param="workers")
    if address is not None and "://" in address:
        raise InvalidRequestError(
            f"{address} is no address of a cluster that this machine belongs to: join it with `ray start"
            " --address=HOST:6379` and say --ray auto.",
            param="ray",
        )
    import ray

    with ExitStack() as stack:
        if not ray.is_initialized():
            stack.enter_context(joined(address, count))
        free = int(ray.available_resources().get("CPU", 0))
        if free < count:
            raise ConfigError(
                f"{count} workers need a processor each, and Ray's cluster has {free} free: take fewer --workers, or"
                " add a machine with `ray start --address=HOST:6379`.",
                param="workers",
            )
        options = {"num_cpus": 1, "max_concurrency": _CALLS, "scheduling_strategy": "SPREAD"}
        actors = [ray.remote(Worker).options(**options).remote(number, count) for number in range(count)]
        for actor in actors:
            stack.callback(ray.kill, actor)
        yield _up(actors)


def _up(actors: list[Any]) -> list[Member]:
    import ray

    try:
        told = ray.get([actor.about.remote() for actor in actors], timeout=_START_S)
        nodes = ray.get([actor.node.remote() for actor in actors], timeout=_START_S)
    except ray.exceptions.GetTimeoutError as error:
        raise ConfigError(
            f"Ray has not started {len(actors)} workers within {_START_S:.0f} s.", param="workers"
        ) from error
    except ray.exceptions.RayError as error:
        raise ConfigError(
            f"A worker can't be started: {first_line(error)} Every machine of the cluster needs 'penstock[lab,ray]',"
            " the same version as here.",
            param="workers",
        ) from error
    for about in told:
        if about["penstock"] != penstock.__version__:
            raise ConfigError(
                f"{about['host']} has Penstock {about['penstock']}, and this is {penstock.__version__}: install the"
                " same on all machines.",
                param="workers",
            )
    here = ray.get_runtime_context().get_node_id()
    return [Member(actor, about, node == here) for actor, about, node in zip(actors, told, nodes, strict=True)]


@contextmanager
def joined(address: str | None, count: int) -> Iterator[None]:
    """Connected to a cluster: that of `address`, or a new one with `count` processors, whose files are gone afterwards.

    Raises:
        ConfigError: Ray can't be used.
        NotFoundError: there is no such cluster.
    """
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with ExitStack() as stack:
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody agreed to report to Ray's makers
            if "RAY_AUTH_TOKEN" not in os.environ:  # Ray would leave one in the user's home
                os.environ["RAY_AUTH_TOKEN"] = _TOKEN
                stack.callback(os.environ.pop, "RAY_AUTH_TOKEN", None)
            # In /tmp, as the paths of Ray's sockets must be short.
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="penstock-ray-", dir="/tmp", ignore_cleanup_errors=True)
            )
            quiet |= {"num_cpus": count, "include_dashboard": False, "object_store_memory": _OBJECTS_BYTES,
                      "_temp_dir": folder}  # fmt: skip
        try:
            ray.init(address=address or "local", **quiet)
        except (ConnectionError, ValueError) as error:
            raise NotFoundError(
                f"There is no Ray cluster at {address}, or it lets this process not in: {first_line(error)} Start one"
                " with `ray start --head`, and join it on other machines with `ray start --address=HOST:6379`; where it"
                " asks for a token, all of them and this process need RAY_AUTH_MODE=token and the same"
                " ~/.ray/auth_token.",
                param="ray",
            ) from error
        except Exception as error:  # what it raises if its own processes are slow to start is no narrower
            raise ConfigError(f"Ray can't be used: {first_line(error)}", param="ray") from error
        finally:
            for number, handler in handlers.items():  # Ray has put its own in their place
                signal.signal(number, handler)
        stack.callback(ray.shutdown)
        yield


def first_line(error: BaseException) -> str:
    """Of what Ray says, whose messages go on for pages; with a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:") + "."
