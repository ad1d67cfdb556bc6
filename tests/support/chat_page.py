"""The chat page, driven as a person would: by what is seen and by the keyboard."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

if TYPE_CHECKING:
    from collections.abc import Callable

    from selenium.webdriver.chrome.webdriver import WebDriver
    from selenium.webdriver.remote.webelement import WebElement

    from support.live_server import Live
    from support.scripted_api import ScriptedApi

PATIENCE = 15.0  # seconds
DESKTOP = (1280, 900)
PHONE = (360, 740)


class ChatPage:
    """One visit to the page of a server."""

    def __init__(self, driver: WebDriver, server: Live | str, size: tuple[int, int] = DESKTOP) -> None:
        url = server if isinstance(server, str) else server.url
        self.driver = driver
        self._server = server
        self.resize(size)
        self.scheme("light")
        driver.get("about:blank")  # a page saves as it is left: first leave, then clear
        driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": url, "storageTypes": "all"})
        driver.get_log("browser")  # what an earlier page left there
        driver.get(url + "/")

    def on_server(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function` returns when called in the thread of a server that lives in this process."""
        assert not isinstance(self._server, str), "this server is another process"
        return self._server.call(function, *arguments)

    def resize(self, size: tuple[int, int]) -> None:
        width, height = size
        is_phone = width < 600
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        touch = {"enabled": is_phone, "maxTouchPoints": 5 if is_phone else 1}
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", touch)

    def scheme(self, name: str) -> None:
        """Light or dark, as the system would prefer."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def settle(self, **settings: Any) -> None:
        """Come again with these settings kept from an earlier visit."""
        # As the new page's first act: the one that is open may be about to keep settings of its own.
        source = f"localStorage.setItem('penstock.settings.v1', {json.dumps(json.dumps(settings))})"
        script = self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
        self.driver.refresh()
        self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def shows(self, selector: str) -> bool:
        return any(element.is_displayed() for element in self.all(selector))

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until `condition()` is true; fail with `what` and what the page shows instead."""
        waiting = WebDriverWait(
            self.driver, PATIENCE, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException]
        )
        try:
            return waiting.until(lambda _: condition())
        except TimeoutException:
            raise AssertionError(f"not seen: {what}; the page shows:\n{self.text('body')}") from None

    def wait_ready(self) -> None:
        self.wait(lambda: self.find("#state").get_attribute("data-state") == "ready", "the server found ready")

    def write(self, text: str) -> WebElement:
        area = self.find("#prompt")
        area.send_keys(text)
        return area

    def say(self, text: str) -> None:
        """Write a message, and send it with Enter."""
        self.write(text).send_keys(Keys.ENTER)

    def wait_idle(self) -> None:
        """Wait until no reply is under way."""
        self.wait(lambda: self.find("#composer").get_attribute("data-busy") == "false", "the reply's end")

    @property
    def said(self) -> list[str]:
        return [element.text for element in self.all(".user .said")]

    @property
    def replies(self) -> list[str]:
        return [element.text for element in self.all(".reply .text")]

    def script(self, code: str, *arguments: Any) -> Any:
        """The value of an asynchronous function's body."""
        return self.driver.execute_async_script(
            f"const [done, ...given] = [arguments[arguments.length - 1], ...arguments];"
            f"(async () => {{ {code} }})().then(done, (error) => done('failed: ' + error));",
            *arguments,
        )

    @property
    def is_wider_than_its_window(self) -> bool:
        return bool(
            self.driver.execute_script(
                "const boxes = [document.documentElement, document.body, document.querySelector('#scroll'),"
                " document.querySelector('.fields')];"
                "return boxes.some((box) => box.scrollWidth > box.clientWidth);"
            )
        )

    def complaints(self) -> list[str]:
        """What the browser's console holds against the page, since the last call."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] in {"SEVERE", "WARNING"}]


class Open(Protocol):
    """Opens the page over a scripted server; the fixture `open_page`."""

    def __call__(self, *replies: Any, **options: Any) -> tuple[ChatPage, ScriptedApi]: ...
