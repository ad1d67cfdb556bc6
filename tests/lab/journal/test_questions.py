"""What is asked of Records: tables and plots made of them, the matrix, comparisons, histories, reruns."""

from __future__ import annotations

import datetime
import random
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from penstock.cli.main import main
from penstock.core.errors import ConfigError, InvalidRequestError
from penstock.core.record import Flaw, GitState, Metric, Record, Subject, Workload
from penstock.lab.bench.stub import Stub
from penstock.lab.journal import rerun as rerunning
from penstock.lab.journal.check import check
from penstock.lab.journal.compare import Change, compare
from penstock.lab.journal.compared import keep
from penstock.lab.journal.evidence import Evidence, Exhibit
from penstock.lab.journal.history import history, steps_in
from penstock.lab.journal.layout import Journal
from penstock.lab.journal.matrix import matrix
from penstock.lab.journal.plots import drawn, plot_path
from penstock.lab.journal.regions import renewed
from penstock.lab.statistics import Verdict
from support.journals import MACHINE, a_journal, a_record, throughput

ROOT = Path(__file__).resolve().parents[3]


def exhibit(record: object, name: str = "r") -> Exhibit:
    return Exhibit(record, Path(f"/j/{name}.json"), name)  # type: ignore[arg-type]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    settings = 'pages = ["../README.md"]\n[[plot]]\nname = "speed"\nrecords = "*.json"\nmetric = "output_throughput"\n'
    journal = a_journal(tmp_path / "journal", settings)
    for concurrency, speed in ((1, 50.0), (8, 100.5), (32, 1234.5)):
        work = Workload("chat", 7, {"concurrency": concurrency})
        throughput(speed, workload=work).save(journal.benchmarks / f"c{concurrency}.json")
    return journal


def test_generated_parts_are_made_of_records_and_made_again_the_same(journal: Journal) -> None:
    page = (
        'A <!-- journal:figure records="c8.json" metric="output_throughput.mean" -->?<!-- /journal --> b.\n'
        '<!-- journal:part records="c8.json" part="subject.version" --><!-- /journal -->\n'
        '<!-- journal:pivot records="c*.json" rows="subject.name" columns="workload.concurrency"\n'
        '     metric="output_throughput" only="1, 32" -->\nold\n<!-- /journal -->\nend\n'
    )
    evidence = Evidence(journal)
    made = renewed(page, evidence, "p.md")
    assert "-->100.5 tokens/s<!-- /journal --> b." in made
    assert "-->0.1.0<!--" in made
    assert "|  | 1 | 32 |\n| --- | ---: | ---: |\n| penstock | 50.00 | 1,234 |\n<!-- /journal -->\nend" in made
    assert renewed(made, evidence, "p.md") == made


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        ('journal:figure records="none.json" metric="x"', "No Record matches"),
        ('journal:figure records="c*.json" metric="output_throughput"', "one Record"),
        ('journal:figure records="c8.json" metric="speed"', "output_throughput"),
        ('journal:figure records="c8.json" metric="output_throughput" unit="ms"', "no ms"),
        ('journal:figure records="c8.json"', "metric="),
        ('journal:figur records="c8.json" metric="x"', "figure"),
        ('journal:figure recods="c8.json" metric="x"', "records"),
        ('journal:part records="c8.json" part="x.y"', "no part of a Record"),
    ],
)
def test_a_generated_part_that_cannot_be_made_is_named_with_its_line(
    journal: Journal, part: str, complaint: str
) -> None:
    with pytest.raises(InvalidRequestError, match=complaint) as caught:
        renewed(f"a\n\n<!-- {part} --><!-- /journal -->", Evidence(journal), "p.md")
    assert caught.value.message.startswith("p.md:3: ")


def test_an_unended_part_is_named_with_its_line(journal: Journal) -> None:
    with pytest.raises(InvalidRequestError, match=r"p\.md:2: "):
        renewed('a\n<!-- journal:figure records="c8.json" metric="x" -->', Evidence(journal), "p.md")


def test_a_page_and_a_plot_that_are_out_of_date_are_named(journal: Journal) -> None:
    page = journal.root.parent / "README.md"
    page.write_text('<!-- journal:figure records="c8.json" metric="output_throughput" --><!-- /journal -->')
    stale = [str(problem) for problem in check(journal)]
    assert [text.partition(": ")[0] for text in stale] == ["README.md", "journal/benchmarks/plots/speed.svg"]
    evidence = Evidence(journal)
    page.write_text(renewed(page.read_text(), evidence, "p"))
    [plot] = journal.settings.plot
    plot_path(journal, plot).parent.mkdir()
    plot_path(journal, plot).write_text(drawn(evidence, plot))
    assert check(journal) == []
    assert len(ET.fromstring(drawn(evidence, plot)).findall(".//{*}circle")) == 3


def test_the_figures_of_the_projects_own_pages_are_its_records() -> None:
    journal = Journal.open(ROOT / "benchmarks")
    assert (ROOT / "README.md").resolve() in journal.pages()
    assert [str(problem) for problem in check(journal)] == []


def test_the_matrix_shows_what_is_there_and_counts_holes() -> None:
    def at(concurrency: int, dtype: str, speed: float) -> Exhibit:
        work = Workload("chat", 7, {"concurrency": concurrency, "input_tokens": 128, "output_tokens": 64})
        return exhibit(throughput(speed, workload=work, subject=Subject("penstock", "1", {"dtype": dtype})))

    made = matrix([at(1, "int8", 10), at(8, "int8", 20), at(8, "bfloat16", 15), exhibit(a_record(), "x")])
    assert made.columns == (("1", "128+64"), ("8", "128+64"))
    assert made.holes == [(("2 cores of Example CPU", "penstock", "bfloat16"), ("1", "128+64"))]
    assert made.table()[1][0][-2:] == ["·", "15.00"]
    assert matrix([exhibit(a_record())], subject="another").cells == {}


def test_repeats_are_compared_in_pairs() -> None:
    a, b = throughput(100.0, 110.0, 120.0), throughput(121.0, 133.0, 146.0)
    [change] = compare([exhibit(a)], [exhibit(b)]).changes
    assert change.verdict == Verdict.FASTER
    assert change.ratio == pytest.approx((121 / 100 * 133 / 110 * 146 / 120) ** (1 / 3))
    assert change.low is not None
    assert 1.2 < change.low < change.ratio
    assert change.basis == "3 pairs of repeats"
    [back] = compare([exhibit(b)], [exhibit(a)]).changes
    assert back.verdict == Verdict.SLOWER


def test_requests_are_no_repeats_so_nothing_is_said_of_one_run_each() -> None:
    record = a_record(metrics=(Metric.from_samples("ttft", "s", [0.1] * 40 + [0.2]),))
    other = a_record(metrics=(Metric.from_samples("ttft", "s", [0.3] * 40 + [0.2]),))
    [change] = compare([exhibit(record)], [exhibit(other)]).changes
    assert change.verdict == Verdict.INCONCLUSIVE
    assert change.low is None


def test_folders_are_compared_workload_by_workload_run_by_run() -> None:
    def runs(factor: float) -> list[Exhibit]:
        return [
            exhibit(throughput(speed * factor, workload=Workload("chat", 7, {"concurrency": c}), created=_day(i)))
            for c, speeds in ((1, (10.0, 10.1, 9.9)), (8, (50.0, 51.0, 50.5)))
            for i, speed in enumerate(speeds)
        ]

    changes = compare(runs(1.0), runs(0.5)).changes
    assert [(change.workload, change.basis) for change in changes] == [
        ("chat, concurrency 1", "3 pairs of runs"), ("chat, concurrency 8", "3 pairs of runs"),
    ]  # fmt: skip
    assert {change.verdict for change in changes} == {Verdict.SLOWER}


def test_means_of_old_records_are_compared_by_their_intervals() -> None:
    def without_samples(*values: float) -> Exhibit:
        record = throughput(*values)
        metrics = tuple(msgspec.structs.replace(metric, samples=()) for metric in record.metrics)
        return exhibit(msgspec.structs.replace(record, metrics=metrics))

    [change] = compare([without_samples(100, 101, 102)], [without_samples(150, 151, 152)]).changes
    assert (change.verdict, change.basis) == (Verdict.FASTER, "means of 3 and 3 repeats")
    assert change.low is not None
    assert change.high is not None
    assert change.low < 151 / 101 < change.high


def test_flawed_runs_prove_nothing() -> None:
    flawed = throughput(200.0, 201.0, 202.0, flaws=(Flaw("invalid", "The client was late."),))
    comparison = compare([exhibit(throughput(100.0, 101.0, 102.0))], [exhibit(flawed)])
    assert comparison.changes[0].verdict == Verdict.INCONCLUSIVE
    assert any("The client was late" in warning for warning in comparison.warnings)


def test_latencies_are_compared_by_what_was_seen_of_each_repeat(tmp_path: Path) -> None:
    def measured(ttft: float, itl: float, name: str) -> Exhibit:
        with Stub(ttft=ttft, itl=itl) as stub:
            url = f"http://127.0.0.1:{stub.port}"
            options = ["--requests", "4", "--repeats", "2", "--output-tokens", "4", "--out", str(tmp_path / name)]
            main(["bench", "run", url, *options, "--quiet"])
        [path] = (tmp_path / name).glob("*.json")
        return Exhibit(Record.load(path), path, name)

    metrics = ["ttft.p50", "itl.mean"]
    changes = compare([measured(0.05, 0.01, "a")], [measured(0.1, 0.03, "b")], metrics).changes
    assert [change.metric for change in changes] == metrics
    for change, ratio in zip(changes, (2, 3), strict=True):
        assert change.basis.startswith("2 pairs of repeats")
        assert change.ratio == pytest.approx(ratio, rel=0.2)


def test_a_kept_comparison_can_be_quoted_until_what_it_compares_is_taken_again(journal: Journal) -> None:
    before, after = throughput(100.0, 110.0, 120.0), throughput(121.0, 133.0, 146.0)
    sides = []
    for name, record in (("before", before), ("after", after)):
        path = journal.benchmarks / f"{name}.json"
        record.save(path)
        sides.append([Exhibit(record, path, name)])
    [path] = keep(journal, ("kept/before.json", "kept/after.json"), compare(*sides))
    assert path == journal.benchmarks / "compare" / "kept-before-to-after.json"
    record = Record.load(path)
    [metric] = record.metrics
    assert (metric.name, metric.n, metric.ci is not None) == ("output_throughput_ratio", 3, True)
    assert metric.mean == pytest.approx((121 / 100 * 133 / 110 * 146 / 120) ** (1 / 3))
    assert record.workload.parameters["compared"]["verdicts"] == {"output_throughput": "faster"}
    topic = journal.root / "topics" / "speed" / "overview.md"
    topic.parent.mkdir()
    topic.write_text("It has 21 % more throughput.\n")
    assert "speed.svg" in " ".join(map(str, check(journal)))
    assert not [problem for problem in check(journal) if problem.kind == "figure"]
    throughput(1.0, 2.0, 3.0).save(journal.benchmarks / "before.json")
    [problem] = [problem for problem in check(journal) if "compare/" in problem.where]
    assert "journal/benchmarks/before.json, which it compares, is another Record now" in problem.what
    elsewhere = [keep(journal, (f"{year}/kept/before.json", "after.json"), compare(*sides)) for year in (2025, 2026)]
    assert elsewhere[0] != elsewhere[1]  # what a short name leaves out keeps them apart


def test_workloads_that_differ_in_what_their_label_leaves_out_are_compared_apart() -> None:
    def runs(*speeds: float) -> list[Exhibit]:
        return [
            exhibit(throughput(speed, workload=Workload("chat", 7, {"input_tokens": tokens}), created=_day(day)))
            for tokens in (10, 20)
            for day, speed in enumerate(speeds)
        ]

    found = compare(runs(1.0, 1.1, 1.2), runs(2.0, 2.2, 2.4))
    assert [change.workload for change in found.changes] == ["chat", "chat (2)"]


def test_what_else_differs_is_said() -> None:
    other = throughput(
        1.0, 2.0, 3.0, machine=msgspec.structs.replace(MACHINE, usable_cpus=1), git=GitState("b" * 40, dirty=True),
        workload=Workload("chat", 8, {"concurrency": 9, "repeats": 3}),
        subject=Subject("penstock", "2", {"dtype": "x"}),
    )  # fmt: skip
    warnings = " ".join(compare([exhibit(throughput(1.0, 2.0, 3.0))], [exhibit(other)]).warnings)
    for word in ("machines", "concurrency", "seeds", "dtype", "dirty"):
        assert word in warnings


def test_sides_without_a_workload_or_metric_in_common_are_refused() -> None:
    a, b = throughput(1.0), throughput(1.0, workload=Workload("other", 1))
    with pytest.raises(InvalidRequestError, match="workload in common"):
        compare([exhibit(a), exhibit(a)], [exhibit(b)])
    with pytest.raises(InvalidRequestError, match="nothing"):
        compare([exhibit(a)], [exhibit(a)], ["nothing"])


def _day(number: int) -> datetime.datetime:
    return datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(days=number)


def test_a_step_is_found_where_it_is_and_nearly_never_where_none_is() -> None:
    generator = random.Random(3)
    noise = [[generator.gauss(10, 1) for _ in range(14)] for _ in range(120)]
    assert sum(bool(steps_in(values)) for values in noise) <= 12  # 5 % of 120, and what luck may add
    for at in (4, 10):
        values = [value + (6 if i >= at else 0) for i, value in enumerate(noise[0])]
        [step] = steps_in(values)
        assert step.index == at
        assert step.p < 0.05
        assert step.after - step.before == pytest.approx(6, abs=1.5)
    assert steps_in([1.0, 1.0, 9.0, 9.0]) == []
    assert steps_in([5.0] * 20) == []


def test_a_history_has_every_version_that_git_still_has(tmp_path: Path) -> None:
    journal = a_journal(tmp_path / "journal")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    for number in range(16):
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        speed = 100.0 + number % 3 + (50.0 if number >= 8 else 0.0)
        record = throughput(speed, git=GitState(commit, dirty=False), created=_day(100 - number))
        record.save(journal.benchmarks / "speed.json")
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "y"], check=True)
    other = msgspec.structs.replace(MACHINE, usable_cpus=1)
    throughput(7.0, machine=other).save(journal.benchmarks / "elsewhere.json")
    trend, alone = history(Evidence(journal), "output_throughput")
    assert [moment.value for moment in trend.moments][:3] == [100.0, 101.0, 102.0]  # by commits, not by clocks
    assert [step.index for step in trend.steps] == [8]
    assert len(alone.moments) == 1
    ET.fromstring(trend.svg("output_throughput"))
    with pytest.raises(InvalidRequestError, match="speed"):
        history(Evidence(journal), "speed")


def change(ratio: float, low: float | None, high: float | None) -> Change:
    return Change("w", "m", "s", 1.0, ratio, ratio, low, high, Verdict.INCONCLUSIVE, "")


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (change(1.02, 0.99, 1.05), "reproduced"),
        (change(1.02, None, None), "reproduced"),
        (change(1.5, 1.4, 1.6), "changed"),
        (change(1.5, 0.8, 2.6), "inconclusive"),
        (change(1.02, 0.5, 2.1), "inconclusive"),
        (change(1.5, None, None), "inconclusive"),
    ],
)
def test_a_rerun_says_what_its_interval_allows(found: Change, outcome: str) -> None:
    assert rerunning.reproduced(found) == outcome


def test_a_rerun_runs_the_command_and_compares_what_it_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = throughput(100.0, 101.0, 102.0, command=("penstock", "bench", "again"))
    throughput(200.0, 201.0, 202.0).save(tmp_path / "made.json")
    script = (
        f"import shutil, sys; assert sys.argv[1] == 'again'; shutil.copy({str(tmp_path / 'made.json')!r}, sys.argv[3])"
    )
    monkeypatch.setitem(rerunning._COMMANDS, ("penstock", "bench"), (sys.executable, "-c", script))
    out = tmp_path / "out"
    out.mkdir()
    done = rerunning.rerun(exhibit(record), tmp_path, out=out)
    assert (done.outcome, done.exit_code) == ("changed", 0)
    throughput(100.0, 101.0, 102.5).save(tmp_path / "made.json")
    assert rerunning.rerun(exhibit(record), tmp_path).outcome == "reproduced"
    (tmp_path / "made.json").write_text("{}")
    with pytest.raises(ConfigError, match="left no Record"):
        rerunning.rerun(exhibit(record), tmp_path)


def test_a_rerun_of_a_command_that_measures_several_loads_takes_the_one_asked_for(tmp_path: Path) -> None:
    def at(rate: float, day: int) -> Record:
        created = datetime.datetime(2026, 1, day, tzinfo=datetime.UTC)
        return throughput(rate, workload=Workload("load", 1, {"rate": rate}), created=created)

    at(25.0, 1).save(tmp_path / "slow.json")
    at(400.0, 2).save(tmp_path / "fast.json")
    found = rerunning._newest(tmp_path, at(25.0, 1))
    assert found is not None
    assert found.name == "slow"


@pytest.mark.parametrize(
    "command", [(), ("rm", "-rf", "x"), ("penstock",), ("penstock", "serve", "x"), ("python", "x.py")]
)
def test_what_is_no_measurement_is_not_run(command: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequestError):
        rerunning.command_line(throughput(1.0, command=command))
