"""The measurement record: round trips, summaries, intervals, and what it refuses."""

from __future__ import annotations

import datetime
import json
import math
import subprocess
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import RecordError
from penstock.core.machine import Machine
from penstock.core.record import Attachment, GitState, Interval, Metric, Record, Subject, Workload, git_state

if TYPE_CHECKING:
    from pathlib import Path

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12)

MACHINE = Machine(
    cpu_model="Example CPU",
    architecture="x86_64",
    logical_cpus=2,
    usable_cpus=2,
    cpu_flags=("amx_int8", "avx2"),
    last_level_cache_bytes=1 << 20,
    memory_bytes=1 << 34,
    cgroup_cpus=1.5,
    cgroup_memory_bytes=None,
    os="Example OS 1",
    kernel="Linux 6.1",
    python="CPython 3.11.7",
)


def a_record(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "subject": Subject("penstock", "0.1.0", {"dtype": "bfloat16", "threads": None, "flags": ["a", {"b": 1.5}]}),
        "workload": Workload("chat", 7, {"concurrency": 8}),
        "machine": MACHINE,
        "git": GitState("0" * 40, dirty=False),
        "metrics": (Metric.from_samples("ttft", "s", [0.1, 0.3, 0.2]), Metric.from_samples("rss", "bytes", [7])),
        "files": (Attachment("raw/a.json", "f" * 64, 3),),
        "notes": ("shared machine",),
    }
    return Record(**(fields | changes))


def test_a_saved_record_loads_equal(tmp_path: Path) -> None:
    record = a_record()
    record.save(tmp_path / "deep" / "r.json")
    assert Record.load(tmp_path / "deep" / "r.json") == record
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["r.json"]


@settings(max_examples=60, deadline=None)
@given(samples=st.lists(finite, min_size=1, max_size=60), seed=st.integers(0, 2**32))
def test_any_finite_samples_give_a_metric_that_survives_json(samples: list[float], seed: int) -> None:
    metric = Metric.from_samples("x", "s", samples, seed=seed)
    assert metric.n == len(samples)
    assert (metric.min, metric.max) == (min(samples), max(samples))
    assert (metric.ci is None) == (len(samples) == 1)
    expected = np.percentile(samples, [50, 90, 95, 99])
    assert [metric.p50, metric.p90, metric.p95, metric.p99] == pytest.approx(expected, rel=1e-9, abs=1e-3)
    record = a_record(metrics=(metric,))
    assert Record.from_json(record.to_json()).metrics == (metric,)


def test_percentiles_interpolate_between_order_statistics() -> None:
    metric = Metric.from_samples("x", "s", np.arange(101)[::-1])
    assert (metric.p50, metric.p90, metric.p95, metric.p99, metric.mean) == (50, 90, 95, 99, 50)


@pytest.mark.parametrize("samples", [[], [math.nan], [1.0, math.inf], [[1.0]], ["fast"], ["1.5"], [None], [10**400]])
def test_samples_that_are_no_list_of_finite_numbers_are_refused(samples: Any) -> None:
    with pytest.raises(RecordError, match="'x'"):
        Metric.from_samples("x", "s", samples)


def test_small_samples_get_students_t() -> None:
    metric = Metric.from_samples("x", "s", [1.0, 2.0, 3.0, 4.0])
    assert metric.ci is not None
    assert metric.ci.method == "t"
    # Critical value for 3 degrees of freedom from published tables: 3.182446.
    half = 3.182446 * np.std([1, 2, 3, 4], ddof=1) / 2
    assert (metric.ci.low, metric.ci.high) == (pytest.approx(2.5 - half, abs=1e-5), pytest.approx(2.5 + half, abs=1e-5))


@pytest.mark.parametrize(("n", "critical"), [(2, 12.7062), (6, 2.570582), (11, 2.228139), (29, 2.048407)])
def test_students_t_matches_published_tables_for_odd_and_even_degrees(n: int, critical: float) -> None:
    samples = np.random.default_rng(n).normal(size=n)
    interval = Metric.from_samples("x", "s", samples).ci
    assert interval is not None
    half = critical * samples.std(ddof=1) / math.sqrt(n)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=1e-5)


def test_the_bootstrap_repeats_itself_and_covers_the_true_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        samples = generator.exponential(1.0, size=100)
        interval = Metric.from_samples("x", "s", samples, seed=1).ci
        assert interval is not None
        assert interval.method == "bootstrap"
        covered += interval.low <= 1.0 <= interval.high
    assert Metric.from_samples("x", "s", samples, seed=1).ci == interval
    assert Metric.from_samples("x", "s", samples, seed=2).ci != interval
    assert 180 <= covered <= 199  # 95 % nominal; the percentile bootstrap is a little short on skewed samples


def test_a_very_large_sample_gets_the_normal_interval() -> None:
    samples = np.random.default_rng(0).normal(size=20_000)
    interval = Metric.from_samples("x", "s", samples).ci
    assert interval is not None
    half = 1.959964 * samples.std(ddof=1) / math.sqrt(20_000)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=1e-6)


GOOD = {"name": "x", "unit": "s", "n": 3, "mean": 2, "p50": 2, "p90": 3, "p95": 3, "p99": 3, "min": 1, "max": 3}


@pytest.mark.parametrize(
    "change",
    [
        {"n": 0},
        {"n": -3},
        {"n": 2.5},
        {"n": True},
        {"mean": math.nan},
        {"max": math.inf},
        {"p50": 3.5},
        {"min": 2.5},
        {"p99": 4},
        {"mean": 0.5},
        {"mean": "2"},
        {"name": ""},
        {"name": "a\nb"},
        {"unit": " "},
        {"n": 1},
    ],
)
def test_an_impossible_metric_is_refused(change: dict[str, Any]) -> None:
    Metric(**GOOD)
    with pytest.raises(RecordError):
        Metric(**(GOOD | change))


@pytest.mark.parametrize(("low", "high", "level"), [(2, 1, 0.95), (1, 2, 0), (1, 2, 1), (math.nan, 2, 0.95)])
def test_an_impossible_interval_is_refused(low: float, high: float, level: float) -> None:
    with pytest.raises(RecordError):
        Interval(low, high, level, "t")


@pytest.mark.parametrize("value", [math.nan, {"a": [math.inf]}, object(), {1: 2}, b"x"])
def test_a_setting_that_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(RecordError, match="configuration of penstock"):
        Subject("penstock", "0.1.0", {"setting": value})
    with pytest.raises(RecordError, match="parameters of chat"):
        Workload("chat", 7, {"setting": value})


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": ()},
        {"metrics": (Metric(**GOOD), Metric(**GOOD))},
        {"schema_version": 3},
        {"created": datetime.datetime(2026, 1, 1)},
    ],
)
def test_an_impossible_record_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        a_record(**changes)


@pytest.mark.parametrize("path", ["/etc/passwd", "../up.json", "a/../../b", "", "a\\b"])
def test_a_file_outside_the_record_folder_is_refused(path: str) -> None:
    with pytest.raises(RecordError, match="folder"):
        Attachment(path, "0" * 64, 1)


def test_a_record_of_the_first_schema_is_read_with_what_it_lacks_unknown() -> None:
    document = json.loads(a_record().to_json())
    for added in ("command", "packages"):
        del document[added]
    del document["machine"]["governor"]
    for metric in document["metrics"]:
        del metric["samples"]
    record = Record.from_json(json.dumps(document | {"schema_version": 1}))
    assert (record.schema_version, record.command, record.packages, record.machine.governor) == (2, (), {}, "")
    assert record.metric("ttft").samples == ()


def test_few_samples_are_kept_in_their_order_and_many_are_not() -> None:
    assert Metric.from_samples("ttft", "s", [0.3, 0.1, 0.2]).samples == (0.3, 0.1, 0.2)
    assert Metric.from_samples("ttft", "s", range(65)).samples == ()


@pytest.mark.parametrize("samples", [(1.0,), (0.5, 1.0, 2.0), (1.0, 1.0, 3.0)])
def test_samples_that_contradict_their_summary_are_refused(samples: tuple[float, ...]) -> None:
    metric = Metric.from_samples("ttft", "s", [1.0, 1.5, 2.0])
    with pytest.raises(RecordError, match="ttft"):
        msgspec.structs.replace(metric, samples=samples)


def with_json(change: Any) -> bytes:
    document = json.loads(a_record().to_json())
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "truncated"),
        (a_record().to_json()[:-20], "truncated"),
        (b"\xff\xfe", ""),
        (b"[]", "object"),
        (with_json(lambda d: d.update(schema_version=99)), "schema 99"),
        (with_json(lambda d: d.pop("machine")), "machine"),
        (with_json(lambda d: d.update(extra=1)), "extra"),
        (with_json(lambda d: d["metrics"][0].update(p50="fast")), "p50"),
        (with_json(lambda d: d["metrics"][0].update(p50=9.9)), "p50"),
        (with_json(lambda d: d["metrics"][0].update(mean=math.nan)), ""),
        (with_json(lambda d: d["metrics"][0].update(n=-1)), "ttft"),
        (with_json(lambda d: d["git"].update(commit="main")), "commit"),
        (with_json(lambda d: d["workload"].update(seed="7")), "seed"),
    ],
)
def test_a_broken_record_file_is_refused_with_its_name_and_reason(data: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(data)
    with pytest.raises(RecordError, match=r"broken\.json") as caught:
        Record.load(path)
    assert complaint in str(caught.value)


def test_a_missing_or_unwritable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="absent"):
        Record.load(tmp_path / "absent.json")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RecordError, match="can't be written"):
        a_record().save(tmp_path / "file" / "r.json")


def test_a_failed_save_leaves_the_old_record_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_record().save(tmp_path / "r.json")
    before = (tmp_path / "r.json").read_bytes()

    def full_disk(_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Record, "to_json", full_disk)
    with pytest.raises(RecordError, match="No space left"):
        a_record().save(tmp_path / "r.json")
    assert (tmp_path / "r.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_attached_files_are_checked_against_what_they_were(tmp_path: Path) -> None:
    (tmp_path / "raw.json").write_text("[1]")
    record = a_record(files=(Attachment.of(tmp_path / "raw.json", tmp_path),))
    record.verify_files(tmp_path)
    (tmp_path / "raw.json").write_text("[2]")
    with pytest.raises(RecordError, match=r"raw\.json"):
        record.verify_files(tmp_path)
    (tmp_path / "raw.json").unlink()
    with pytest.raises(RecordError, match="can't be read"):
        record.verify_files(tmp_path)


def test_a_file_that_lies_elsewhere_cannot_be_attached(tmp_path: Path) -> None:
    (tmp_path / "raw.json").write_text("[1]")
    with pytest.raises(RecordError, match="outside"):
        Attachment.of(tmp_path / "raw.json", tmp_path / "records")


def test_a_metric_is_found_by_name_or_the_known_names_are_told() -> None:
    assert a_record().metric("rss").max == 7
    with pytest.raises(RecordError, match="ttft, rss"):
        a_record().metric("tpot")


def test_git_state_names_the_commit_and_sees_changes_to_tracked_files(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false")
        subprocess.run(("git", *identity, "-C", str(tmp_path), *arguments), check=True, capture_output=True)

    git("init")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    clean = git_state(tmp_path)
    assert clean is not None
    assert not clean.dirty
    (tmp_path / "untracked").write_text("1")
    assert git_state(tmp_path) == clean
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == msgspec.structs.replace(clean, dirty=True)


def test_git_state_outside_a_checkout_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
