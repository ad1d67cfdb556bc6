"""What a page says is text, whatever is in it."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.lab.pages.document import (
    Callout,
    Card,
    Cards,
    Cell,
    Code,
    Document,
    Folded,
    Link,
    Pairs,
    Paragraph,
    Section,
    Table,
)
from penstock.lab.pages.html import data_block, element, is_safe_link
from penstock.lab.pages.plots import Axis, Plot, Series
from penstock.lab.pages.render_html import render

HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<!--<script>",
    "'-alert(1)-'",
    "]]><svg onload=alert(1)>",
    "&lt;b&gt; \u2028 \x00\x1b[31m \ud800",
    "javascript:alert(1)",
    "${alert(1)}`",
]
NASTY = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40))


class Reader(HTMLParser):
    """Elements, attributes and text of a page, as HTML's own rules have them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def page_of(text: str) -> Document:
    """`text` in every place that holds any."""
    plot = Plot(
        title=text, caption=text, x=Axis(label=text, categories=(text,)), y=Axis(label=text, unit="s"),
        series=(Series(name=text, x=[0.0], y=[1.0], labels=[text], note=text),),
    )  # fmt: skip
    blocks = (
        Paragraph(text),
        Callout(text, points=(text,)),
        Cards((Card(text, text, text, text),)),
        Table((text, text), ((text, Cell(text, sort=text, title=text, href=text, below=text)),), caption=text),
        Pairs(((text, text),)),
        Code(text),
        plot,
        Folded(text, (Paragraph(text),)),
    )
    return Document(
        title=text, subtitle=text, kind=text, lead=blocks, sections=(Section(text, blocks),), footer=(text,),
        trail=(Link(text, text),),
    )  # fmt: skip


@given(NASTY)
def test_no_text_becomes_an_element_or_an_attribute(text: str) -> None:
    harmless = read(render(page_of("".join(" " if sign == " " else "x" for sign in text))))
    found = read(render(page_of(text)))
    assert found.tags == harmless.tags
    assert [name for name, _ in found.attributes if name != "href"] == [
        name for name, _ in harmless.attributes if name != "href"
    ]
    for name, value in found.attributes:
        assert name != "href" or not (value or "").lower().startswith(("javascript:", "data:", "vbscript:"))


@given(NASTY, st.floats(allow_nan=True, allow_infinity=True))
def test_data_for_scripts_is_read_back_as_it_was(text: str, number: float) -> None:
    block = data_block("x", {"text": text, "number": number})
    found = read(block)
    assert found.tags == ["script"]
    told = json.loads(found.text)
    assert told["text"] == text.encode("utf-8", "replace").decode()
    assert told["number"] == (pytest.approx(number) if math.isfinite(number) else None)
    assert "<" not in found.text


@pytest.mark.parametrize(
    "href", ["javascript:alert(1)", " javascript:x", "JaVaScRiPt:x", "java\tscript:x", "data:text/html,x", "vbscript:x"]
)
def test_a_link_that_could_run_something_is_left_out(href: str) -> None:
    assert not is_safe_link(href)
    assert element("a", "x", href=href) == "<a>x</a>"


@pytest.mark.parametrize("href", ["#top", "days/1.html", "../a?b=c:d", "https://example.org/x:y", "mailto:a@b.c", ""])
def test_other_links_are_kept(href: str) -> None:
    assert is_safe_link(href)


def test_a_handler_is_no_attribute_that_can_be_written() -> None:
    with pytest.raises(ValueError, match="no attribute"):
        element("p", "x", onclick="alert(1)")


def test_a_page_asks_for_nothing_and_its_policy_says_so() -> None:
    found = read(render(page_of("water")))
    policy = next(value for name, value in found.attributes if name == "content" and value and "default-src" in value)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not {"link", "img", "iframe", "object", "form"} & set(found.tags)
    assert "src" not in {name for name, _ in found.attributes}


def test_the_same_document_is_the_same_page() -> None:
    assert render(page_of("water")) == render(page_of("water"))
