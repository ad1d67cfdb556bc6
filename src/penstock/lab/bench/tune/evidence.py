"""What came of a study: a settings file with its evidence, records, a page, JSON."""

from __future__ import annotations

import json
import math
from itertools import islice
from typing import TYPE_CHECKING, Any

from penstock.core.record import Attachment, Metric, Subject
from penstock.lab import exits
from penstock.lab.bench import records
from penstock.lab.bench.folder import write
from penstock.lab.bench.run import Measured, for_repeat
from penstock.lab.bench.tune.journal import NAME as TRIALS
from penstock.lab.bench.tune.search import REPEATS
from penstock.lab.bench.tune.space import changes, default_of, shown
from penstock.lab.bench.tune.study import DEFAULTS, WINNER
from penstock.lab.bench.tune.trying import toml
from penstock.lab.pages import render_html, render_markdown
from penstock.lab.pages.compare_page import words
from penstock.lab.pages.estimates import Estimate
from penstock.lab.pages.tune_page import TriedPoint, TunePage, tune_page
from penstock.lab.statistics import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from penstock.core.record import Interval, Record
    from penstock.lab.bench.tune.search import Trial
    from penstock.lab.bench.tune.settings import Asked
    from penstock.lab.bench.tune.study import Found

_LOOKED_AT = 256  # requests


class Kept:
    """One study, with all that is said of it.

    Args:
        version: of the engine.
        command: that makes the same study.
    """

    def __init__(self, asked: Asked, found: Found, version: str, command: Sequence[str]) -> None:
        self._asked = asked
        self.found = found
        self._version = version
        self._command = tuple(command)

    @property
    def winning(self) -> dict[str, Any]:
        """The settings to use: the winner's if it is better, else none but the defaults."""
        better = self.found.verdict is Verdict.FASTER and self.found.winner is not None
        return dict(self.found.winner.settings) if better and self.found.winner else {}

    @property
    def exit_code(self) -> int:
        if self.found.cut:
            return exits.CUT
        if self.found.verdict is None:
            return exits.INVALID
        return exits.INCONCLUSIVE if self.found.verdict is Verdict.INCONCLUSIVE else 0

    @property
    def said(self) -> str:
        """The result in a sentence."""
        found = self.found
        what = f"{found.objective.words} of {self._asked.load_name}"
        if found.gain is None or found.winner is None:
            if found.cut:
                return "Cut before the verdict: --resume goes on with it."
            return " ".join(found.invalid) or "Nothing but the defaults could be tried, so there is no verdict."
        gain, low, high = found.gain
        interval = f" [{100 * (low or 0):+.1f} to {100 * (high or 0):+.1f} %]" if low is not None else ""
        settings = changes(found.winner.settings)
        direction = "more" if found.objective.higher else "less"
        if found.verdict is Verdict.FASTER:
            return f"{settings}: {100 * gain:.1f} % {direction} {what} than the defaults{interval}."
        if found.verdict is Verdict.EQUIVALENT:
            return (
                f"The defaults are within {100 * found.plan.margin:g} % of the best found in {what}: {settings} has"
                f" {100 * gain:+.1f} %{interval}."
            )
        said = f"Inconclusive in {what}: {settings} has {100 * gain:+.1f} %{interval}"
        if found.winner.failed:
            return f"{said}, but failed in the verdict: {_one_line(found.winner.failed)}"
        return f"{said}. More --rounds may tell."

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        found, search = self.found, self.found.search
        gain = found.gain
        noise, degrees = search.noise()
        return {
            "said": self.said,
            "verdict": None if found.verdict is None else _WORDS[found.verdict],
            "settings": self.winning,
            "objective": {"name": found.objective.name, "unit": found.objective.unit, "higher": found.objective.higher},
            "load": self._asked.load_name,
            "gain": None if gain is None else {"share": gain[0], "interval": None if gain[1] is None else gain[1:]},
            "at_most": found.most,
            "pairs": list(found.pairs),
            "winner": None if found.winner is None else {"trial": found.winner.number, **_trial(self, found.winner)},
            "figures": found.figures,
            "beside": {
                each.figure: {
                    "ratio": each.ratio.estimate, "verdict": each.verdict,
                    "interval": (within.low, within.high) if (within := each.ratio.interval) else None,
                }
                for each in found.beside
            },
            "trials": [{"trial": trial.number, **_trial(self, trial)} for trial in search.trials],
            "importance": search.importance(),
            "noise": {"share": noise, "degrees": degrees},
            "space": search.space.describe(),
            "ended": found.ended,
            "seconds": found.seconds,
            "invalid": list(found.invalid),
            "cut": found.cut,
        }  # fmt: skip

    def save(self, folder: Path) -> list[Path]:
        """`penstock.toml` and a record of each side once there is a verdict; always `tune.html` and `tune.md`.

        Raises RecordError if the folder can't be written.
        """
        written, made = [], []
        result = folder / "result.json"
        write(result, json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")
        for side in (DEFAULTS, WINNER):
            if self.found.runs.get(side) and self.found.verdict is not None:
                path, record = self._record(folder, side, result)
                written.append(path)
                made.append(record)
        if self.found.verdict is not None:
            write(folder / "penstock.toml", self.toml(made[0] if made else None))
            written.insert(0, folder / "penstock.toml")
        document = tune_page(self._page(made))
        for name, content in (
            ("tune.html", render_html.render(document)),
            ("tune.md", render_markdown.render(document)),
        ):
            write(folder / name, content)
            written.append(folder / name)
        return [*written, result]

    def toml(self, record: Record | None) -> str:
        """A settings file: the winner's, or the defaults', and why."""
        found = self.found
        search = found.search
        about = [
            self.said,
            f"By `penstock bench tune`: {len(search.trials) - 1} trials, then {len(found.pairs)} paired rounds of"
            f" {'requests that no trial had' if self._fresh else 'the same requests, measured anew'}.",
            *found.invalid,
        ]
        if record is not None:
            machine = record.machine
            about += [
                f"{record.created:%Y-%m-%d}, penstock {self._version}, {machine.cpu_model}, {machine.usable_cpus} CPUs,"
                f" model {self._asked.tune.model}.",
                "It holds for this load on this machine. Records: tune-defaults.json, tune-winner.json.",
            ]
        worse = [f"{words(each.figure)} {100 * (each.ratio.estimate - 1):+.0f} %" for each in found.beside
                 if each.verdict is Verdict.SLOWER]  # fmt: skip
        if worse and self.winning:
            about.append(f"What it costs: {', '.join(worse)}.")
        settings = {"model": self._asked.tune.model, **search.space.fixed, **self.winning}
        lines = toml(settings).splitlines()
        for at, line in enumerate(lines):
            name = line.partition(" = ")[0]
            if name in self.winning:
                lines[at] = f"{line}  # default: {_plain(shown(name, default_of(name)))}"
        return "\n".join([*(f"# {_one_line(line)}" for line in about), *lines]) + "\n"

    @property
    def _fresh(self) -> bool:
        """Whether the verdict's requests were others than the trials': a file's are the same each time."""
        runs = self.found.runs.get(DEFAULTS)
        if not runs:
            return True
        last = runs[0].workload
        both = last, for_repeat(last, self._asked.bench.seed - last.seed)
        asked, before = ({repr(each.prompt) for each in islice(one.requests(), _LOOKED_AT)} for one in both)
        return asked.isdisjoint(before)

    def _record(self, folder: Path, side: str, result: Path) -> tuple[Path, Record]:
        found = self.found
        measured = found.runs[side]
        first = measured[0]
        together = Measured(
            endpoint=first.endpoint, workload=first.workload, arrivals=first.arrivals, manner=first.manner,
            count=first.count, slo=first.slo, runs=[run for each in measured for run in each.runs],
        )  # fmt: skip
        settings = dict(found.winner.settings) if side == WINNER and found.winner else {}
        metrics = [
            Metric.from_samples(found.objective.name.replace("-", "_") + "_of_runs", found.objective.unit,
                                found.figures[side])
        ]  # fmt: skip
        if side == WINNER:
            metrics.append(
                Metric.from_samples(f"{found.objective.name.replace('-', '_')}_ratio_to_defaults", "1", found.pairs)
            )
        trials = folder / TRIALS
        files = [Attachment.of(path, folder) for path in (result, trials) if path.exists()]
        return records.save(
            together, folder, subject=Subject(f"penstock, {side}", self._version, {
                "settings": settings, "fixed": dict(found.search.space.fixed), "model": self._asked.tune.model,
            }),
            name=f"tune-{side}", command=self._command,
            parameters={"load": self._asked.load_name, "objective": found.objective.name, "margin": found.plan.margin},
            metrics=metrics, files=files, notes=(self.said, *found.invalid),
        )  # fmt: skip

    def _page(self, made: Sequence[Record]) -> TunePage:
        found, search = self.found, self.found.search
        gain = found.gain
        points = [
            TriedPoint(
                number=trial.number, settings=changes(trial.settings), score=_share(search.score(trial)),
                scores=[_share(score) or 0.0 for score in search.scores(trial)],
                figures=[value for _, value in trial.runs], places=[place for place, _ in trial.runs],
                state=self.state(trial), why=trial.failed or "; ".join(trial.wasted),
            )
            for trial in search.trials
        ]  # fmt: skip
        winner = dict(found.winner.settings) if found.winner else {}
        word = None if found.verdict is None else _WORDS[found.verdict]
        return TunePage(
            title=f"{found.objective.words} of {self._asked.load_name}", said=self.said, verdict=word,
            unit=found.objective.unit, figure=found.objective.words, trials=points, noise=search.noise()[0],
            importance=search.importance(),
            winner=[(name, str(shown(name, value)), _plain(shown(name, default_of(name))))
                    for name, value in winner.items()],
            gain=None if gain is None else Estimate(gain[0], "share", gain[1], gain[2]),
            beside=[
                (words(each.figure), Estimate(each.ratio.estimate, "1", *_bounds(each.ratio.interval)), each.verdict)
                for each in found.beside
            ],
            pairs=found.pairs, sides=found.figures, margin=found.plan.margin,
            invalid=found.invalid, cut=found.cut, ended=found.ended, seconds=found.seconds,
            settings=[(name, str(value)) for name, value in self._asked.load.items() if value not in (None, "")],
            space=[(each.name, ", ".join(_plain(shown(each.name, value)) for value in each.values))
                   for each in search.space.searched],
            toml=self.toml(made[0]) if made else "", records=made,
        )  # fmt: skip

    def state(self, trial: Trial) -> str:
        """In a word."""
        search = self.found.search
        if trial is search.defaults:
            return "defaults"
        if trial.failed:
            return "invalid"
        if not trial.runs:
            return "not measured"
        if len(trial.runs) < REPEATS:
            return "one run" if self.found.cut else "dropped"  # a search that ended has made up its mind
        return "measured"


_WORDS: Mapping[Verdict, str] = {
    Verdict.FASTER: "better", Verdict.EQUIVALENT: "defaults are as good", Verdict.INCONCLUSIVE: "inconclusive",
}  # fmt: skip


def _trial(kept: Kept, trial: Trial) -> dict[str, Any]:
    search = kept.found.search
    return {
        "settings": trial.settings, "state": kept.state(trial), "gain": _share(search.score(trial)),
        "figures": [value for _, value in trial.runs], "why": trial.failed or "; ".join(trial.wasted) or None,
    }  # fmt: skip


def _share(score: float | None) -> float | None:
    """Of the defaults' figure: a score of 0.1 is 0.105."""
    return None if score is None else math.expm1(score)


def _bounds(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _one_line(text: str) -> str:
    return " ".join(text.split())
