"""The one measurement record: what was measured, on what, under which workload, and what came out.

Every table, plot and gate reads these files, so an impossible value is refused where it enters: when a
record is built, and again when one is read.

    samples = [31.2, 30.8, 31.5]
    record = Record(
        subject=Subject("penstock", "0.1.0", {"dtype": "bfloat16"}),
        workload=Workload("chat", seed=7, parameters={"concurrency": 8}),
        machine=fingerprint(),
        git=git_state(),
        metrics=(Metric.from_samples("output_throughput", "tokens/s", samples),),
    )
    record.save(Path("chat.json"))
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import math
import os
import re
import subprocess
import tempfile
from array import array
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from penstock.core.errors import RecordError
from penstock.core.estimate import CONFIDENCE, interval_of_mean, percentile
from penstock.core.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

SCHEMA_VERSION = 2  # 1 had no intervals of percentiles, samples, flaws, command, packages or governor; it is still read
_READABLE = (1, SCHEMA_VERSION)
SAMPLES_KEPT = 64  # of a metric: repeats and rounds are kept one by one, requests are not


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A two-sided confidence interval of a metric's mean, or of one of its percentiles.

    `method` is "t" (Student's t) or "bootstrap" (percentile bootstrap with a fixed seed; Efron and
    Tibshirani, An Introduction to the Bootstrap, chapter 13), which both take the samples as independent, "sections"
    (of a mean: Student's t over consecutive parts of the run, so that requests that waited for each other count for
    less), "ranks" (of a percentile: order statistics, by ranks that allow for the same) or "posterior" (of a limit:
    what is believed of it after all of a sweep's points).
    """

    low: float
    high: float
    level: float
    method: Literal["t", "bootstrap", "sections", "ranks", "posterior"]

    def __post_init__(self) -> None:
        _require_finite("confidence interval", low=self.low, high=self.high, level=self.level)
        if self.low > self.high:
            raise RecordError(f"A confidence interval runs from {self.low} down to {self.high}.")
        if not 0 < self.level < 1:
            raise RecordError(f"A confidence level lies between 0 and 1; got {self.level}.")


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured quantity over `n` samples. Percentiles interpolate linearly between order statistics."""

    name: str
    unit: str  # "s", "bytes", "tokens/s"; "1" for a ratio or a share
    n: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    min: float
    max: float
    ci: Interval | None = None  # of the mean; None with a single sample
    intervals: dict[str, Interval] = {}  # of percentiles, by field: "p99"; those that so few samples can't tell lack
    samples: tuple[float, ...] = ()  # all of them in the order they came, if `SAMPLES_KEPT` or fewer; pairs need them

    def __post_init__(self) -> None:
        where = f"metric {self.name!r}"
        _require_text("A metric's name", self.name)
        _require_text(f"The unit of {where}", self.unit)
        if not isinstance(self.n, int) or isinstance(self.n, bool) or self.n < 1:
            raise RecordError(f"The number of samples of {where} is a whole number from 1 up; got {self.n!r}.")
        ladder = {"min": self.min, "p50": self.p50, "p90": self.p90, "p95": self.p95, "p99": self.p99, "max": self.max}
        _require_finite(where, mean=self.mean, **ladder)
        for (lower, a), (upper, b) in itertools.pairwise(ladder.items()):
            if a > b:
                raise RecordError(f"In {where}, {lower} ({a}) is above {upper} ({b}).")
        if not self.min <= self.mean <= self.max:
            raise RecordError(f"In {where}, the mean ({self.mean}) lies outside {self.min} to {self.max}.")
        if self.n == 1 and self.min != self.max:
            raise RecordError(f"In {where}, a single sample can't have a smallest and a largest value that differ.")
        for name in self.intervals:
            if name not in ("p50", "p90", "p95", "p99"):
                raise RecordError(f"{where.capitalize()} has an interval of {name!r}, which is no percentile of it.")
        if self.samples and (len(self.samples), min(self.samples), max(self.samples)) != (self.n, self.min, self.max):
            raise RecordError(f"The samples of {where} are not the {self.n} from {self.min} to {self.max} it sums up.")

    @classmethod
    def from_samples(cls, name: str, unit: str, samples: Iterable[float], *, seed: int = 0) -> Self:
        """Summarise samples, all of the unit `unit`.

        The interval is Student's t below 30 and above 10 000 samples, and between them a percentile bootstrap of
        2000 resamples drawn from `seed`: the same samples give the same record. Where samples depend on
        each other (tokens of one stream), give one figure a repeat to get an interval that means something.

        Raises:
            RecordError: no samples, or one that is not a finite number.
        """
        try:
            values = array("d", samples).tolist()
        except (TypeError, OverflowError) as error:
            raise RecordError(f"The samples of metric {name!r} are not all numbers: {error}.") from error
        if not values:
            raise RecordError(f"Metric {name!r} needs at least one sample.")
        for i, value in enumerate(values):
            if not math.isfinite(value):
                raise RecordError(f"Sample {i} of metric {name!r} is {value}; a sample is a finite number.")
        ordered = sorted(values)
        p50, p90, p95, p99 = (percentile(ordered, percent) for percent in (50, 90, 95, 99))
        mean = min(max(math.fsum(values) / len(values), ordered[0]), ordered[-1])  # division may leave the range
        estimate = interval_of_mean(values, mean, seed)
        ci = None if estimate is None else Interval(*estimate[:2], CONFIDENCE, estimate[2])
        return cls(
            name=name, unit=unit, n=len(values), mean=mean, p50=p50, p90=p90, p95=p95, p99=p99,
            min=ordered[0], max=ordered[-1], ci=ci,
            samples=tuple(values) if len(values) <= SAMPLES_KEPT else (),
        )  # fmt: skip


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured: a program or a part of one, its version, and every setting that was chosen."""

    name: str
    version: str
    configuration: dict[str, Any] = {}  # JSON values

    def __post_init__(self) -> None:
        _require_text("A subject's name", self.name)
        _require_text(f"The version of {self.name!r}", self.version)
        _require_json(f"configuration of {self.name}", self.configuration)


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What it was made to do; with the seed, the same work can be made again."""

    name: str
    seed: int
    parameters: dict[str, Any] = {}  # JSON values

    def __post_init__(self) -> None:
        _require_text("A workload's name", self.name)
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise RecordError(f"The seed of workload {self.name!r} is a whole number; got {self.seed!r}.")
        _require_json(f"parameters of {self.name}", self.parameters)


class GitState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The code that measured: its commit, and whether tracked files differed from it."""

    commit: str
    dirty: bool

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", self.commit):
            raise RecordError(f"A git commit is 40 or 64 hexadecimal digits; got {self.commit!r}.")


class Attachment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that belongs to a record; its path is relative to the record's own folder."""

    path: str
    sha256: str
    nbytes: int

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if not self.path or path.is_absolute() or ".." in path.parts or "\\" in self.path:
            raise RecordError(f"A record's file lies in the record's folder or below it; got {self.path!r}.")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise RecordError(f"The SHA-256 of {self.path!r} is 64 hexadecimal digits; got {self.sha256!r}.")
        if self.nbytes < 0:
            raise RecordError(f"The size of {self.path!r} is not negative; got {self.nbytes}.")

    @classmethod
    def of(cls, file: Path, folder: Path) -> Self:
        """Describe `file` for a record that is saved in `folder`. Raises RecordError if it can't be read."""
        try:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            relative = file.resolve().relative_to(folder.resolve())
        except OSError as error:
            raise RecordError(f"The record's file {file} can't be read: {error.strerror}.") from error
        except ValueError as error:
            raise RecordError(f"The record's file {file} lies outside the record's folder {folder}.") from error
        return cls(relative.as_posix(), digest, file.stat().st_size)


class Flaw(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why the figures of a record are not to be quoted: the run was ended early, or can't be believed."""

    kind: Literal["cut", "invalid"]
    reason: str

    def __post_init__(self) -> None:
        _require_text("The reason of a flaw", self.reason)


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measurement, complete enough to be judged and repeated by someone else."""

    subject: Subject
    workload: Workload
    machine: Machine
    git: GitState | None  # None: not run from a checkout
    metrics: tuple[Metric, ...]
    files: tuple[Attachment, ...] = ()
    notes: tuple[str, ...] = ()  # what a reader must know to read the figures rightly
    flaws: tuple[Flaw, ...] = ()  # empty: the figures may be quoted
    command: tuple[str, ...] = ()  # that made it, without secrets and without where results go; () if none can
    packages: dict[str, str] = {}  # distributions that took part -> their versions
    created: datetime.datetime = msgspec.field(default_factory=lambda: datetime.datetime.now(datetime.UTC))
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _require_schema(self.schema_version)
        if self.created.tzinfo is None:
            raise RecordError("A record's creation time needs a time zone.")
        if not self.metrics:
            raise RecordError(f"The record of {self.subject.name!r} has no metrics.")
        names = [metric.name for metric in self.metrics]
        for name in names:
            if names.count(name) > 1:
                raise RecordError(f"The record of {self.subject.name!r} has two metrics called {name!r}.")

    def metric(self, name: str) -> Metric:
        """Raises RecordError, with the names there are, if there is no such metric."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        known = ", ".join(metric.name for metric in self.metrics)
        raise RecordError(f"The record of {self.subject.name!r} has no metric {name!r}; it has {known}.")

    def to_json(self) -> bytes:
        """UTF-8 JSON, indented for people and diffs, with a final newline."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def from_json(cls, data: bytes | str, *, source: str = "a record") -> Self:
        """Raises RecordError, naming `source` and the field, if anything is missing, unknown or impossible."""
        try:
            _require_schema(msgspec.json.decode(data, type=_Header).schema_version)
            return msgspec.structs.replace(msgspec.json.decode(data, type=cls), schema_version=SCHEMA_VERSION)
        except (msgspec.DecodeError, UnicodeDecodeError, RecordError) as error:
            raise RecordError(f"{source} is not a record that can be used: {error}") from error

    def save(self, path: Path) -> None:
        """Write the record, whole or not at all. Raises RecordError if the folder can't be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as temporary:
                try:
                    temporary.write(self.to_json())
                    temporary.flush()
                    Path(temporary.name).chmod(0o666 & ~_umask())  # a temporary file is private, a record isn't
                    Path(temporary.name).replace(path)
                except BaseException:
                    Path(temporary.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise RecordError(f"The record {path} can't be written: {error.strerror}.") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises RecordError if the file can't be read or isn't a record."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RecordError(f"The record {path} can't be read: {error.strerror}.") from error
        return cls.from_json(data, source=str(path))

    def verify_files(self, folder: Path) -> None:
        """Raises RecordError unless every attached file is in `folder` as it was when the record was made."""
        for file in self.files:
            if Attachment.of(folder / file.path, folder) != file:
                raise RecordError(f"The file {file.path!r} has changed since its record was written.")


class _Header(msgspec.Struct):
    schema_version: int


def git_state(folder: Path | None = None) -> GitState | None:
    """The commit checked out in `folder` (default: where this package lies); None outside a checkout."""
    folder = folder or Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return GitState(commit, dirty=bool(_git(folder, "status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or none with a commit
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ("git", "-C", str(folder), *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def _umask() -> int:
    mask = os.umask(0o022)  # the only way to read it is to set it
    os.umask(mask)
    return mask


def _require_schema(version: int) -> None:
    if version not in _READABLE:
        readable = " and ".join(map(str, _READABLE))
        advice = " Update Penstock to read it." if version > SCHEMA_VERSION else ""
        raise RecordError(f"It follows schema {version} and this Penstock reads schemas {readable}.{advice}")


def _require_text(what: str, value: str) -> None:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise RecordError(f"{what} is printable text; got {value!r}.")


def _require_finite(where: str, **values: float) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RecordError(f"In {where}, {name} is a finite number; got {value!r}.")


def _require_json(where: str, value: Any) -> None:
    """Refuse what JSON can't hold; msgspec would write NaN as null and say nothing."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise RecordError(f"The {where} has a key that is no text: {key!r}.")
            _require_json(f"{where}, {key}", item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_json(where, item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"The {where} holds {value}, which is no finite number.")
    elif not isinstance(value, str | int | float | bool | None):
        raise RecordError(f"The {where} holds a {type(value).__name__}, which JSON can't.")
