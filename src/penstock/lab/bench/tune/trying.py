"""One run of one choice of settings: the server started with them, asked, judged and stopped."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from penstock.core.errors import PenstockError
from penstock.engine.settings import EngineSettings
from penstock.lab.bench.compare.judging import figures_of, reasons_against
from penstock.lab.bench.engines.base import SERVED, Common, Engine, Launch
from penstock.lab.bench.engines.penstock import Penstock
from penstock.lab.bench.engines.running import running
from penstock.lab.bench.run import for_repeat, measure
from penstock.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from penstock.lab.bench.endpoint import Api
    from penstock.lab.bench.engines.model import ModelForms
    from penstock.lab.bench.engines.place import Place
    from penstock.lab.bench.engines.running import Up
    from penstock.lab.bench.offer import Progress
    from penstock.lab.bench.run import Measured
    from penstock.lab.bench.setup import Load
    from penstock.lab.bench.tune.objective import Objective
    from penstock.lab.bench.tune.space import Settings

_TRIES = 2  # of a run whose client was late or short of CPU


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Run:
    """What came of it. With `failed` there is nothing else."""

    measured: Measured | None
    figure: float | None  # of the objective
    figures: Mapping[str, float]  # all others
    against: tuple[str, ...] = ()  # why it can't be believed, for what the client did
    failed: str = ""  # why the server can't be used with these settings
    configuration: Mapping[str, Any]
    seconds: float  # with the start


class Trier:
    """Takes runs of one load, each of a server that is started for it.

    Args:
        fixed: settings of every run.
        engine: what is started; Penstock from the environment that runs this.
    """

    def __init__(
        self,
        load: Load,
        objective: Objective,
        model: ModelForms,
        place: Place,
        *,
        fixed: Mapping[str, Any],
        api: Api = "completions",
        body: Mapping[str, Any] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        engine: Engine | None = None,
    ) -> None:
        self._load = load
        self._objective = objective
        self._model = model
        self._place = place
        self._fixed = fixed
        self._common = Common(api=api)
        self._body = body
        self._on_progress = on_progress
        self._engine = engine or Tuned()

    def run(self, settings: Settings, repeat: int, name: str) -> Run:
        """Of the requests of that repeat.

        A server that doesn't come up, ends, or fails requests is a result. Raises KeyboardInterrupt when cut.
        """
        began = time.monotonic()
        given = dict(self._fixed) | settings
        measured: Measured | None = None
        try:
            for _ in range(_TRIES):
                with self._up(given, name) as up:
                    measured = self._measure(up, repeat)
                    if up.child is not None:
                        up.child.check_alive()
                if not measured.invalid:
                    break
        except PenstockError as error:
            return Run(
                measured=None, figure=None, figures={}, failed=error.message, configuration=given,
                seconds=time.monotonic() - began,
            )  # fmt: skip
        assert measured is not None
        run, slo = measured.runs[0], self._load.slo
        run.meta["repeat"] = repeat
        reasons, late = reasons_against(run, slo), tuple(measured.invalid)
        failures = [reason for reason in reasons if reason not in late]
        return Run(
            measured=measured, figure=None if reasons else self._objective.of(run, slo), figures=figures_of(run, slo),
            against=late, failed=" ".join(failures), configuration=given, seconds=time.monotonic() - began,
        )  # fmt: skip

    @contextmanager
    def _up(self, given: Mapping[str, Any], name: str) -> Iterator[Up]:
        options = {"settings": json.dumps(given)}
        try:
            with running(self._engine, self._place, self._model, self._common, options=options, name=name) as up:
                body = {**up.endpoint.body, **(self._body or {})}
                yield replace(up, endpoint=replace(up.endpoint, body=body))
        finally:
            _settings_file(self._place).unlink(missing_ok=True)

    def _measure(self, up: Up, repeat: int) -> Measured:
        load, told = self._load, self._on_progress
        measured = measure(
            up.endpoint, for_repeat(load.workload, repeat), load.arrivals, load.manner, count=load.count, slo=load.slo,
            on_progress=None if told is None else lambda _repeat, seen: told(seen),
        )  # fmt: skip
        if measured.cut:
            raise KeyboardInterrupt
        return measured


class Tuned(Penstock):
    """Penstock with nothing but a settings file of its own, as the winner's file will be used.

    `options` has one entry, `settings`: a JSON object of engine settings.
    """

    summary: ClassVar[str] = "this program's own server, as its settings file says"

    def plan(self, place: Place, model: ModelForms, common: Common, options: Mapping[str, str], port: int) -> Launch:  # noqa: ARG002 - the interface
        settings = json.loads(options["settings"])
        place.logs.mkdir(parents=True, exist_ok=True)
        file = _settings_file(place)
        file.write_text(toml(settings), encoding="utf-8")
        command = [sys.executable, "-m", "penstock.cli", "serve", str(model.path), "--port", str(port)]
        return Launch(
            command=(*command, "--served-model-name", SERVED), port=port,
            env={"PENSTOCK_CONFIG": str(file), **_unset()}, configuration=settings,
        )  # fmt: skip


def _settings_file(place: Place) -> Path:
    """Of the server that is up."""
    return place.logs / f"tune-{os.getpid()}.toml"


def toml(settings: Mapping[str, Any]) -> str:
    """The table [engine] of a settings file."""
    lines = [f"{name} = {_written(value)}" for name, value in settings.items() if value is not None]
    return "\n".join(["[engine]", *lines]) + "\n"


def _written(value: Any) -> str:
    if isinstance(value, list | tuple):  # names and paths
        value = ["=".join(pair) for pair in value]
    return json.dumps(value, ensure_ascii=False)


def _unset() -> dict[str, str]:
    """The caller's PENSTOCK_* settings would be part of every trial, and of no file that is written."""
    names = "|".join([*EngineSettings.names(), *ServerSettings.names()])
    return {name: "" for name in os.environ if re.fullmatch(f"PENSTOCK_({names})", name, re.IGNORECASE)}
