from __future__ import annotations

import io
import json
import re

import pytest

from peftkit.compare.comparison import Comparison, compare
from peftkit.compare.gather import find_runs, sections
from peftkit.compare.tables import written
from tests.compare.conftest import Plant


@pytest.fixture
def found(plant: Plant) -> Comparison:
    for seed in (1, 2):
        plant("full", seed, [0.2, 0.4, 0.6], cost=2.0)
        path = plant("lora_a", seed, [0.2, 0.5, 0.55])
    plant("full", 2, [0.2, 0.4, 0.5], cost=2.0)  # once more
    [section] = sections(find_runs([path.parent])[0])
    return compare(section, shares=(0.5, 0.99), budgets=(1.5, 4.0))


def test_the_table_says_all_that_was_asked(found: Comparison) -> None:
    text = written([found], "table").decode()
    assert "to 0.5 of full" in text
    assert "to 0.99 of full" in text
    assert "never" in text
    assert "within 1.5 gmacs: lora_a (0.5500)" in text
    assert "within 4 gmacs: full (0.6000)" in text
    assert "re-run noise: 0.0707 is the standard deviation of 1 recipes run again" in text
    assert "would be found about four times in five" in text
    assert "tuned" not in text, "nothing was"


def test_parquet_csv_and_json_hold_the_same_numbers(found: Comparison) -> None:
    import csv

    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(written([found], "parquet"))).to_pylist()
    rows = list(csv.DictReader(io.StringIO(written([found], "csv").decode())))
    told = json.loads(written([found], "json"))["comparisons"][0]
    for one, two, three in zip(table, rows, told["lines"], strict=True):
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
    assert told["noise"] == pytest.approx(0.1 / 2**0.5)
    assert told["detectable"] > 0


def test_papers_and_pages_get_what_they_can_read(found: Comparison) -> None:
    latex = written([found], "latex").decode()
    assert r"lora\_a" in latex
    assert latex.count(r"\\") == 3
    table = latex[latex.index(r"\begin") : latex.index(r"\end{tabular}")]
    outside = latex.replace(table, "").replace(r"\end{tabular}", "")
    title, *notes = [line for line in outside.splitlines() if line]
    assert title.startswith("% ")
    # A paper that reads the file in shows the notes.
    assert all(re.fullmatch(r"\\par\\noindent\{\\footnotesize .+\\par\}", note) for note in notes)
    assert any("intervals: " in note for note in notes)
    assert not any(re.search(r"(?<!\\)[%_#$]", text) for text in (table, *notes))
    markdown = written([found], "markdown").decode()
    assert markdown.splitlines()[0] == "### t with m: accuracy on test, of what dev selects; cost in gmacs"
    assert markdown.splitlines()[2].startswith("| method | seeds | score |")
    assert "\n\n* intervals: " in markdown
