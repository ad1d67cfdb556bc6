"""The whole way: `penstock serve`, the default model, a browser."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.chat_page import PHONE, ChatPage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver.chrome.webdriver import WebDriver

SERVE = "from penstock.cli.main import main; main()"


@pytest.fixture
def served(smollm2_path: Path) -> Iterator[str]:
    """The URL of a server started as a person would, once it says that it is ready."""
    options = ["--port", "0", "--max-model-len", "1024", "--dtype", "float32"]  # exact: what it says is known
    command = [sys.executable, "-c", SERVE, "serve", str(smollm2_path), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            url, heard = "", []
            for line in server.stderr:
                heard.append(line)
                url = url or next(iter(re.findall(r"address\s+(http://\S+)", line)), "")
                if line.strip().startswith("ready"):
                    break
            assert url, "".join(heard)
            yield url
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=30)


@pytest.mark.slow
def test_a_person_talks_to_the_default_model(driver: WebDriver, served: str) -> None:
    page = ChatPage(driver, served, PHONE)
    page.settle(temperature=0, max_tokens=48)
    page.wait_ready()
    page.say("What is the capital of France?")
    page.wait(lambda: page.replies and page.replies[0], "the first words")
    page.wait_idle()
    assert "Paris" in page.replies[0]
    assert page.text("[data-figure=kv]").endswith("%")
    page.say("And of Italy?")
    page.wait(lambda: len(page.replies) == 2 and page.replies[1], "the second answer's first words")
    page.find("#composer button").click()
    page.wait_idle()
    page.wait(lambda: page.text("[data-figure=running]") == "0", "the engine at rest")
    assert "cached" in page.all(".reply .figures")[1].text
    page.say("Tell me a story about a river.")  # 48 tokens: over shorter answers the page gives no rate
    page.wait(lambda: len(page.replies) == 3 and page.replies[2], "the third answer's first words")
    page.wait_idle()
    assert float(page.text("[data-figure=rate]").replace(",", "")) > 1
    assert not page.is_wider_than_its_window
    assert page.complaints() == []
