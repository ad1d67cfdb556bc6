"""An ensemble in the hands of one request: what its steps did and how long they took."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from penstock.server.responses import StepReport
from penstock.telemetry import metrics as table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from msgspec import UnsetType

    from penstock.server.ensembles.declared import Ensemble, Step
    from penstock.telemetry.metrics import Metrics


class EnsembleInUse:
    """Reports of one request's steps.

    Args:
        ensemble: which.
        use: gives the model of a step by its name.
        metrics: where times are counted; only those of steps that were finished.
    """

    def __init__(self, ensemble: Ensemble, use: Callable[[str], Awaitable[Any]], metrics: Metrics) -> None:
        self.ensemble = ensemble
        self.use = use
        self.reports: list[StepReport] = []
        self._seconds = metrics.histogram(table.ENSEMBLE_STEP)

    @property
    def ended(self) -> bool:
        """Whether all steps are done."""
        return len(self.reports) == len(self.ensemble.steps)

    @property
    def server_timing(self) -> str:
        """The steps so far as a header (https://www.w3.org/TR/server-timing/), in milliseconds."""
        return ", ".join(f"{report.step};dur={report.seconds * 1000:.1f}" for report in self.reports)

    def end(self, step: Step, seconds: float, kept: list[int] | UnsetType = UNSET) -> None:
        """A step is done; `kept` are the documents that go on, if it orders them."""
        self._seconds.labels(self.ensemble.name, step.kind, step.model).observe(seconds)
        self.reports.append(StepReport(step=step.kind, model=step.model, seconds=round(seconds, 6), kept=kept))

    def generating(self) -> Callable[[], None]:
        """The last step begins; call the result when its last token is there."""
        began = time.monotonic()
        return lambda: self.end(self.ensemble.steps[-1], time.monotonic() - began)
