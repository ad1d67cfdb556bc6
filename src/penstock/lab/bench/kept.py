"""A measurement of `bench run` as a record: what was asked in full, and what the server said of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.core.record import Metric
from penstock.lab.bench.records import record_of, save, subject_of
from penstock.lab.bench.workloads.wordlist import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.core.record import Record
    from penstock.lab.bench.run import Measured
    from penstock.lab.bench.scrape import Scraper
    from penstock.lab.bench.settings import BenchSettings
    from penstock.lab.bench.setup import Setup


def keep(
    measured: Measured, settings: BenchSettings, setup: Setup, scraper: Scraper | None, folder: Path | None
) -> tuple[Path | None, Record]:
    """Make the record, and write it where there is a folder.

    Raises:
        RecordError: the folder can't be written.
    """
    subject = subject_of(measured.endpoint, setup.told, scraper)
    parameters = {"settings": settings.describe()}
    metrics, command, notes = server_metrics(measured), settings.command(), list(setup.notes)
    failed = sum(run.meta.get("server", {}).get("failed_scrapes", 0) for run in measured.runs)
    if failed:
        notes.append(f"The server's metrics couldn't be read {failed} times.")
    tokenizer = None if settings.tokenizer is None else load_tokenizer(settings.tokenizer)
    if folder is None:
        record = record_of(
            measured, subject=subject, command=command, parameters=parameters, metrics=metrics, notes=notes,
            tokenizer=tokenizer,
        )  # fmt: skip
        return None, record
    return save(
        measured, folder, subject=subject, command=command, parameters=parameters, metrics=metrics, notes=notes,
        tokenizer=tokenizer,
    )  # fmt: skip


def server_metrics(measured: Measured) -> tuple[Metric, ...]:
    """The server's own means and increases, named `server_...`, and percentiles of its queue, `server_queue_p99`.

    One sample a repeat, warm-up included.
    """
    samples: dict[tuple[str, str], list[float]] = {}
    for run in measured.runs:
        told = run.meta.get("server")
        if told is None:
            continue
        for name, mean in told["means"].items():
            samples.setdefault((f"server_{name}", "s"), []).append(mean["mean"])
        for percentile, value in told.get("queue", {}).items():
            samples.setdefault((f"server_queue_{percentile}", "s"), []).append(value)
        for name, increase in told["increases"].items():
            if increase is not None:
                unit = "tokens" if name.endswith("tokens") or name.startswith("prefix") else "requests"
                samples.setdefault((f"server_{name}", unit), []).append(increase)
    return tuple(Metric.from_samples(name, unit, values) for (name, unit), values in samples.items())
