"""Where things lie in a journal, and how one is found.

journal/journal.toml       settings, all of which have defaults; marks the folder
journal/JOURNAL_INDEX.md   generated
journal/days/day-001-huge-pages/{LOG.md,TODO.md,metrics.json,code/}
journal/topics/paging/{overview.md,gotchas.md,examples/}
journal/benchmarks/        Records, and plots/ drawn from them; raw/, wherever it is, holds none
journal/scripts/
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from penstock.core.errors import ConfigError, InvalidRequestError, NotFoundError
from penstock.core.suggest import did_you_mean

SETTINGS = "journal.toml"
INDEX = "JOURNAL_INDEX.md"
RAW = "raw"  # a folder of what programs wrote, from which Records were made: nothing in it is a Record
SLUG_MOST = 60  # characters of a name made from words
_DAY = re.compile(r"day-(\d{3,})-([a-z0-9]+(?:-[a-z0-9]+)*)")
_LIKELY = ("", "journal", "benchmarks")  # where, in each folder from here upwards, a journal is looked for


class PlotSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One plot that is drawn from Records; paths and patterns are relative to the folder of Records."""

    name: str  # of the file, without its suffix
    records: str
    metric: str  # "output_throughput", or "ttft.p99"; the median unless told otherwise
    x: str = "workload.concurrency"
    by: str = "subject.name"
    title: str = ""


class JournalSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `journal.toml` may hold."""

    benchmarks: str = "benchmarks"  # the folder of Records, relative to the journal's
    pages: tuple[str, ...] = ()  # beyond the journal, whose generated parts come from its Records; patterns
    plot: tuple[PlotSettings, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Day:
    """One entry; not a calendar day but a question that was worked on."""

    number: int
    topic: str
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def log(self) -> Path:
        return self.folder / "LOG.md"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"


@dataclass(frozen=True, slots=True)
class Journal:
    root: Path
    settings: JournalSettings

    @classmethod
    def open(cls, root: Path) -> Journal:
        """Raises ConfigError if its settings can't be read, NotFoundError if there is no such folder."""
        if not root.is_dir():
            raise NotFoundError(f"There is no folder {root}; penstock journal new starts a journal.", param="journal")
        path = root / SETTINGS
        try:
            settings = msgspec.convert(tomllib.loads(path.read_text()) if path.exists() else {}, JournalSettings)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise ConfigError(f"{path} can't be used: {error}.", param="journal") from error
        return cls(root.resolve(), settings)

    @classmethod
    def find(cls, given: Path | None = None, start: Path | None = None) -> Journal:
        """The journal in `given`, or the nearest from `start` (default: the working directory) upwards.

        Raises NotFoundError if there is none.
        """
        if given is not None:
            return cls.open(given)
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            for name in _LIKELY:
                if (folder / name / SETTINGS).is_file():
                    return cls.open(folder / name)
        raise NotFoundError(
            f"No journal was found from {here} upwards. Start one with penstock journal new TOPIC, or name it with"
            " --journal.",
            param="journal",
        )

    @property
    def benchmarks(self) -> Path:
        return (self.root / self.settings.benchmarks).resolve()

    @property
    def plots(self) -> Path:
        return self.benchmarks / "plots"

    @property
    def topics(self) -> list[Path]:
        """The folders of curated knowledge, by name."""
        return sorted(path for path in (self.root / "topics").glob("*") if path.is_dir())

    @property
    def days(self) -> list[Day]:
        """In order. Two may have one number, if branches that both began a day were merged: `check` tells."""
        folders = (folder for folder in (self.root / "days").glob("day-*") if folder.is_dir())
        return sorted(
            Day(int(match[1]), match[2], folder) for folder in folders if (match := _DAY.fullmatch(folder.name))
        )

    def day(self, name: str) -> Day:
        """By number ("7", "007"), by folder ("day-007-paging") or by topic ("paging").

        Raises NotFoundError if there is none, InvalidRequestError if there are several.
        """
        days = self.days
        bare = name.rstrip("/").rpartition("/")[2]
        number = int(match[1]) if (match := re.fullmatch(r"(?:day-)?(\d+)", bare)) else None
        topic = topic_slug(bare) if re.search(r"[A-Za-z0-9]", bare) else bare
        found = [day for day in days if number == day.number or bare == day.name or topic == day.topic]
        if len(found) > 1:
            raise InvalidRequestError(f"{name!r} may be {' or '.join(day.name for day in found)}.", param="day")
        if not found:
            raise NotFoundError(
                f"The journal has no day {name!r}.{did_you_mean(bare, [day.topic for day in days])}", param="day"
            )
        return found[0]

    def newest_day(self) -> Day:
        """Raises NotFoundError if there is none yet."""
        if days := self.days:
            return days[-1]
        raise NotFoundError("The journal has no day yet: penstock journal new TOPIC begins one.", param="day")

    def pages(self) -> list[Path]:
        """Every Markdown file that people write: logs, topics, and the pages that the settings name."""
        own = [*self.root.glob("days/*/LOG.md"), *self.root.glob("topics/**/*.md")]
        further = [path for pattern in self.settings.pages for path in _matching(self.root, pattern)]
        return sorted({path.resolve() for path in (*own, *further)})

    def shown(self, path: Path) -> str:
        """How a path is named to people: from the journal's parent on."""
        try:
            return path.resolve().relative_to(self.root.parent).as_posix()
        except ValueError:
            return path.name


def topic_slug(text: str) -> str:
    """ "Huge pages (again)" -> "huge-pages-again". Raises InvalidRequestError if nothing is left."""
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub("['’]", "", text.lower())).strip("-")[:SLUG_MOST].strip("-")
    if not slug:
        raise InvalidRequestError(f"A topic needs letters or digits; got {text!r}.", param="topic")
    return slug


def json_below(folder: Path) -> list[Path]:
    """The files that ought to be Records or attached to one, by name."""
    return sorted(path for path in folder.rglob("*.json") if RAW not in path.relative_to(folder).parts[:-1])


def _matching(root: Path, pattern: str) -> list[Path]:
    base = root
    while pattern.startswith("../"):  # which glob() doesn't follow
        base, pattern = base.parent, pattern[3:]
    return sorted(base.glob(pattern))
