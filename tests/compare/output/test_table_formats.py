from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest

from peftkit.compare.comparison import Comparison, compare
from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.output.table_formats import render, table_rows
from tests.compare.conftest import Plant


@pytest.fixture
def comparison(plant: Plant) -> Comparison:
    for seed in (1, 2):
        plant("full", seed, [0.2, 0.4, 0.6], cost=2.0)
        path = plant("lora_a", seed, [0.2, 0.5, 0.55])
    plant("full", 2, [0.2, 0.4, 0.5], cost=2.0)  # a repeat
    [section] = group_runs(find_runs([path.parent])[0])
    return compare(section, shares=(0.5, 0.99), budgets=(1.5, 4.0))


def test_the_table_shows_requested_shares_and_budgets(comparison: Comparison) -> None:
    text = render([comparison], "table", wide=True).decode()
    assert "to 0.5 of full" in text
    assert "to 0.99 of full" in text
    assert "never" in text
    assert re.search(r"within 1\.5 GMACs: lora_a \(0\.\d{4}, P\(best\) [=<>] \d+ %\)", text)
    assert re.search(r"within 4 GMACs: full \(0\.\d{4}, P\(best\) [=<>] \d+ %\)", text)
    assert "re-run noise: 0.0707, the standard deviation of repeated runs (1 recipe)" in text
    assert "would be significant" in text
    assert "tuned" not in text, "no run was tuned"


def test_the_wide_table_shows_the_uncertainty_of_areas_costs_and_front(plant: Plant) -> None:
    for seed in (1, 2, 3):
        plant("full", seed, [0.2, 0.3, 0.4, 0.5 + seed / 100])
        path = plant("lora", seed, [0.2, 0.4, 0.55, 0.6 + seed / 100])
    [section] = group_runs(find_runs([path.parent])[0])
    heads, *rows = table_rows(compare(section), wide=True)
    cells = dict(zip(heads, rows[0], strict=True))
    assert re.fullmatch(r"0\.\d{4} \(0\.\d{4} – 0\.\d{4}\)", cells["area"])
    assert re.fullmatch(r"[<>]? ?\d+ %", cells["P(front)"])
    assert re.fullmatch(r"[\d.]+ \([\d.]+ – [\d.]+\)", cells["to 0.95 of full"])


def test_parquet_csv_and_json_hold_the_same_numbers(comparison: Comparison) -> None:
    import csv

    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(render([comparison], "parquet"))).to_pylist()
    rows = list(csv.DictReader(io.StringIO(render([comparison], "csv").decode())))
    document = json.loads(render([comparison], "json"))["comparisons"][0]
    for one, two, three in zip(table, rows, document["lines"], strict=True):
        assert one["method"] == two["method"] == three["method"]
        assert one["score"] == float(two["score"]) == three["score"]
        assert one["cost_to_share_0.99"] == three["cost_to_share"]["0.99"]
        assert one["pareto_probability"] == float(two["pareto_probability"]) == three["pareto_probability"]
        assert (one["area_low"], one["area_high"]) == (three["area_low"], three["area_high"])
        ends = (one["cost_to_share_low_0.5"], one["cost_to_share_high_0.5"])
        assert [*ends] == three["cost_to_share_interval"]["0.5"]
        assert float(two["cost_to_share_high_0.5"]) == ends[1]
        assert one["reach_probability_0.99"] == three["reach_probability"]["0.99"]
        assert (two["never_0.99"], one["never_0.99"]) == (str(three["never"]["0.99"]), three["never"]["0.99"])
    assert document["noise"] == pytest.approx(0.1 / 2**0.5)
    assert document["detectable"] > 0


def test_latex_and_markdown_are_escaped_and_start_with_the_verdict(comparison: Comparison) -> None:
    latex = render([comparison], "latex").decode()
    assert r"lora\_a" in latex
    assert latex.count(r"\\") == 3
    table = latex[latex.index(r"\begin") : latex.index(r"\end{tabular}")]
    outside = latex.replace(table, "").replace(r"\end{tabular}", "")
    title, *notes = [line for line in outside.splitlines() if line]
    assert title.startswith("% ")
    assert "Use " in notes[0], "the verdict comes first"
    # Notes are LaTeX paragraphs, so that a document that inputs the file shows them.
    assert all(re.fullmatch(r"\\par\\noindent\{\\footnotesize .+\\par\}", note) for note in notes)
    assert any("interval: over 200 test examples" in note for note in notes)
    assert not any(re.search(r"(?<!\\)[%_#$]", text) for text in (table, *notes))
    markdown = render([comparison], "markdown").decode()
    assert markdown.splitlines()[0] == "### t with m: test accuracy of the checkpoint selected on dev"
    assert markdown.splitlines()[2] == comparison.verdict.sentences[0]
    assert "\n| method | score | 95 % interval | P(best) | cost (gmacs) |" in markdown
    assert "\n* 95 % interval: over 200 test examples" in markdown


def test_the_table_fits_80_columns_with_long_names_and_all_notes(plant: Plant) -> None:
    for seed in (1, 2):
        for number, alpha in enumerate((8, 16, 32)):
            options = {"alpha": alpha, "target_modules": "q_proj,k_proj,v_proj", "dropout": 0.1 * number}
            plant("a_method_with_a_long_name", seed, [0.2, 0.4, 0.5 + number / 10], cost=12345.0, options=options)
        path = plant("full", seed, [0.2, 0.5, 0.55])
    plant("single", 1, [0.2, 0.5, 0.55])
    plant("full", 3, [0.2, 0.5, 0.55], device="cuda")
    [section] = group_runs(find_runs([path.parent])[0], ["hardware"])
    comparison = replace(compare(section), baselines={"constant": 0.52, "majority": 0.3})
    text = render([comparison], "table").decode()
    assert max(map(len, text.splitlines())) <= 80
    heads, *rows = table_rows(comparison)
    assert heads == ("method", "score", "95 % interval", "P(best)", "cost (gmacs)", "note")
    assert [row[0] for row in rows if row[-1] == "baseline"] == ["constant", "majority"]
    scores = [float(row[1]) for row in rows[:-1]]
    assert scores == sorted(scores, reverse=True), "baselines are ranked among methods; one seed comes last"
    assert rows[-1][0].startswith("single")
    assert rows[-1][-1] == "one seed, pooled"
    assert len(table_rows(comparison, wide=True)[0]) > len(heads)


def test_every_format_has_the_notes(plant: Plant) -> None:
    for seed in (1, 2):
        plant("full", seed, [0.2, 0.5, 0.55], device="cuda")
        path = plant("lora", seed, [0.2, 0.4, 0.6])
    [section] = group_runs(find_runs([path.parent])[0], ["hardware"])
    comparison = compare(section)
    for output_format in ("table", "json", "csv", "markdown", "latex"):
        assert "pooled" in render([comparison], output_format).decode(), output_format
    import pyarrow.parquet as pq

    rows = pq.read_table(io.BytesIO(render([comparison], "parquet"))).to_pylist()
    assert all("pooled: " in row["notes"] for row in rows)
    assert all(row["verdict"] == " ".join(comparison.verdict.sentences) for row in rows)
    assert [row["recommended"] for row in rows] == [row["method"] == "lora" for row in rows]
