"""What each repeat of a measurement gave: the values that pairs are made of."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.core.record import SAMPLES_KEPT
from penstock.lab.journal.fields import metric_of, split_metric

if TYPE_CHECKING:
    from penstock.core.record import Metric, Record
    from penstock.lab.journal.evidence import Exhibit


class Repeats:
    """Of one Record, metric by metric."""

    def __init__(self, exhibit: Exhibit) -> None:
        self._exhibit = exhibit

    def of(self, metric: str) -> tuple[float, ...]:
        """`metric` ("ttft.p99") of each repeat: its samples if they are repeats, or what was seen of each, attached.

        Inter-token latency is of all tokens of a repeat, as in the Record. A mean for each request first would be
        TPOT, of which there are pairs anyway, and would hide the long gaps.

        Nothing if neither is there.
        """
        found = metric_of(self._exhibit.record, metric)
        if found is None:
            return ()
        if found[0].samples and are_repeats(self._exhibit.record, found[0].n):
            return found[0].samples
        name, statistic = split_metric(metric)
        values = [float(getattr(seen[name], statistic)) for seen in self._attached if name in seen]
        return tuple(values) if len(values) == len(self._attached) else ()

    @cached_property
    def _attached(self) -> list[dict[str, Metric]]:
        """A repeat's metrics by name; empty if fewer than two repeats are attached, or they aren't what they were."""
        record, folder = self._exhibit.record, self._exhibit.path.parent
        files = [file.path for file in record.files if file.path.endswith(".npz")]
        if len(files) < 2:
            return []
        from penstock.lab.bench.observations import Observations
        from penstock.lab.bench.records import metrics_of

        try:
            runs = [Observations.load(folder / file) for file in files]
        except InvalidRequestError:  # changed since, which `check` tells
            return []
        return [{metric.name: metric for metric in metrics_of([run])} for run in runs]


def are_repeats(record: Record, n: int) -> bool:
    """Whether n samples are so many as the workload says it was repeated; of requests there are more."""
    work = record.workload.parameters
    counts = [value for name in ("repeats", "rounds") if isinstance(value := work.get(name), int)]
    return 2 <= n <= SAMPLES_KEPT and (not counts or n in (*counts, math.prod(counts)))
