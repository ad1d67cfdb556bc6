"""How far `penstock bench run` and the engine's own sums and counts are apart, on the same requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.errors import BenchmarkError
from benchmarks.scenarios.base import make_record, penstock
from penstock.core.record import Metric, Record
from penstock.lab.bench.agreement import pairs
from penstock.lab.bench.run import measure as offered
from penstock.lab.bench.scrape import Scraper
from penstock.lab.bench.settings import BenchSettings
from penstock.lab.bench.setup import set_up

if TYPE_CHECKING:
    from benchmarks.scenarios.base import Setting

NAME = "agreement"
_LOADS: dict[str, dict[str, object]] = {
    "closed": {"concurrency": 4, "requests": 80},
    "open": {"rate": 2.0, "requests": 80},
}
_LENGTHS = {"input_tokens": "128", "output_tokens": "64"}
_BODY = {"min_tokens": 64}  # an ignored end of text has no text: the server counts it, the client can't see it


def measure(setting: Setting) -> list[Record]:
    """Each load as often as repeats are asked for; a sample is a repeat's difference, as a share of the server's."""
    samples: dict[str, tuple[str, list[float]]] = {}
    flaws: list[str] = []
    with penstock(setting, "--threads", "1") as engine:  # a core for the client and the event loops
        for number, (load, options) in enumerate(_LOADS.items()):
            settings = BenchSettings.read(
                None,
                url=f"http://127.0.0.1:{engine.port}",
                seed=setting.prompts.seed + number * setting.repeats,
                repeats=setting.repeats,
                body=_BODY,
                **_LENGTHS,
                **options,
            )
            setup = set_up(settings)
            scraper = Scraper.find(setup.endpoint)
            if scraper is None:
                raise BenchmarkError("The engine has no /metrics.")
            measured = offered(
                setup.endpoint, setup.workload, setup.arrivals, setup.manner,
                count=setup.count, repeats=setup.repeats, scraper=scraper,
            )  # fmt: skip
            flaws += [f"{load}: {reason}" for reason in measured.invalid]
            for run in measured.runs:
                for pair in pairs(run):
                    for side, value in (("client", pair.client), ("server", pair.server)):
                        samples.setdefault(f"{load}_{pair.name}_{side}", (pair.unit, []))[1].append(value)
                    samples.setdefault(f"{load}_{pair.name}_difference", ("1", []))[1].append(pair.difference)
    metrics = [Metric.from_samples(name, unit, values) for name, (unit, values) in samples.items()]
    notes = (
        "A difference is (client - server) / server, over all requests of a repeat, warm-up included. The client counts"
        " from when a request was due to its text's arrival, the server from the request's arrival to the token.",
        *(f"The client was late. {flaw}" for flaw in flaws),
    )
    return [make_record(setting, engine, NAME, {"loads": _LOADS, "body": _BODY, **_LENGTHS}, metrics, notes)]
