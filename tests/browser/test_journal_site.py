"""The journal's pages, from files, as a person searches them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from penstock.lab.journal.begin import begin
from penstock.lab.journal.site import write
from support.journals import a_journal, a_record

if TYPE_CHECKING:
    from pathlib import Path

    from selenium.webdriver.chrome.webdriver import WebDriver

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    journal = a_journal(tmp_path / "journal")
    _, day = begin("Huge pages", journal.root)
    day.log.write_text(f"# Day 001\n\nWalks of pages: {HOSTILE} [r](../../benchmarks/r.json#x) [gone](code/x.py)\n")
    a_record(notes=(f"zebra {HOSTILE}",)).save(journal.benchmarks / "r.json")
    write(journal, tmp_path / "site")
    return tmp_path / "site"


def found(driver: WebDriver) -> list[str]:
    return [link.text for link in driver.find_elements(By.CSS_SELECTOR, "#found a")]


def test_a_word_is_found_from_any_page_and_leads_to_its_page(driver: WebDriver, site: Path) -> None:
    driver.get((site / "days" / "day-001-huge-pages" / "LOG.html").as_uri())
    assert "<img src=x" in driver.find_element(By.TAG_NAME, "main").text
    assert driver.find_element(By.LINK_TEXT, "r").get_attribute("href") == f"{(site / 'records/r.html').as_uri()}#x"
    driver.find_element(By.ID, "search").send_keys("zebra", Keys.ENTER)
    WebDriverWait(driver, 5).until(lambda d: found(d) == ["penstock 0.1.0: chat"])
    field = driver.find_element(By.ID, "search")
    field.send_keys(" WALKS")
    WebDriverWait(driver, 5).until(lambda d: "No page holds" in d.find_element(By.ID, "found").text)
    field.clear()
    field.send_keys("WALKS")
    WebDriverWait(driver, 5).until(lambda d: found(d) == ["Day 001"])
    driver.find_element(By.CSS_SELECTOR, "#found a").click()
    WebDriverWait(driver, 5).until(lambda d: d.title == "Day 001")
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
