"""Model text on the page: formatted where it is Markdown, and never more than text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.scripted_api import Reply

if TYPE_CHECKING:
    from support.chat_page import ChatPage, Open

HOSTILE = (
    "<img src=x onerror='window.struck = true'>",
    "<script>window.struck = true</script>",
    "<svg onload='window.struck = true'>",
    "<iframe srcdoc='<script>parent.struck = true</script>'></iframe>",
    "[click](javascript:window.struck=true)",
    "[click](  JaVaScRiPt:window.struck=true )",
    "[click](data:text/html,<script>window.struck=true</script>)",
    "[click](vbscript:msgbox)",
    "[click](//evil.example/x)",
    "![x](x' onerror='window.struck=true)",
    "`<img src=x onerror='window.struck = true'>`",
    "```<img src=x onerror='window.struck = true'>\n<script>window.struck = true</script>\n```",
    "# <b onmouseover='window.struck=true'>heading</b>",
    "- <input autofocus onfocus='window.struck = true'>",
    "> <style>body { display: none }</style>",
    "**<a href='javascript:window.struck=true'>bold</a>**",
    "&lt;img src=x&gt;",
)


def _answer(open_page: Open, text: str, *, size: int = 7) -> ChatPage:
    page, _ = open_page(Reply(pieces=tuple(text[at : at + size] for at in range(0, len(text), size))))
    page.say("Go")
    page.wait_idle()
    return page


def test_hostile_output_is_shown_as_text_and_does_nothing(open_page: Open) -> None:
    page = _answer(open_page, "\n\n".join(HOSTILE))
    shown = page.replies[0]
    for needle in ("<img src=x onerror=", "<script>window.struck", "<svg onload", "javascript:window", "&lt;img"):
        assert needle in shown
    made = page.driver.execute_script(
        "return [...document.querySelectorAll('.reply .text *')].map((e) => e.localName)"
        ".filter((name) => !['p', 'code', 'pre', 'div', 'span', 'button', 'svg', 'use', 'h3', 'ul', 'li',"
        " 'blockquote', 'strong', 'em'].includes(name))"
    )
    assert made == []
    assert page.driver.execute_script("return window.struck") is None
    assert page.complaints() == []


def test_thinking_is_folded_away_above_the_answer_and_is_only_text(open_page: Open) -> None:
    page, _ = open_page(Reply(thoughts=("Is it ", HOSTILE[0], "?\nNo."), pieces=("It is", " not.")), Reply())
    page.say("Go")
    page.wait_idle()
    assert page.replies == ["It is not."]
    shown = "const [e] = document.querySelectorAll('.thinking'); return [e.hidden, e.open, e.lastChild.textContent]"
    assert page.driver.execute_script(shown) == [False, False, f"Is it {HOSTILE[0]}?\nNo."]
    page.say("And now without")
    page.wait_idle()
    assert page.driver.execute_script("return document.querySelectorAll('.thinking')[1].hidden")
    assert page.driver.execute_script("return window.struck") is None
    assert page.complaints() == []


def test_hostile_input_is_shown_as_text_too(open_page: Open) -> None:
    page, _ = open_page()
    page.say(HOSTILE[0])
    page.wait_idle()
    page.driver.refresh()
    page.wait_ready()
    assert page.said == [HOSTILE[0]]
    assert page.all(".said img") == []


def test_links_lead_to_the_web_alone_and_tell_it_nothing(open_page: Open) -> None:
    page = _answer(open_page, "See [the docs](https://example.org/a_(b)?q=1) or http://example.org/plain.")
    links = page.all(".reply .text a")
    assert [link.get_attribute("href") for link in links] == [
        "https://example.org/a_(b)?q=1",
        "http://example.org/plain",
    ]
    for link in links:
        assert {"noopener", "noreferrer"} <= set(link.get_attribute("rel").split())
        assert link.get_attribute("target") == "_blank"


def test_formatted_text_becomes_elements(open_page: Open) -> None:
    page = _answer(
        open_page,
        "Some **bold**, *italic* and `code`.\n\n1. one\n2. two\n   - inner\n\n```python\nprint('<b>')\n```\n\n> said\n",
    )
    texts = {
        selector: [element.text for element in page.all(f".reply .text {selector}")]
        for selector in ("strong", "em", "p > code", "ol > li > .lead", "ul > li", "pre", ".language", "blockquote")
    }
    assert texts == {
        "strong": ["bold"],
        "em": ["italic"],
        "p > code": ["code"],
        "ol > li > .lead": ["one", "two"],
        "ul > li": ["inner"],
        "pre": ["print('<b>')"],
        ".language": ["python"],
        "blockquote": ["said"],
    }


def test_a_long_line_of_code_scrolls_in_its_block_not_with_the_page(open_page: Open) -> None:
    page, _ = open_page(Reply(pieces=("```\n" + "x" * 400 + "\n```\n" + "y" * 400,)), size=(360, 740))
    page.say("z" * 400)
    page.wait_idle()
    assert not page.is_wider_than_its_window
    assert page.driver.execute_script(
        "const pre = document.querySelector('pre'); return pre.scrollWidth > pre.clientWidth"
    )


def test_finished_blocks_keep_their_elements_while_text_streams_in(open_page: Open) -> None:
    page, _ = open_page(Reply(pieces=("First.\n\n```\none\n", "two\n```\n\n", "Third"), hold=True))
    page.say("Go")
    page.wait(lambda: page.replies and "Third" in page.replies[0], "the last block")
    result = page.script(
        """
        const { renderMarkdown } = await import("/page/rendering.js");
        const box = document.createElement("div");
        renderMarkdown(box, "A.\\n\\n```\\none");
        const [paragraph, code] = box.children;
        renderMarkdown(box, "A.\\n\\n```\\none\\ntwo\\n```\\n\\nB");
        return [box.children[0] === paragraph, box.children[1] === code, code.querySelector("code").textContent,
                box.children.length];
        """
    )
    assert result == [True, True, "one\ntwo", 3]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("a_b_c and 2 * 3 * 4", [["text", "a_b_c and 2 * 3 * 4"]]),
        ("***both***", [["strong", [["em", [["text", "both"]]]]]]),
        ("*one **two** one*", [["em", [["text", "one "], ["strong", [["text", "two"]]], ["text", " one"]]]]),
        ("**open", [["text", "**open"]]),
        ("``a`b``", [["code", "a`b"]]),
        (r"\*plain\*", [["text", "*plain*"]]),
        ("[x](ftp://a.example)", [["text", "[x](ftp://a.example)"]]),
    ],
)
def test_inline_marks_are_read_as_people_mean_them(open_page: Open, text: str, spans: list[Any]) -> None:
    page, _ = open_page(wait=False)
    read = page.script(
        """
        const { parseInline } = await import("/page/markdown.js");
        const plain = (spans) => spans.map((s) => [s.type, s.text ?? plain(s.spans)]);
        return plain(parseInline(given[0]));
        """,
        text,
    )
    assert read == spans


def test_no_text_takes_more_than_linear_time_to_render(open_page: Open) -> None:
    """Sixteen times the text may take some sixteen times as long; quadratic time would take 256 times.

    What else the machine does only ever adds to a time, so both are the best of some tries, by turns, and a text that
    seems slow is tried again: no number of tries makes quadratic time linear.
    """
    page, _ = open_page(wait=False)
    slow = page.script(
        """
        const { parseBlocks, parseInline } = await import("/page/markdown.js");
        const milliseconds = (text) => {
          const start = performance.now();
          parseBlocks(text).forEach((block) => parseInline(block.text ?? ""));
          return performance.now() - start;
        };
        const isLinear = (piece) => {
          const small = piece.repeat(1500), large = piece.repeat(24000), began = performance.now();
          let [quick, long] = [Infinity, Infinity];
          for (let tries = 1; tries <= 3 || performance.now() - began < 5000; tries += 1) {
            quick = Math.min(quick, milliseconds(small));
            long = Math.min(long, milliseconds(large));
            if (tries >= 3 && long <= 100 * Math.max(quick, 0.5)) return true;
          }
          return false;
        };
        const pieces = ["*a ", "_a*", "`a``b", "[", "[a](", "*", "> ", "- ", "- a\\n", "**a *b ", "http://", "```\\n"];
        return pieces.filter((piece) => !isLinear(piece));
        """
    )
    assert slow == []


def test_events_are_read_whole_wherever_the_network_cuts_them(open_page: Open) -> None:
    page, _ = open_page(wait=False)
    wrong = page.script(
        r"""
        const { eventData } = await import("/page/sse.js");
        const text = ": hello\r\n\r\ndata: {\"a\": \"é😀\"}\r\n\r\nevent: x\ndata:two\ndata: lines\n\n" +
                     "id: 3\rdata: cr\r\r: note\n\ndata: unfinished";
        const bytes = new TextEncoder().encode(text);
        const expected = JSON.stringify(['{"a": "é😀"}', "two\nlines", "cr"]);
        const wrong = [];
        for (let size = 1; size <= bytes.length; size += 1) {
          let at = 0;
          const stream = new ReadableStream({
            pull(controller) {
              if (at >= bytes.length) return controller.close();
              controller.enqueue(bytes.slice(at, (at += size)));
            },
          });
          const events = [];
          for await (const data of eventData(stream)) events.push(data);
          if (JSON.stringify(events) !== expected) wrong.push([size, events]);
        }
        return wrong;
        """
    )
    assert wrong == []


def test_metrics_are_summed_over_labels_and_nonsense_is_skipped(open_page: Open) -> None:
    page, _ = open_page(wait=False)
    read = page.script(
        r"""
        const { parseMetrics } = await import("/page/prometheus.js");
        return Object.fromEntries(parseMetrics(given[0]));
        """,
        '# HELP a b\n# TYPE a gauge\na{x="1",y="}"} 1.5\na{x="2"} 2 1700000000\nb NaN\nc +Inf\n{}\nd\n\ne 1e-3\r\n',
    )
    assert read == {"a": 3.5, "e": 0.001}
