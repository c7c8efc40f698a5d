"""The HTML report in headless Chromium: on 3 and on 60 methods, at three widths, by keyboard, and in print."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.output.html_report import render_report
from tests.compare.conftest import planter

pytestmark = pytest.mark.slow
CHROMIUM = os.environ.get("PEFTKIT_CHROMIUM") or shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)
WIDTHS = (400, 900, 1400)


def write_page(folder: Path, name: str) -> Path:
    page = folder / f"{name}.html"
    page.write_text(render_report(group_runs(find_runs([folder / name])[0])), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods on two tasks: on the second one they differ. Full fine-tuning leads, but at twice the cost."""
    folder = tmp_path_factory.mktemp("few")
    for task, gap in (("similar", 0.0), ("topics", 0.2)):
        for seed in (1, 2):
            for name, final, cost in (("full", 0.9, 2.0), ("lora", 0.9 - gap, 1.0), ("ia3", 0.7 - gap, 0.4)):
                early = 0.6 if name == "lora" else 0.3
                plant = planter(folder / "few" / f"{task}-{name}")
                path = plant(name, seed, [0.2, early, 0.65 - gap, final + seed / 100], cost=cost, task=task)
                summary = json.loads((path / "summary.json").read_text())
                scores = {"constant": 0.45, "majority": 0.3, "random": 0.31}
                summary["baselines"] = {each: {"test": {"accuracy": score}} for each, score in scores.items()}
                summary |= {"evaluation_seconds": 3.0, "wall_seconds": 20.0}
                (path / "summary.json").write_text(json.dumps(summary))
                trials = [
                    {"settings": {"train.learning_rate": rate}, "score": score, "loss": 1 - score, "run": "r"}
                    for rate, score in ((0.001, 0.5), (0.01, final), (0.1, 0.4))
                ]
                tuning = {"trials": 3, "gmacs": 3.0, "settings": {"train.learning_rate": 0.01}, "tried": trials}
                (path.parent / "tuning.json").write_text(json.dumps({"format": 1, **tuning}))
    return write_page(folder, "few")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty methods, some with long names."""
    folder = tmp_path_factory.mktemp("many")
    plant = planter(folder / "many")
    names = ["full", "lora", *(f"method_{i}" + "_with_a_rather_long_name" * (i % 9 == 0) for i in range(58))]
    for i, name in enumerate(names):
        final = 0.7 - 0.005 * i + 0.01 * (i * 7 % 5)
        plant(name, 1, [0.2, 0.3, final - 0.1, final], cost=1 + 0.02 * (i * 13 % 50), examples=50, constant=0.3)
    return write_page(folder, "many")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not CHROMIUM:
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium; CI must not skip the report's tests")
        pytest.skip("there is no Chromium, and scripts/dev.py test may not install one")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser') / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def open_page(browser: Any, page: Path, width: int = 1200) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


def emulate(browser: Any, theme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def rows(browser: Any, table: str) -> list[list[str]]:
    script = f"""return [...document.querySelectorAll('{table} tbody tr')].filter(r => !r.hidden)
        .map(r => [...r.cells].map(c => c.textContent))"""
    return browser.execute_script(script)  # type: ignore[no-any-return]


def labels_and_misplaced(browser: Any) -> tuple[int, list[str]]:
    """The number of labels in figures, and those that overlap another one or leave their figure."""
    script = """
    const misplaced = [], box = (e) => e.getBoundingClientRect();
    const apart = (a, b) => a.left >= b.right - 1 || b.left >= a.right - 1
      || a.top >= b.bottom - 2 || b.top >= a.bottom - 2;
    let number = 0;
    for (const svg of document.querySelectorAll('figure svg')) {
      const edge = box(svg), labels = [...svg.querySelectorAll('text.label')];
      number += labels.length;
      labels.forEach((label, i) => {
        const own = box(label);
        if (own.left < edge.left - 1 || own.right > edge.right + 1 || own.bottom > edge.bottom + 1)
          misplaced.push(`${svg.id}: ${label.textContent} is cut off`);
        for (const other of labels.slice(i + 1))
          if (!apart(own, box(other))) misplaced.push(`${svg.id}: ${label.textContent} on ${other.textContent}`);
      });
    }
    return [number, misplaced]"""
    number, misplaced = browser.execute_script(script)
    return number, misplaced


@pytest.mark.parametrize("methods", ["few", "many"])
def test_it_fits_the_screen_and_labels_do_not_overlap(
    methods: str, request: pytest.FixtureRequest, browser: Any, tmp_path: Path
) -> None:
    page = request.getfixturevalue(methods)
    sizes = []
    for width in WIDTHS:
        open_page(browser, page, width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        number, misplaced = labels_and_misplaced(browser)
        assert misplaced == [], width
        assert number >= 9
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        sizes.append(len(base64.b64decode(shot["data"])))
        letters = browser.execute_script(
            "return document.querySelector('#frontier text').getBoundingClientRect().height"
        )
        assert letters > 10, "text of figures keeps its size"
    assert min(sizes) > 10_000, "something is drawn"
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf.startswith(b"%PDF")
    assert 2 <= pdf.count(b"/Type /Page\n") <= 40
    assert browser.get_log("browser") == []


def test_axe_finds_nothing(few: Path, browser: Any) -> None:
    axe = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    for theme in ("light", "dark"):
        emulate(browser, theme)
        open_page(browser, few)
        browser.execute_script(axe)
        result = browser.execute_async_script("axe.run().then(arguments[0])")
        problems = [(each["id"], [node["html"][:100] for node in each["nodes"]]) for each in result["violations"]]
        assert problems == [], theme
        assert len(result["passes"]) > 30
    emulate(browser, "light")


def test_the_table_shows_ten_rows_and_what_matches(many: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(browser, many)
    table = "table.comparison"
    assert len(rows(browser, table)) == 10
    button = browser.find_element(By.CSS_SELECTOR, ".scroll:has(table.comparison) + button")
    assert button.text == "Show all 61"
    button.send_keys(Keys.ENTER)
    assert len(rows(browser, table)) == 61, "all methods, and the baseline"
    button.send_keys(Keys.ENTER)
    browser.find_element(By.ID, "find").send_keys("rather_long")
    assert len(rows(browser, table)) == 7
    assert browser.find_element(By.ID, "matching").text == "7 of 60 methods match"
    browser.find_element(By.ID, "memory").send_keys("1.4")
    matching = rows(browser, table)
    assert 0 < len(matching) < 7
    shown = "return getComputedStyle(document.querySelector('table.comparison th.extra')).display"
    assert browser.execute_script(shown) == "none"
    browser.find_element(By.ID, "columns").click()
    assert browser.execute_script(shown) == "table-cell"
    assert all(float(row[-1 if row[-1] else -2].split()[0]) <= 1.4 for row in matching if "GiB" in row[-1])

    # Sorting keeps the filter; a term is explained when its column has the focus.
    heads = browser.find_elements(By.CSS_SELECTOR, f"{table} th button")
    heads[1].send_keys(Keys.ENTER)
    scores = [float(row[1]) for row in rows(browser, table)]
    assert scores == sorted(scores)
    assert len(scores) == len(matching)
    assert "expected test score" in browser.find_element(By.ID, "tip").text
    described = browser.find_element(By.ID, heads[1].get_attribute("aria-describedby"))
    assert "expected test score" in described.text


def test_tasks_and_figures_follow_the_choice(few: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    open_page(browser, few)
    section = Select(browser.find_element(By.ID, "section"))
    assert section.first_selected_option.text == "topics with m", "it opens where methods differ"
    tasks = browser.find_elements(By.CSS_SELECTOR, "#tasks button")
    assert [task.get_attribute("aria-pressed") for task in tasks] == ["false", "true"]
    tasks[0].send_keys(Keys.ENTER)
    assert section.first_selected_option.text == "similar with m"
    browser.find_elements(By.CSS_SELECTOR, "#tasks button")[1].click()

    def count(kind: str) -> int:
        return len(browser.find_elements(By.CSS_SELECTOR, kind))

    # The frontier: a mark and an interval for each method, baselines and full fine-tuning as lines.
    assert (count("#frontier .mark"), count("#frontier .whisker"), count("#frontier .front")) == (3, 3, 1)
    assert (count("#frontier .baseline"), count("#frontier .full")) == (3, 1)
    caption = browser.find_element(By.ID, "c-frontier").text
    assert "On the Pareto front: ia3, lora, full." in caption
    assert "constant 0.45" in caption
    browser.find_element(By.ID, "frontier").send_keys(Keys.ARROW_RIGHT)
    assert browser.find_element(By.ID, "tip").text.startswith("ia3: accuracy 0.5")

    # Curves: chosen methods in color with a band, the rest in grey.
    assert (count("#curves .curve"), count("#curves .band"), count("#curves .rest")) == (3, 3, 0)
    browser.find_element(By.ID, "none").send_keys(Keys.ENTER)
    assert (count("#curves .curve"), count("#curves .rest"), count("#tuning .rest")) == (0, 3, 3)
    browser.find_element(By.CSS_SELECTOR, "#methods input").send_keys(Keys.SPACE)
    assert (count("#curves .curve"), count("#curves .rest"), count("#tuning .curve")) == (1, 2, 1)
    browser.find_element(By.ID, "all").click()
    for name in ("seconds", "samples", "tokens", "gmacs"):
        Select(browser.find_element(By.ID, "axis")).select_by_value(name)
        assert count("#curves .curve") == 3
    before = browser.find_element(By.CSS_SELECTOR, "#curves .curve").get_attribute("points")
    browser.find_element(By.ID, "log").click()
    assert browser.find_element(By.CSS_SELECTOR, "#curves .curve").get_attribute("points") != before
    Select(browser.find_element(By.ID, "shape")).select_by_value("raw")
    splits = Select(browser.find_element(By.ID, "split"))
    assert [option.text for option in splits.options] == ["test", "dev"], "train was not evaluated"
    splits.select_by_value("dev")
    assert (count("#curves .curve"), count("#curves .baseline")) == (3, 0), "no baseline was recorded for dev"

    # Equal costs give a row per method; tuning curves have a point per rate.
    Select(browser.find_element(By.ID, "frontier-axis")).select_by_value("samples")
    assert "cost about the same" in browser.find_element(By.ID, "c-frontier").text
    assert count("#frontier .mark") == 3
    assert count("#tuning .mark") == 9
    assert browser.get_log("browser") == []


def test_probes_add_a_figure_of_learning_and_forgetting(few: Path, browser: Any, tmp_path: Path) -> None:
    text = few.read_text(encoding="utf-8")
    rows = [
        {"label": name, "on_front": name != "ia3", "score": score, "low": score - 0.1, "high": score + 0.1}
        | {"forgotten": forgotten, "forgotten_low": forgotten - 0.01, "forgotten_high": forgotten + 0.01}
        for name, score, forgotten in (("full", 0.9, 0.2), ("lora", 0.7, 0.05), ("ia3", 0.5, 0.06))
    ]
    retention = {"prose": {"metric": "loss", "relative": True, "rows": rows}}
    assert text.count('"retention":{}') == 2
    page = tmp_path / "probes.html"
    page.write_text(text.replace('"retention":{}', f'"retention":{json.dumps(retention)}'), encoding="utf-8")
    for width in (400, 1400):
        open_page(browser, page, width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        count = "return document.querySelectorAll('#retention .mark, #retention .whisker').length"
        assert browser.execute_script(count) == 9, "a mark and two intervals for each method"
        assert labels_and_misplaced(browser)[1] == []
    caption = browser.execute_script("return document.getElementById('c-retention').textContent")
    assert "No method learns more and forgets less than: full, lora." in caption
    assert browser.get_log("browser") == []


def test_budget_costs_seconds_and_predictions(few: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    open_page(browser, few)
    # The budget slider, moved by keys: full leads at the whole budget, another one at less.
    assert [row[1] for row in rows(browser, "#ranking")] == ["full", "lora", "ia3"]
    slider = browser.find_element(By.ID, "budget")
    slider.send_keys(Keys.HOME)
    assert browser.find_element(By.ID, "amount").text == "0.4 GMACs"
    assert rows(browser, "#ranking")[0][1] == "ia3"
    for _ in range(100):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert rows(browser, "#ranking")[0][1] == "lora"
    assert "read off longer runs" in rows(browser, "#ranking")[0][3]
    assert slider.get_attribute("aria-valuetext") == browser.find_element(By.ID, "amount").text

    assert {row[0]: row[1] for row in rows(browser, "#bars")} == {"ia3": "0.2", "lora": "0.5", "full": "1"}
    browser.find_element(By.ID, "relative").click()
    assert {row[0]: row[1] for row in rows(browser, "#bars")} == {"ia3": "1.2", "lora": "3", "full": "6"}
    assert rows(browser, "#seconds")[0][2:] == ["12", "3", "5", "20"], "training, evaluation, the rest, the total"

    # What one method gets right and another wrong, and a search in it.
    first, second, which = (Select(browser.find_element(By.ID, name)) for name in ("one", "two", "which"))
    first.select_by_value("full")
    second.select_by_value("ia3")
    which.select_by_value("one")
    assert all(row[3:] == ["✓ yes", "✗ no"] for row in rows(browser, "#examples"))
    assert browser.find_element(By.CSS_SELECTOR, "#examples caption").text.startswith("80 of 200 rows")
    browser.find_element(By.ID, "more").click()
    assert len(rows(browser, "#examples")) == 30
    which.select_by_value("two")
    assert rows(browser, "#examples") == []
    which.select_by_value("all")
    browser.find_element(By.ID, "search").send_keys("no")
    assert all("✗ no" in row for row in rows(browser, "#examples"))
    browser.find_element(By.CSS_SELECTOR, "#runs summary").click()
    assert 'name = "full"' in browser.find_element(By.CSS_SELECTOR, "#runs pre").text

    # Every control has a name, and the console has no messages.
    unnamed = """return [...document.querySelectorAll('select, input, button')].filter(
        e => !(e.labels && e.labels.length) && !e.textContent.trim() && !e.getAttribute('aria-label')).length"""
    assert browser.execute_script(unnamed) == 0
    assert browser.get_log("browser") == []
