"""The laboratory's pages as a person meets them: opened from a file, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from penstock.lab.bench.records import flaws_of, metrics_of
from penstock.lab.pages import render_html
from penstock.lab.pages.compare_page import compare_page
from penstock.lab.pages.document import Document
from penstock.lab.pages.estimates import Estimate
from penstock.lab.pages.plots import Axis, Mark, Plot, Series
from penstock.lab.pages.run_page import RunPage, run_page
from penstock.lab.pages.sweep_page import sweep_page
from penstock.lab.pages.units import figure
from support.chat_page import DESKTOP, PHONE, ChatPage
from support.report_pages import SLO, near, some_comparison, some_run, some_sweep

if TYPE_CHECKING:
    from collections.abc import Callable

    from selenium.webdriver.chrome.webdriver import WebDriver

    from support.live_server import Live

ASSETS = Path(render_html.__file__).parent / "assets"
HOSTILE = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'>\"'&<b>"


class ReportPage(ChatPage):
    """One visit to a file."""

    def __init__(self, driver: WebDriver, file: Path) -> None:
        self.driver = driver
        self._server: Live | str = ""
        self.resize(DESKTOP)
        self.scheme("light")
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get(file.as_uri())
        self.wait(lambda: self.all("html[data-drawn]"), "the script's end")

    def plot(self, title: str) -> str:
        """The selector of the figure with this heading."""
        number = self.driver.execute_script(
            "return [...document.querySelectorAll('figure h3')].find((h) => h.textContent === arguments[0])"
            ".closest('figure').id",
            title,
        )
        return f"#{number}"

    def ticks(self, plot: str) -> list[str]:
        return [element.text for element in self.all(f"{plot} .axes text")]

    def read_first(self, plot: str) -> str:
        """What the plot says of its first point when asked by keyboard."""
        self.find(f"{plot} .canvas svg").send_keys(Keys.HOME)
        return self.text(f"{plot} .tip")

    @property
    def requests(self) -> list[str]:
        """What the page asked for beyond itself."""
        asked = self.driver.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
        return list(asked)


class OpenFile(Protocol):
    def __call__(self, document: Document) -> ReportPage: ...


@pytest.fixture
def open_file(driver: WebDriver, tmp_path: Path) -> OpenFile:
    def open_it(document: Document) -> ReportPage:
        file = tmp_path / "page.html"
        file.write_text(render_html.render(document), encoding="utf-8")
        return ReportPage(driver, file)

    return open_it


def a_run(*, failing: str = "", title: str = "A run") -> Document:
    runs = [some_run(seed=1, failing=failing), some_run(seed=2)]
    page = RunPage(title=title, metrics=metrics_of(runs, SLO), runs=runs, flaws=flaws_of(runs), slo=SLO)
    return run_page(page)


PAGES: dict[str, Callable[[], Document]] = {
    "run": a_run,
    "sweep": lambda: sweep_page(some_sweep(near(10.4, "requests/s"))),
    "compare": lambda: compare_page(some_comparison()),
}


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", PAGES)
def test_every_plot_is_drawn_without_a_request_or_a_complaint(
    open_file: OpenFile, name: str, size: tuple[int, int]
) -> None:
    page = open_file(PAGES[name]())
    page.resize(size)
    for tab in page.all(".tabs button"):
        if tab.is_displayed():
            tab.click()
    seen = [place for place in page.all("[data-plot]") if place.is_displayed()]
    page.wait(lambda: all(place.find_elements("css selector", "svg .axes text") for place in seen), "all plots")
    assert len(seen) >= {"run": 8, "sweep": 3, "compare": 2}[name]
    assert page.requests == []
    assert page.complaints() == []
    wide = page.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0


def test_values_under_the_pointer_are_those_of_the_record(open_file: OpenFile) -> None:
    compared = some_comparison()
    page = open_file(compare_page(compared))
    plot = page.plot("output throughput")
    svg = page.find(f"{plot} .canvas svg")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    box = svg.rect
    for place, engine in ((0.3, compared.engines[0]), (0.75, compared.engines[1])):
        across = int(box["width"] * (place - 0.5))
        ActionChains(page.driver).move_to_element_with_offset(svg, across, int(box["height"] * 0.2)).perform()
        tip = page.text(f"{plot} .tip")
        assert tip.startswith(engine.name)
        estimate = engine.figures["output_throughput"]
        assert figure(estimate.value, "tokens/s", 4) in tip
        assert f"[{figure(estimate.low or 0, 'tokens/s')} to {figure(estimate.high or 0, 'tokens/s')}]" in tip


def test_the_keyboard_reads_what_the_pointer_does(open_file: OpenFile) -> None:
    sweep = some_sweep(near(10.4, "requests/s"))
    page = open_file(sweep_page(sweep))
    plot = page.plot("Output against load")
    tip = page.read_first(plot)
    assert "offered: 2 requests/s" in tip
    assert "200 tokens/s [190 tokens/s to 210 tokens/s]" in tip
    page.find(f"{plot} .canvas svg").send_keys(Keys.ARROW_RIGHT)
    assert "800 tokens/s" in page.text(f"{plot} .tip")
    assert "tried 8" in page.text(f"{plot} .tip")
    spoken = page.driver.execute_script(
        "return document.querySelector(arguments[0] + ' [aria-live]').textContent", plot
    )
    assert "800 tokens/s" in spoken
    page.find(f"{plot} .canvas svg").send_keys(Keys.ESCAPE)
    assert not page.shows(f"{plot} .tip")


def test_a_series_is_hidden_shown_and_singled_out(open_file: OpenFile) -> None:
    page = open_file(PAGES["sweep"]())
    plot = page.plot("Goodput")

    def drawn() -> list[str | None]:
        return [each.get_attribute("data-series") for each in page.all(f"{plot} [data-series]")]

    buttons = {each.text: each for each in page.all(f"{plot} .legend button")}
    assert drawn() == list(buttons) == ["answers/s", "goodput", "as offered"]
    buttons["goodput"].click()
    assert drawn() == ["answers/s", "as offered"]
    assert buttons["goodput"].get_attribute("aria-pressed") == "false"
    buttons["goodput"].click()
    assert drawn() == ["answers/s", "goodput", "as offered"]
    ActionChains(page.driver).double_click(buttons["answers/s"]).perform()
    assert drawn() == ["answers/s"]


def test_a_logarithmic_axis_is_one_click_away_and_back(open_file: OpenFile) -> None:
    page = open_file(PAGES["sweep"]())
    plot = page.plot("TTFT against throughput")
    before = page.ticks(plot)
    button = next(each for each in page.all(f"{plot} .tools button") if each.text == "log y")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert page.ticks(plot) != before
    assert "0" in page.ticks(plot)
    button.click()
    assert page.ticks(plot) == before


def test_a_stretch_is_zoomed_into_and_out_of(open_file: OpenFile) -> None:
    page = open_file(a_run())
    plot = page.plot("Requests under way")
    svg = page.find(f"{plot} .canvas svg")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    before = page.ticks(plot)
    reach = int(svg.rect["width"] * 0.15)
    chain = ActionChains(page.driver).move_to_element(svg).click_and_hold()
    chain.move_by_offset(reach // 2, 0).move_by_offset(reach // 2, 0).release().perform()
    assert page.ticks(plot) != before
    reset = next(each for each in page.all(f"{plot} .tools button") if each.text == "Reset zoom")
    reset.click()
    assert page.ticks(plot) == before
    assert not reset.is_displayed()


def test_the_table_behind_a_plot_holds_its_numbers(open_file: OpenFile) -> None:
    page = open_file(PAGES["sweep"]())
    plot = page.plot("Goodput")
    next(each for each in page.all(f"{plot} .tools button") if each.text == "Table").click()
    rows = [[cell.text for cell in row.find_elements("css selector", "td")] for row in page.all(f"{plot} tbody tr")]
    assert len(rows) == 15
    assert rows[0] == ["answers/s", "2", "2", "1.9", "2.1", "2 requests/s: STABLE"]


def test_a_table_is_sorted_by_its_numbers(open_file: OpenFile) -> None:
    page = open_file(PAGES["sweep"]())
    head = page.find("section table.sortable thead th button")

    def loads() -> list[str]:
        return [each.text for each in page.all("section table.sortable tbody th")]

    assert loads() == ["2 requests/s", "16 requests/s", "8 requests/s", "10 requests/s", "12 requests/s"]
    head.click()
    assert [each.split()[0] for each in loads()] == ["2", "8", "10", "12", "16"]
    head.click()
    assert [each.split()[0] for each in loads()] == ["16", "12", "10", "8", "2"]


def test_one_view_of_a_quantity_is_seen_at_a_time(open_file: OpenFile) -> None:
    page = open_file(a_run())
    tabs = page.all(".views")[0].find_elements("css selector", ".tabs button")
    assert [tab.text for tab in tabs] == ["Distribution", "Tail", "Histogram"]
    tabs[1].click()
    assert page.shows(page.plot("Time to first token: the tail"))
    assert not page.shows(page.plot("Time to first token"))


@pytest.mark.parametrize("name", ["run", "sweep", "compare"])
def test_hostile_names_are_shown_and_never_run(open_file: OpenFile, name: str) -> None:
    document = {
        "run": lambda: a_run(failing=HOSTILE, title=HOSTILE),
        "sweep": lambda: sweep_page(some_sweep(Estimate(10.0, "requests/s"), name=f"ttft {HOSTILE}")),
        "compare": lambda: compare_page(some_comparison((HOSTILE, "beta"))),
    }[name]()
    page = open_file(document)
    if name == "compare":
        assert page.read_first(page.plot("output throughput")).startswith(HOSTILE)
    if name == "sweep":
        assert f"TTFT {HOSTILE}" in page.read_first(page.plot("TTFT against throughput"))
    if name == "run":
        assert page.text("h1") == HOSTILE
    for button in page.all(".tools button"):
        if button.is_displayed() and button.text == "Table":
            button.click()
    assert page.driver.execute_script("return window.hit") is None
    assert page.all("img, iframe, main b:not(.row b)") == []
    assert page.requests == []
    assert page.complaints() == []


def test_light_and_dark_are_drawn_in_colours_of_their_own(open_file: OpenFile) -> None:
    page = open_file(PAGES["sweep"]())

    def colours() -> list[str]:
        script = (
            "return [getComputedStyle(document.querySelector('.line')).stroke,"
            " getComputedStyle(document.querySelector('.plot')).backgroundColor]"
        )
        return list(page.driver.execute_script(script))

    light = colours()
    page.scheme("dark")
    assert all(a != b for a, b in zip(light, colours(), strict=True))


def test_the_script_writes_figures_in_the_same_words_as_the_page(driver: WebDriver) -> None:
    values = [0.0, 1.0, 12.0, 12.5, 999.4, 999.6, 1234.56, 1e6, 0.9996, 0.00123456, 4.2e-7, 3e-9, 61.0, 125.0, 8000.0,
              -0.0123, 1.5e-7, 3.2e9, 7.77e12, 0.05, 1e-3]  # fmt: skip
    cases: list[Any] = [[value, unit, digits] for value in values for unit in ("s", "1", "share", "bytes", "tokens/s")
                        for digits in (3, 4)]  # fmt: skip
    driver.get("about:blank")
    script = (ASSETS / "units.js").read_text(encoding="utf-8")
    told = driver.execute_script(script + "\nreturn arguments[0].map((each) => shownFigure(...each));", cases)
    assert told == [figure(*case) for case in cases]


def test_a_gap_in_a_line_and_an_empty_plot_are_drawn_as_such(open_file: OpenFile) -> None:
    nan = float("nan")
    gap = Plot(
        title="Gap", x=Axis(label="x"), y=Axis(label="y"),
        series=(Series(name="a", x=[0, 1, 2, 3], y=[1, nan, 2, 3]),),
    )  # fmt: skip
    empty = Plot(title="Empty", x=Axis(label="x"), y=Axis(label="y"), series=(Series(name="a", x=[], y=[]),))
    page = open_file(Document(title="x", lead=(gap, empty)))
    path = page.find(f"{page.plot('Gap')} .line").get_attribute("d")
    assert path is not None
    assert path.count("M") == 2
    assert "Nothing to draw." in page.text(page.plot("Empty"))
    assert page.complaints() == []


def test_a_mark_far_away_does_not_press_the_values_into_a_corner(open_file: OpenFile) -> None:
    def plot(bound: float) -> Plot:
        series = Series(name="a", x=[0, 1, 2], y=[0.05, 0.06, 0.07])
        mark = Mark(at=bound, label="bound", across="y")
        return Plot(
            title=f"To {bound}", x=Axis(label="x"), y=Axis(label="y", unit="s"), series=(series,), marks=(mark,)
        )

    page = open_file(Document(title="x", lead=(plot(0.09), plot(10.0))))
    near_by, far = (page.plot(f"To {bound}") for bound in (0.09, 10.0))
    assert "90" in page.ticks(near_by)
    assert page.shows(f"{near_by} .mark-labels text")
    assert not page.shows(f"{far} .mark-labels text")
    assert "70" in page.ticks(far)
