"""`penstock bench report`: what was measured as a page."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (Typer reads annotations when it runs)
from typing import Annotated

import typer

from penstock.cli.output import note, say, say_json
from penstock.core.errors import InvalidRequestError


def report(
    files: Annotated[list[Path], typer.Argument(help="Records (.json), or observations (.npz) of one measurement.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The page, or a folder for several. [default: beside the record]", show_default=False
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown; on standard output without --out.")] = False,
    title: Annotated[str | None, typer.Option("--title", help="Above the page. [default: the file's name]")] = None,
    slo: Annotated[
        str | None, typer.Option("--slo", help="Judge by these bounds instead of the record's: ttft:500ms,tpot:50ms.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Make a page of a measurement: one HTML file that needs no network, or Markdown.

    A record brings the observations that are attached to it. Observations given by themselves are taken as repeats of
    one measurement.

    Exit codes: 0 written, whatever the measurement was worth; 2 a file is of another kind or can't be written;
    10 a record can't be used.

    Examples:

    \b
      penstock bench report measured/chat.json
      penstock bench report measured/chat.json --markdown
      penstock bench report measured/chat-0.npz measured/chat-1.npz --slo ttft:200ms --out chat.html
    """
    from penstock.core.lab_extra import require

    require("The laboratory", "numpy", "markdown_it")
    from penstock.lab.bench.slo import Slo
    from penstock.lab.pages import render_html, render_markdown, run_files
    from penstock.lab.pages.run_page import run_page

    pages = run_files.read(files, None if slo is None else Slo.parse(slo), title)
    ending = ".md" if markdown else ".html"
    if len(pages) > 1 and out is not None and out.suffix in (".html", ".md"):
        raise InvalidRequestError(f"{len(pages)} pages don't go into one file; name a folder.", param="out")
    if markdown and out is None and as_json:
        raise InvalidRequestError("Markdown on standard output and --json exclude each other: add --out.", param="json")
    written = []
    for source, page in pages:
        document = run_page(page)
        text = render_markdown.render(document) if markdown else render_html.render(document)
        if markdown and out is None:
            say(text.rstrip("\n"))
            continue
        target = _target(source, out, ending, several=len(pages) > 1)
        _write(target, text)
        written.append({"page": str(target), "of": str(source), "flaws": [flaw.reason for flaw in page.flaws]})
        if not as_json:
            note(f"Written: {target} ({len(text) / 1e3:,.0f} kB)")
    if as_json:
        say_json({"pages": written})


def write_beside(record: Path) -> Path:
    """The page of a record that was just kept, beside it. Raises InvalidRequestError if it can't be written."""
    from penstock.lab.pages import render_html, run_files
    from penstock.lab.pages.run_page import run_page

    [(_, page)] = run_files.read([record])
    target = record.with_suffix(".html")
    _write(target, render_html.render(run_page(page)))
    return target


def _target(source: Path, out: Path | None, ending: str, *, several: bool) -> Path:
    if out is None:
        return source.with_suffix(ending)
    if several or out.is_dir():
        return out / source.with_suffix(ending).name
    return out


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(f"The page {path} can't be written: {error.strerror}.", param="out") from error
