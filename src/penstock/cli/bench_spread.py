"""Who offers a load: this process, or workers on Ray."""

from __future__ import annotations

import sys
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from penstock.cli.output import note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.lab.bench.run import Offering
    from penstock.lab.bench.settings import BenchSettings


@contextmanager
def offered_by(settings: BenchSettings, *, quiet: bool, columns: bool | None = None) -> Iterator[Offering]:
    """Give what `measure` offers with. Workers are there for as long as the context lasts.

    Args:
        columns: every request's are wanted, whatever the settings say.

    Raises:
        ConfigError: Ray isn't installed, or has too few processors.
        InvalidRequestError: an address that is none.
        NotFoundError: no Ray cluster there.
    """
    from penstock.lab.bench.offer import offer

    if settings.workers is None:
        yield offer
        return
    from penstock.lab.bench.slo import Slo
    from penstock.lab.bench.spread.cluster import workers

    if not quiet:
        note(f"Starting {settings.workers} workers on Ray{f' at {settings.ray}' if settings.ray else ''} ...")
    # Threads of Ray print what happens to its processes; standard output is for results.
    with redirect_stdout(sys.stderr), workers(settings.workers, settings.ray) as members:
        from penstock.lab.bench.spread.ray_workers import Spread

        if not quiet:
            hosts: dict[str, int] = {}
            for member in members:
                hosts[member.about["host"]] = hosts.get(member.about["host"], 0) + 1
            note("Workers: " + ", ".join(f"{count} on {host}" for host, count in hosts.items()) + ".")
        slo = None if settings.slo is None else Slo.parse(settings.slo)
        yield Spread(members, slo=slo, raw=settings.raw if columns is None else columns)
