"""Parts of a Record by name, for tables and plots.

subject.name  subject.version  config.dtype      a key of the subject's configuration
workload.name workload.seed    workload.rate     a key of the workload's parameters
machine       machine.kernel   git.commit        and `name`, that of the Record's file
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from penstock.core.errors import InvalidRequestError
from penstock.lab.journal.truth import STATISTICS
from penstock.lab.journal.units import dimension_of

if TYPE_CHECKING:
    from penstock.core.machine import Machine
    from penstock.core.record import Metric, Record
    from penstock.lab.journal.evidence import Exhibit

_ROOTS = ("subject", "config", "workload", "machine", "git")


def value_of(exhibit: Exhibit, path: str) -> Any:
    """None if the Record hasn't it. Raises InvalidRequestError for a name of which no Record could have anything."""
    record = exhibit.record
    root, _, key = path.partition(".")
    if path == "name":
        return exhibit.name
    if path == "machine":
        return machine_name(record.machine)
    if root not in _ROOTS or not key:
        raise InvalidRequestError(
            f"{path!r} is no part of a Record: name, machine, or one of {', '.join(_ROOTS)} with a dot and a name.",
            param=path,
        )
    if root == "config":
        return _dig(record.subject.configuration, key)
    owner = getattr(record, root)
    if root == "workload" and key not in ("name", "seed"):
        return _dig(record.workload.parameters, key)
    return getattr(owner, key, None)


def machine_name(machine: Machine) -> str:
    """As short as tables need it: what computes, and how much of it."""
    if machine.gpus:
        names = [gpu.name for gpu in machine.gpus]
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    cores = machine.usable_cpus if machine.cgroup_cpus is None else min(machine.usable_cpus, machine.cgroup_cpus)
    amx = ", AMX" if "amx_int8" in machine.cpu_flags else ""
    return f"{cores:g} cores of {machine.cpu_model}{amx}"


def split_metric(path: str) -> tuple[str, str]:
    """ "ttft.p99" -> ("ttft", "p99"); the median if no statistic is named."""
    name, dot, statistic = path.rpartition(".")
    return (name, statistic) if dot and statistic in STATISTICS else (path, "p50")


def metric_of(record: Record, path: str) -> tuple[Metric, float] | None:
    """The metric and its statistic that "ttft.p99" names; None if the Record hasn't it."""
    name, statistic = split_metric(path)
    metric = next((metric for metric in record.metrics if metric.name == name), None)
    return (metric, float(getattr(metric, statistic))) if metric else None


def converted(value: float, metric: Metric, unit: str) -> float:
    """A value of a metric in another unit of the same dimension. Raises InvalidRequestError if it is of another."""
    if not unit or unit == metric.unit:
        return value
    (own, factor), (wanted, divisor) = dimension_of(metric.unit), dimension_of(unit)
    if own != wanted:
        raise InvalidRequestError(f"{metric.name} is in {metric.unit}, which is no {unit}.", param="unit")
    return value * factor / divisor


def written(value: float, digits: int = 4) -> str:
    """With so many significant digits (more before the point if it is great), no exponent, commas at thousands."""
    if value == 0:
        return "0"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{decimals}f}"


def higher_is_better(name: str, unit: str) -> bool:
    """Whether more of a metric is what one wants: rates and shares of what went well, and not times, sizes, errors."""
    if "error" in name or "fail" in name:
        return False
    return unit.endswith("/s") or any(
        word in name for word in ("throughput", "goodput", "speed", "accepted", "agreement", "bandwidth")
    )


def _dig(values: dict[str, Any], key: str) -> Any:
    if key in values:
        return values[key]
    first, dot, rest = key.partition(".")
    inner = values.get(first)
    return _dig(inner, rest) if dot and isinstance(inner, dict) else None
