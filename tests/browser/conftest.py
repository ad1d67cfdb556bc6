"""A headless Chromium, and the chat page as a person sees it."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from support.chat_page import DESKTOP, ChatPage
from support.live_server import serve
from support.scripted_api import Reply, ScriptedApi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver.chrome.webdriver import WebDriver

    from support.chat_page import Open

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-search-engine-choice-screen",
    "--window-size=1280,900",
    "--lang=en",
)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    """One browser for the session, in a profile of its own."""
    browser, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or chromedriver is None:
        pytest.skip("service: chromium (apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
    try:
        driver.set_script_timeout(20)
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def open_page(driver: WebDriver) -> Iterator[Open]:
    """Opens the page over a server that gives the replies of its script.

    `before` may change the script's other answers; `wait` is for the server to be found ready.
    """
    with ExitStack() as servers:

        def open_it(
            *replies: Reply,
            size: tuple[int, int] = DESKTOP,
            before: Callable[[ScriptedApi], object] = lambda _: None,
            wait: bool = True,
        ) -> tuple[ChatPage, ScriptedApi]:
            api = ScriptedApi(*replies)
            before(api)
            page = ChatPage(driver, servers.enter_context(serve(api)), size)
            if wait:
                page.wait_ready()
            return page, api

        yield open_it
