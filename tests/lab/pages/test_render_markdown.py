"""The Markdown of a page: what was text stays text when somebody renders it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from penstock.lab.pages import prose
from penstock.lab.pages.document import Callout, Cell, Code, Document, Pairs, Paragraph, Prose, Section, Table
from penstock.lab.pages.render_html import render as render_html
from penstock.lab.pages.render_markdown import render

SIGNS = st.text(st.sampled_from("<>&|*_`[]()#+-=~!\\ab1. \n\"'"), max_size=24)
READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def kinds(markdown: str) -> list[str]:
    """What the text is made of, text and escapes apart."""
    tokens = READER.parse(markdown)
    found = [token.type for token in tokens]
    found += [part.type for token in tokens for part in token.children or [] if part.type != "text"]
    return [kind for kind in found if kind not in {"text_special", "softbreak", "hardbreak"}]


def page_of(text: str) -> str:
    return render(
        Document(
            title=text,
            lead=(Callout(f"x {text}", points=(f"x {text}",)), Paragraph(text)),
            sections=(
                Section(f"x {text}", (Table(("a", f"x {text}"), ((f"x {text}", Cell("1", sort=1.0, below=text)),)),)),
                Section("x", (Pairs(((f"x {text}", text),)),)),
            ),
        )
    )


@given(SIGNS)
def test_no_text_becomes_markup(text: str) -> None:
    plain = "x" if text.split() else ""
    assert kinds(page_of(text)) == kinds(page_of(plain))


@given(st.text(st.sampled_from("`~a\n "), max_size=30))
def test_code_stays_within_its_fence(text: str) -> None:
    tokens = READER.parse(render(Document(title="x", lead=(Code(text), Paragraph("after")))))
    assert [token.type for token in tokens if token.type in {"fence", "paragraph_open"}] == ["fence", "paragraph_open"]


def test_a_table_says_what_is_a_number_and_an_interval() -> None:
    table = Table(("engine", "rate"), (("a|b", Cell("12 ms", sort=0.012, below="11 to 13 ms")),), caption="Rates")
    assert render(Document(title="T", lead=(table,))) == (
        "# T\n\nRates\n\n| engine | rate |\n| --- | ---: |\n| a\\|b | 12 ms (11 to 13 ms) |\n"
    )


def test_prose_shows_html_as_text_and_links_run_nothing() -> None:
    html = prose.to_html(
        "<b>x</b> [a](javascript:alert(1)) [b](c.md)\n\n| a |\n|--:|\n| 1 |", lambda href: f"to/{href}"
    )
    assert "<b>" not in html
    assert "javascript:" not in html.split("[a]")[0]
    assert '<a href="to/c.md">b</a>' in html
    assert "style=" not in html
    assert '<th class="number">a</th>' in html
    assert 'href="javascript' not in html


def test_a_picture_from_elsewhere_is_a_link_to_it() -> None:
    page = render_html(Document(title="x", lead=(Prose("![a <b>](plots/p.svg) ![q](data:image/png;base64,AA==)"),)))
    assert '<a href="plots/p.svg">a &lt;b&gt;</a>' in page
    assert '<img src="data:image/png;base64,AA=="' in page
