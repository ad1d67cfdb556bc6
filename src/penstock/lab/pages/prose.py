"""Markdown that somebody wrote, as HTML: CommonMark and tables; HTML in it is text, and links can run nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.lab.pages.html import Markup, element, is_safe_link

if TYPE_CHECKING:
    from collections.abc import Callable


def to_html(markdown: str, rewrite: Callable[[str], str] = str) -> Markup:
    """`rewrite` may lead a link elsewhere. A picture that is a file of its own becomes a link: a page loads nothing."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    reader.validateLink = lambda url: is_safe_link(url) or url.startswith("data:image/png;base64,")  # type: ignore[method-assign]
    tokens = reader.parse(markdown)
    for token in tokens:
        for part in token.children or []:
            source = part.attrGet("src")
            if part.type == "image" and isinstance(source, str) and not source.startswith("data:"):
                part.type, part.content = "html_inline", element("a", part.content or source, href=rewrite(source))
            href = part.attrGet("href")
            if part.type == "link_open" and isinstance(href, str):
                part.attrSet("href", rewrite(href))
        for name in ("style", "align"):
            align = token.attrs.pop(name, None)  # a style attribute is refused by the page's policy
            if isinstance(align, str) and align.endswith("right"):
                token.attrSet("class", "number")
    return Markup(reader.renderer.render(tokens, reader.options, {}))
