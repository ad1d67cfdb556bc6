"""Parts of a page that are made of Records.

    <!-- journal:figure records="serving-penstock-c8.json" metric="ttft.p99" unit="ms" -->41.2 ms<!-- /journal -->

    <!-- journal:part records="serving-penstock-c8.json" part="subject.version" -->0.1.0<!-- /journal -->

    <!-- journal:pivot records="serving-*.json" rows="subject.name" columns="workload.concurrency"
         metric="output_throughput" only="1, 8" sort="value" -->
    | ... |
    <!-- /journal -->

Patterns are relative to the folder of Records. What stands between the marks is written anew; all else stays.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError, PenstockError
from penstock.core.suggest import did_you_mean
from penstock.lab.journal.fields import converted, metric_of, value_of, written
from penstock.lab.journal.pivot import pivot

if TYPE_CHECKING:
    from penstock.lab.journal.evidence import Evidence, Exhibit

_REGION = re.compile(r"<!--\s*journal:(\w+)((?:\s+\w+=\"[^\"]*\")*)\s*-->(.*?)<!--\s*/journal\s*-->", re.DOTALL)
_OPENING = re.compile(r"<!--\s*journal:")
_TAKES = {
    "figure": {"records", "metric", "unit", "digits"},
    "part": {"records", "part"},
    "pivot": {"records", "metric", "unit", "digits", "rows", "columns", "only", "sort", "corner"},
}
_NEEDS = {
    "figure": ("records", "metric"),
    "part": ("records", "part"),
    "pivot": ("records", "metric", "rows", "columns"),
}


def renewed(page: str, evidence: Evidence, where: str) -> str:
    """The page with its generated parts made anew. Raises InvalidRequestError, with file and line, if one can't be."""

    def make(match: re.Match[str]) -> str:
        line = page.count("\n", 0, match.start()) + 1
        try:
            inside = _made(match[1], dict(re.findall(r'(\w+)="([^"]*)"', match[2])), evidence)
        except PenstockError as error:
            raise InvalidRequestError(f"{where}:{line}: {error.message}", param="page") from error
        return f"{match[0][: match.start(3) - match.start()]}{inside}<!-- /journal -->"

    done = _REGION.sub(make, page)
    if len(_OPENING.findall(page)) != len(_REGION.findall(page)):
        known = {match.start() for match in _REGION.finditer(page)}
        at = next((match.start() for match in _OPENING.finditer(page) if match.start() not in known), 0)
        line = page.count("\n", 0, at) + 1
        raise InvalidRequestError(
            f'{where}:{line}: A generated part is written <!-- journal:KIND name="value" ... --> ...'
            " <!-- /journal -->.",
            param="page",
        )
    return done


def _made(kind: str, given: dict[str, str], evidence: Evidence) -> str:
    if kind not in _TAKES:
        raise InvalidRequestError(f"There is no generated part {kind!r}.{did_you_mean(kind, list(_TAKES))}")
    for name in given.keys() - _TAKES[kind]:
        raise InvalidRequestError(f"{kind} takes no {name!r}.{did_you_mean(name, sorted(_TAKES[kind]))}")
    for name in _NEEDS[kind]:
        if not given.get(name):
            raise InvalidRequestError(f'{kind} needs {name}="...".')
    if not given.get("digits", "4").isdecimal():
        raise InvalidRequestError(f"digits is a whole number; got {given['digits']!r}.")
    exhibits = matching(evidence, given["records"])
    return {"figure": _figure, "part": _part, "pivot": _pivot}[kind](exhibits, given)


def matching(evidence: Evidence, pattern: str) -> list[Exhibit]:
    """The kept Records whose path below the folder of Records matches. Raises InvalidRequestError if none does."""
    folder = evidence.journal.benchmarks
    found = [each for each in evidence.kept if each.path.relative_to(folder).match(pattern)]
    # match() looks from the right, so that "a-*.json" finds Records in every folder; one with a slash means its folder.
    if "/" in pattern:
        depth = pattern.count("/")
        found = [each for each in found if len(each.path.relative_to(folder).parts) == depth + 1]
    if not found:
        raise InvalidRequestError(f"No Record matches {pattern!r}.", param="records")
    return found


def _part(exhibits: list[Exhibit], given: dict[str, str]) -> str:
    value = value_of(_one(exhibits, given), given["part"])
    if value is None:
        raise InvalidRequestError(f"The Record has no {given['part']}.")
    return str(value)


def _one(exhibits: list[Exhibit], given: dict[str, str]) -> Exhibit:
    if len(exhibits) > 1:
        names = ", ".join(exhibit.path.name for exhibit in exhibits[:3])
        raise InvalidRequestError(f"A figure comes from one Record; {given['records']!r} matches {names} ...")
    return exhibits[0]


def _figure(exhibits: list[Exhibit], given: dict[str, str]) -> str:
    record = _one(exhibits, given).record
    found = metric_of(record, given["metric"])
    if found is None:
        record.metric(given["metric"].rpartition(".")[0] or given["metric"])  # raises, with the names there are
        raise InvalidRequestError(f"The Record has no {given['metric']}.")
    metric, value = found
    unit = given.get("unit", metric.unit)
    return f"{written(converted(value, metric, unit), int(given.get('digits', 4)))} {unit}".removesuffix(" 1")


def _pivot(exhibits: list[Exhibit], given: dict[str, str]) -> str:
    table = pivot(exhibits, given["metric"], _parts(given["rows"]), _parts(given["columns"]))
    only = _parts(given.get("only", ""))
    columns = [column for column in table.columns if not only or " ".join(map(str, column)) in only]
    if not table.rows or not columns:
        raise InvalidRequestError(f"No Record of {given['records']!r} has {given['metric']} for these columns.")
    rows = list(table.rows)
    if given.get("sort") == "value":
        rows.sort(key=lambda row: -max((c.value for col in columns if (c := table.cells.get((row, col)))), default=0.0))
    digits = int(given.get("digits", 4))
    lines = [_row([given.get("corner", ""), *(_name(column) for column in columns)])]
    lines.append(_row(["---", *["---:"] * len(columns)]))
    for row in rows:
        cells = [table.cells.get((row, column)) for column in columns]
        unit = given.get("unit", "")
        lines.append(
            _row([_name(row), *(written(converted(c.value, c.metric, unit), digits) if c else "" for c in cells)])
        )
    return "\n" + "\n".join(lines) + "\n"


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _name(values: tuple[object, ...]) -> str:
    return " ".join("" if value is None else str(value) for value in values).replace("|", "\\|")


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
