"""`penstock journal`: the notebook of a laboratory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli import journal_questions
from penstock.cli.help import help_alone
from penstock.cli.journal_questions import Json, Where  # noqa: TC001 (Typer reads annotations when it runs)
from penstock.cli.output import counted, note, say, say_json

app = typer.Typer(
    callback=help_alone, invoke_without_command=True, help="Keep a notebook whose figures can't contradict its Records."
)

DayName = Annotated[str, typer.Argument(help="A day's number, folder or topic.")]


@app.command()
def new(
    topic: Annotated[str, typer.Argument(help="What is asked, in a few words.")],
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Begin the next day: a folder with a log to fill in, and a place for its Records.

    Makes a journal in the checkout's top folder if there is none yet.
    """
    from penstock.lab.journal.begin import begin

    journal, day = begin(topic, where)
    if as_json:
        say_json({"day": day.number, "name": day.name, "path": str(day.folder), "log": str(day.log)})
    else:
        say(f"{journal.shown(day.log)}: write down what you expect, then measure.")


@app.command()
def add(
    records: Annotated[list[Path], typer.Argument(help="Records, or folders of them.")],
    day: Annotated[str, typer.Option("--day", help="A day's number, folder or topic. [default: the newest]")] = "",
    files: Annotated[bool, typer.Option(help="Copy the files that belong to the Records too.")] = True,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Put Records into a day, with the files that belong to them."""
    from penstock.lab.journal.add import add as put
    from penstock.lab.journal.layout import Journal

    journal = Journal.find(where)
    into = journal.day(day) if day else journal.newest_day()
    names = put(into, records, with_files=files)
    if as_json:
        say_json({"day": into.name, "records": names})
    else:
        say(f"{into.name}: {', '.join(names)}")


@app.command()
def check(where: Where = None, as_json: Json = False) -> None:
    """Hold everything that is written against the Records.

    Checks each Record's schema and files, finds every figure of the logs and topics in a Record, or names its line and
    the nearest figure, and tells what is out of date. The exit code is 10 if something is wrong; reminders are not.
    """
    from penstock.core.errors import RecordError
    from penstock.lab.journal.check import check as find
    from penstock.lab.journal.layout import Journal

    problems = find(Journal.find(where))
    wrong = [problem for problem in problems if problem.kind != "reminder"]
    if as_json:
        listed = [{"where": each.where, "kind": each.kind, "problem": each.what} for each in problems]
        say_json({"ok": not wrong, "problems": listed})
    else:
        for problem in problems:
            say(f"{'reminder: ' if problem.kind == 'reminder' else ''}{problem}")
        note(f"{counted(len(wrong), 'problem')}." if wrong else "Nothing contradicts the Records.")
    if wrong:
        raise typer.Exit(RecordError.exit_code)


@app.command()
def index(where: Where = None, as_json: Json = False) -> None:
    """Write JOURNAL_INDEX.md: days, topics and Records on one page."""
    from penstock.lab.journal.entries import write_whole
    from penstock.lab.journal.evidence import Evidence
    from penstock.lab.journal.index import index as make
    from penstock.lab.journal.layout import INDEX, Journal

    journal = Journal.find(where)
    path = journal.root / INDEX
    _report({"path": str(path), "written": write_whole(path, make(Evidence(journal)))}, as_json)


@app.command()
def figures(
    pages: Annotated[list[Path] | None, typer.Argument(help="Pages. [default: all of the journal's]")] = None,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Make the generated figures of pages anew: what stands between <!-- journal:... --> and <!-- /journal -->."""
    from penstock.core.errors import NotFoundError
    from penstock.lab.journal.entries import write_whole
    from penstock.lab.journal.evidence import Evidence
    from penstock.lab.journal.layout import Journal
    from penstock.lab.journal.regions import renewed

    journal = Journal.find(where)
    evidence = Evidence(journal)
    made = []
    for page in pages or journal.pages():
        try:
            text = page.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise NotFoundError(f"{page} can't be read: {error}.", param="pages") from error
        made.append((page, renewed(text, evidence, str(page))))
    written = [str(page) for page, text in made if write_whole(page, text)]
    _report({"written": written}, as_json)


@app.command()
def plot(where: Where = None, as_json: Json = False) -> None:
    """Draw the plots that journal.toml names, as SVG beside the Records."""
    from penstock.lab.journal.entries import write_whole
    from penstock.lab.journal.evidence import Evidence
    from penstock.lab.journal.layout import Journal
    from penstock.lab.journal.plots import drawn, plot_path

    journal = Journal.find(where)
    evidence = Evidence(journal)
    made = [(plot_path(journal, each), drawn(evidence, each)) for each in journal.settings.plot]
    if not made:
        note(f"{journal.shown(journal.root / 'journal.toml')} names no plot: add a [[plot]].")
    _report({"written": [str(path) for path, svg in made if write_whole(path, svg)]}, as_json)


@app.command()
def promote(
    day: Annotated[str | None, typer.Argument(help="A day. [default: all with a result that haven't been]")] = None,
    topic: Annotated[str, typer.Option("--topic", help="The topic it belongs to. [default: the day's own]")] = "",
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Lift what days taught: lessons into topics, Records into the folder of Records, code into examples."""
    from penstock.lab.journal.layout import Journal
    from penstock.lab.journal.promote import promote as lift
    from penstock.lab.journal.promote import waiting

    journal = Journal.find(where)
    days = [journal.day(day)] if day else waiting(journal)
    done = [lift(journal, each, topic) for each in days]
    if as_json:
        say_json({"promoted": [{"day": d.day, "topic": d.topic, "records": d.records, "pages": d.pages} for d in done]})
        return
    for each in done:
        say(f"{each.day}: {counted(len(each.records), 'Record')}; {', '.join(each.pages) or 'no lesson'}")
    if not done:
        note("Every day with a result has been promoted.")


@app.command()
def renumber(day: DayName, where: Where = None, as_json: Json = False) -> None:
    """Give a day the next free number, as when merged branches have left two with the same one."""
    from penstock.lab.journal.begin import renumber as rename
    from penstock.lab.journal.layout import Journal

    journal = Journal.find(where)
    _report({"day": rename(journal, journal.day(day)).name}, as_json)


app.command()(journal_questions.matrix)
app.command()(journal_questions.compare)
app.command()(journal_questions.history)
app.command()(journal_questions.rerun)


@app.command()
def site(
    out: Annotated[Path, typer.Option("--out", help="The folder to write into.")] = Path("site"),
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Write the journal as static pages with a search, which need no server and no network."""
    from penstock.lab.journal.layout import Journal
    from penstock.lab.journal.site import write

    pages = write(Journal.find(where), out)
    _report({"index": str(out / "index.html"), "pages": pages}, as_json)


def _report(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(result)
        return
    for name, value in result.items():
        if isinstance(value, list):
            say(f"{name}: {', '.join(value) or 'nothing'}")
        else:
            say(f"{name}: {value}")
