"""The HTML report: its content, and its behaviour in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.output.html_report import render_report
from tests.compare.conftest import Plant

CHROMIUM = os.environ.get("PEFTKIT_CHROMIUM") or shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)


@pytest.fixture
def page(plant: Plant, tmp_path: Path) -> Path:
    for seed in (1, 2, 3):
        plant("full", seed, [0.2, 0.3, 0.4, 0.9 + seed / 100], cost=2.0, options={"note": "</script><b>"})
        path = plant("lora", seed, [0.2, 0.6, 0.7, 0.75 + seed / 100])
    for folder in path.parent.iterdir():
        summary = json.loads((folder / "summary.json").read_text())
        scores = {"constant": 0.45, "majority": 0.3, "random": 0.28 + summary["seed"] / 100}
        summary["baselines"] = {name: {"test": {"accuracy": score}} for name, score in scores.items()}
        (folder / "summary.json").write_text(json.dumps(summary))
    groups = group_runs(find_runs([path.parent])[0])
    file = tmp_path / "report.html"
    file.write_text(render_report(groups, title="Which <one>?"), encoding="utf-8")
    return file


def data_of(page: Path) -> Any:
    text = page.read_text(encoding="utf-8")
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert match
    return json.loads(match[1])


def test_the_page_has_all_data_and_loads_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<title>Which &lt;one&gt;?</title>" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text), "the page loads nothing else"
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in text
    assert "</script><b>" not in text
    verdict, ranking = text.index('class="verdict">Use full: accuracy '), text.index('id="ranking"')
    assert verdict < ranking, "the verdict comes first"
    [section] = data_of(page)["sections"]
    assert (section["metric"], section["baseline"], section["axes"]) == (
        "accuracy",
        "full",
        ["gmacs", "seconds", "samples", "tokens"],
    )
    full, lora = section["methods"]
    assert (full["label"], lora["label"]) == ("full", "lora")
    assert full["runs"][0]["costs"]["gmacs"] == [0.0, 2.0, 4.0, 6.0]
    assert full["runs"][0]["test"]["accuracy"][1] == 0.3
    assert 'name = "lora"' in lora["recipe"]
    assert data_of(page)["environments"][lora["environment"]]["hardware"] == {"device": "cpu", "cores": 2}
    assert section["differing"] == ["method.name"]
    assert len(lora["examples"]) == 5
    assert "<td>full *</td>" in text
    assert section["fronts"]["gmacs"] == ["full", "lora"]
    scores = {"constant": 0.45, "majority": 0.3, "random": 0.3}
    assert section["baselines"] == {"dev": {}, "test": {"accuracy": scores}}


def test_the_script_reads_existing_keys_only(page: Path) -> None:
    script = (files("peftkit") / "assets" / "report" / "report.js").read_text(encoding="utf-8")
    data = data_of(page)
    [section] = data["sections"]
    method = section["methods"][0]
    added = {"section": set(), "method": {"index"}, "m": {"index"}, "run": {"values"}, "data": set()}
    for name, table in (
        ("data", data),
        ("section", section),
        ("method", method),
        ("m", method),
        ("run", method["runs"][0]),
    ):
        read = set(re.findall(rf"(?<![\w.-]){name}\.(\w+)", script))
        assert read
        assert read <= {*table, *added[name]}, name


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("there is no Chromium, and scripts/dev.py test may not install one")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def rows(browser: Any, table: str) -> list[list[str]]:
    script = (
        f"return [...document.querySelectorAll('#{table} tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    return browser.execute_script(script)  # type: ignore[no-any-return]


@pytest.mark.slow
def test_the_page_works_in_a_browser(page: Path, browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    browser.set_window_size(1200, 900)
    browser.get(page.as_uri())

    # The budget slider, moved by keys: full leads at the whole budget, LoRA at less.
    assert [row[1] for row in rows(browser, "ranking")] == ["full", "lora"]
    assert "full, accuracy 0.92" in browser.find_element(By.ID, "leader").text
    slider = browser.find_element(By.ID, "budget")
    slider.send_keys(Keys.HOME)
    assert [row[1] for row in rows(browser, "ranking")] == ["lora", "full"]
    assert browser.find_element(By.ID, "amount").text == "1 GMACs"
    assert all("read off longer runs" in row[3] for row in rows(browser, "ranking"))
    assert "Read off longer runs" in browser.find_element(By.ID, "leader").text
    for _ in range(150):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert rows(browser, "ranking")[0][1] == "lora"
    assert slider.get_attribute("aria-valuetext") == browser.find_element(By.ID, "amount").text != "1 GMACs"

    # The curves: a line and a band for each selected method.
    def count_curves(kind: str) -> int:
        return len(browser.find_elements(By.CSS_SELECTOR, f"#curves {kind}"))

    assert (count_curves("polyline"), count_curves("polygon")) == (2, 2)
    assert count_curves("line.baseline") == 3
    labels = [label.text for label in browser.find_elements(By.CSS_SELECTOR, "#curves .of-baseline")]
    assert labels == ["majority, random", "constant"]
    assert "Dotted: majority 0.3, random 0.3, constant 0.45." in browser.find_element(By.ID, "c-curves").text
    browser.find_element(By.ID, "none").send_keys(Keys.ENTER)
    assert count_curves("polyline") == 0
    browser.find_element(By.CSS_SELECTOR, "#methods input").send_keys(Keys.SPACE)
    assert count_curves("polyline") == 1
    browser.find_element(By.ID, "all").click()
    for name in ("seconds", "samples", "tokens", "gmacs"):
        Select(browser.find_element(By.ID, "axis")).select_by_value(name)
        assert count_curves("polyline") == 2
    before = browser.find_element(By.CSS_SELECTOR, "#curves polyline").get_attribute("points")
    browser.find_element(By.ID, "log").click()
    assert browser.find_element(By.CSS_SELECTOR, "#curves polyline").get_attribute("points") != before
    Select(browser.find_element(By.ID, "shape")).select_by_value("raw")
    splits = Select(browser.find_element(By.ID, "split"))
    assert [option.text for option in splits.options] == ["test", "dev"]  # train was not evaluated
    splits.select_by_value("dev")
    assert (count_curves("polyline"), count_curves("line.baseline")) == (2, 0), "none was recorded for dev"

    # Costs, absolute and relative to the baseline; the Pareto front; sorting; predictions; recipes.
    assert {row[0]: row[1] for row in rows(browser, "bars")} == {"lora": "3", "full": "6"}
    browser.find_element(By.ID, "relative").click()
    assert {row[0]: row[1] for row in rows(browser, "bars")} == {"lora": "0.5", "full": "1"}
    assert "lora, full" in browser.find_element(By.ID, "c-pareto").text
    assert len(browser.find_elements(By.CSS_SELECTOR, "#pareto path")) == 2
    assert len(browser.find_elements(By.CSS_SELECTOR, "#pareto line.baseline")) == 3
    heads = browser.find_elements(By.CSS_SELECTOR, "table.sortable th button")
    order = "return [...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[0].textContent)"
    assert browser.execute_script(order)[:3] == ["full *", "lora *", "constant"]
    heads[1].send_keys(Keys.ENTER)
    assert browser.execute_script(order)[2:] == ["constant", "lora *", "full *"]
    Select(browser.find_element(By.ID, "whose")).select_by_value("lora")
    assert rows(browser, "examples")[0][2:] == ["yes", "✓ yes"]
    browser.find_element(By.CSS_SELECTOR, "#runs summary").click()
    assert 'name = "full"' in browser.find_element(By.CSS_SELECTOR, "#runs pre").text

    # Dark mode, and a phone: nothing is wider than the screen, and controls are large enough.
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(paper)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    assert browser.execute_script(paper) != light
    phone = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.execute_script("document.querySelectorAll('option').forEach(o => { o.textContent = 'long_'.repeat(20); })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    letters = "return document.querySelector('#curves text').getBoundingClientRect().height"
    assert browser.execute_script(letters) > 10
    shot = tmp_path / "phone.png"
    assert browser.save_screenshot(str(shot))
    assert shot.stat().st_size > 10_000

    # Every control has a name, and the console has no messages.
    unnamed = """return [...document.querySelectorAll('select, input, button')].filter(
        e => !(e.labels && e.labels.length) && !e.textContent.trim() && !e.getAttribute('aria-label')).length"""
    assert browser.execute_script(unnamed) == 0
    assert browser.get_log("browser") == []
