"""The content of the HTML report; ``test_html_report.py`` opens it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from peftkit.compare.comparison import compare
from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.output import report_predictions
from peftkit.compare.output.html_report import render_report, report_script
from peftkit.compare.output.report_data import collect_data, seconds_by_part
from peftkit.compare.output.report_predictions import collect_predictions
from peftkit.compare.output.report_terms import TERMS, find_term
from tests.compare.conftest import Plant


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
    order = ('class="verdict">Use full: accuracy ', 'id="frontier"', 'class="sortable comparison"', 'id="curves"')
    places = [text.index(part) for part in order]
    assert places == sorted(places), "the verdict comes first, then the frontier and the table"
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
    predictions = section["predictions"]
    assert (len(predictions["rows"]), predictions["of"], predictions["binary"]) == (200, 200, True)
    assert predictions["methods"]["lora"]["scores"].count(1.0) == 152
    assert (lora["family"], lora["mergeable"], full["family"]) == ("matrices", True, "weights")
    assert lora["seconds"] == {"training": 6.0}
    assert '<tr data-method="full"><th scope="row">full *</th>' in text
    assert section["fronts"]["gmacs"] == ["full", "lora"]
    scores = {"constant": 0.45, "majority": 0.3, "random": 0.3}
    assert section["baselines"] == {"dev": {}, "test": {"accuracy": scores}}


def test_the_script_reads_existing_keys_only(page: Path) -> None:
    script, data = report_script(), data_of(page)
    [section] = data["sections"]
    method = section["methods"][0]
    added = {"section": {"tuning"}, "method": set(), "m": set(), "run": {"values"}, "data": set()}
    for name, table in (
        ("data", data),
        ("section", section),
        ("method", {**method, **section["predictions"]["methods"]["lora"]}),
        ("m", method),
        ("run", method["runs"][0]),
    ):
        read = set(re.findall(rf"(?<![\w.-]){name}\.(\w+)", script))
        assert read
        assert read <= {*table, *added[name]}, name


def test_all_columns_that_are_explained_have_a_definition() -> None:
    assert find_term("cost (gmacs)") == "cost"
    assert find_term("to 0.95 of full") == "to a share"
    assert all(find_term(term) == term for term in TERMS)
    assert find_term("on dev2") == ""


def test_it_opens_on_the_task_that_separates_methods_most(plant: Plant) -> None:
    for seed in (1, 2):
        for task, best in (("close", 0.5), ("different", 0.8), ("near", 0.51)):
            plant("full", seed, [0.2, 0.5], task=task)
            path = plant("lora", seed, [0.2, best], task=task)
    groups = group_runs(find_runs([path.parent])[0])
    comparisons = [compare(group) for group in groups]
    data = collect_data(groups, comparisons, TERMS)
    assert data["sections"][data["opens"]]["task"] == "different"
    assert [section["separation"] for section in data["sections"]] == [0.0, 1.0, 0.0]


def test_rows_on_which_methods_differ_are_kept(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_predictions, "MAX_ROWS", 3)
    plant("full", 1, [0.5], examples=8, right=[True] * 4 + [False] * 4)
    path = plant("lora", 1, [0.5], examples=8, right=[True] * 3 + [False] * 2 + [True] * 1 + [False] * 2)
    [group] = group_runs(find_runs([path.parent])[0])
    predictions = collect_predictions(group, "accuracy", ["full", "lora"])
    assert predictions["of"] == 8
    assert [row["index"] for row in predictions["rows"]] == ["0", "3", "5"], "rows 3 and 5 differ; the rest is in order"
    assert predictions["methods"]["full"]["scores"] == [1.0, 1.0, 0.0]
    assert predictions["methods"]["lora"]["scores"] == [1.0, 0.0, 1.0]
    texts = predictions["texts"]
    assert [texts[i] for i in predictions["methods"]["lora"]["texts"]] == ["yes", "no", "yes"]


def test_runs_of_other_rows_have_no_common_predictions(plant: Plant) -> None:
    path = plant("full", 1, [0.5], examples=8)
    [group] = group_runs(find_runs([path.parent])[0])
    (path / "predictions" / "test.jsonl").unlink()
    assert collect_predictions(group, "accuracy", ["full"])["rows"] == []


def test_seconds_are_divided_into_parts(plant: Plant) -> None:
    path = plant("full", 1, [0.5])
    summary = json.loads((path / "summary.json").read_text())
    summary |= {"evaluation_seconds": 5.0, "probe_seconds": 2.0, "counting_seconds": 1.0, "wall_seconds": 10.0}
    (path / "summary.json").write_text(json.dumps(summary))
    [group] = group_runs(find_runs([path.parent])[0])
    parts = seconds_by_part(group.runs["full"])
    assert parts == {
        **{"training": 0.0, "evaluation": 3.0, "probes": 2.0, "counting MACs": 1.0},
        "loading and the rest": 4.0,
    }
