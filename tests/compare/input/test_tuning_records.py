"""Notes of comparisons on tuning and on scores read off longer runs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from peftkit.cli import main
from peftkit.compare.budget_ranking import rank_within_budget
from peftkit.compare.comparison import Comparison, compare
from peftkit.compare.input.groups import RunGroup, group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.output.figures import draw_figures
from peftkit.compare.output.html_report import render_report
from peftkit.compare.output.regret_table import render as written_regrets
from peftkit.compare.output.table_formats import FORMATS, render
from peftkit.compare.regret import regret_curves
from peftkit.errors import InputError
from tests.compare.conftest import Plant

EDGE = {"key": "train.learning_rate", "end": "high", "value": 0.1}
TRANSFER = {"trials_budget": {"epochs": 0.25}, "final_budget": {"epochs": 4.0}, "order_holds": False}
RATES = (1e-4, 1e-3, 1e-2)


def tuning(**more: Any) -> dict[str, Any]:
    tried = [
        {
            "settings": {"train.learning_rate": rate},
            "seed": 0,
            "stage": "design",
            "score": None if rate == 1e-2 else 0.5 + 100 * rate,
            "loss": None if rate == 1e-2 else 1.0 - rate,
            "gmacs": 10.0,
            "run": f"run-{rate}",
        }
        for rate in RATES
    ]
    return {
        "format": 1,
        "design": {"trials": 3, "model_based": 0, "follow_ups": 2, "repeats": 2, "transfer": 0},
        "trials": 7,
        "gmacs": 70.0,
        "settings": {"train.learning_rate": 1e-3},
        "at_edge": [],
        "transfer": None,
        "head": None,
        "tried": tried,
        **more,
    }


def tuned(path: Path, **more: Any) -> Path:
    """Moves the run to a folder with a tuning record."""
    folder = path.parent / f"of-{path.name}"
    folder.mkdir()
    (folder / "tuning.json").write_text(json.dumps(tuning(**more)))
    return path.rename(folder / path.name)


def section_of(tmp_path: Path) -> RunGroup:
    [section] = group_runs(find_runs([tmp_path / "runs"])[0])
    return section


def schedule(name: str) -> dict[str, Any]:
    return {"train": {"batch_size": 8, "learning_rate": 0.1, "schedule": name}}


@pytest.fixture
def edged(plant: Plant, tmp_path: Path) -> RunGroup:
    """Two methods; tuning of one stopped at the edge of its range and had another budget."""
    for seed in (1, 2):
        tuned(plant("full", seed, [0.2, 0.4, 0.6]))
        tuned(plant("lora", seed, [0.2, 0.5, 0.7]), at_edge=[EDGE], transfer=TRANSFER)
    return section_of(tmp_path)


@pytest.mark.parametrize("output_format", FORMATS)
def test_every_format_notes_tuning_that_stopped_at_the_edge(
    output_format: str, edged: RunGroup, tmp_path: Path
) -> None:
    rendered = render([compare(edged)], output_format, wide=True)
    if output_format == "parquet":
        (tmp_path / "x.parquet").write_bytes(rendered)
        rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
        assert {row["method"]: row["at_edge"] for row in rows} == {
            "lora": "train.learning_rate at its high end (0.1)",
            "full": "",
        }
    elif output_format == "csv":
        rows = [*csv.DictReader(io.StringIO(rendered.decode()))]
        assert {row["method"]: bool(row["at_edge"]) for row in rows} == {"lora": True, "full": False}
        [notes] = [row["notes"] for row in rows if row["method"] == "lora"]
        assert "edge: tuning stopped at the edge of its range (train.learning_rate at its high end (0.1))" in notes
        assert "transfer: tuned at a budget of epochs" in notes
    elif output_format == "json":
        [comparison] = json.loads(rendered)["comparisons"]
        assert {line["method"]: line["at_edge"] for line in comparison["lines"]}["lora"] == [
            "train.learning_rate at its high end (0.1)"
        ]
    else:
        text = rendered.decode().replace("\\_", "_")  # as LaTeX prints it
        [row] = [line for line in text.splitlines() if "lora" in line and "7 trials" in line]
        assert "stopped at the edge of its range" in row, "in the table itself"
        [row] = [line for line in text.splitlines() if "full" in line and "7 trials" in line]
        assert "stopped at the edge" not in row
        text = " ".join(text.split())
        assert "Tuning stopped at the edge of its range: lora." in text, "in the verdict"
        where = "train.learning_rate at its high end (0.1)"
        assert f"edge: lora: tuning stopped at the edge of its range ({where})" in text
        assert "lora: tuned at a budget of epochs=0.25 for runs of epochs=4: the order of the two best" in text
        assert "does not hold at the final budget" in text


def test_advice_and_report_note_tuning_that_stopped_at_the_edge(
    edged: RunGroup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates = {each.method: each for each in rank_within_budget(edged, "gmacs", 2.0).candidates}
    assert set(candidates["full"].notes) == set()
    assert set(candidates["lora"].notes) == {"edge", "transfer"}
    assert main(["advise", str(tmp_path / "runs"), "--budget", "2gmacs"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "edge: lora: tuning stopped at the edge of its range" in out
    assert "does not hold at the final budget" in out
    page = render_report([edged])
    assert "stopped at the edge of its range" in page
    assert '"at_edge":true' in page
    assert '"at_edge":false' in page


def test_a_head_at_its_edge_is_noted_for_all_its_methods(plant: Plant, tmp_path: Path) -> None:
    head = {"learning_rate": 0.1, "gmacs": 30.0, "design": {"trials": 5}, "at_edge": [{**EDGE, "key": "head"}]}
    for method in ("lora", "full"):
        tuned(plant(method, 1, [0.2, 0.5]), head=head)
    assert {line.at_edge for line in compare(section_of(tmp_path)).lines} == {("head at its high end (0.1)",)}


@pytest.mark.parametrize(
    ("name", "read_off"), [("constant", False), ("linear", True), ("cosine", True), ("inverse_sqrt", True)]
)
def test_scores_of_longer_runs_are_noted_unless_the_rate_is_constant(
    name: str, read_off: bool, plant: Plant, tmp_path: Path
) -> None:
    for seed in (1, 2):
        plant("full", seed, [0.2, 0.3, 0.3, 0.6], tables=schedule(name))
        plant("lora", seed, [0.2, 0.4, 0.5, 0.7], tables=schedule(name))
    section = section_of(tmp_path)
    comparison = compare(section, budgets=(1.5, 3.0))
    assert [winner.read_off for winner in comparison.winners] == [read_off, False], (
        "runs that end at the budget are not read off"
    )
    assert ["read off" in line.notes for line in comparison.lines] == [read_off, False]
    assert {line.method: line.wins_within for line in comparison.lines} == {"lora": (1.5, 3.0), "full": ()}
    for output_format in FORMATS:
        rendered = render([comparison], output_format)
        if output_format == "json":
            winners = json.loads(rendered)["comparisons"][0]["winners"]
            assert [winner["read_off"] for winner in winners] == [read_off, False]
        elif output_format != "parquet":
            assert ("read off longer runs" in " ".join(rendered.decode().split())) == read_off
    assert {"read off" in each.notes for each in rank_within_budget(section, "gmacs", 1.5).candidates} == {read_off}
    page = render_report([section])
    assert f'"constant":{json.dumps(not read_off)}' in page


def test_advice_notes_scores_read_off_longer_runs(
    plant: Plant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        plant("full", seed, [0.2, 0.3, 0.3, 0.6], tables=schedule("linear"))
        plant("lora", seed, [0.2, 0.4, 0.5, 0.7], tables=schedule("linear"))
    for budget, read_off in (("2gmacs", True), ("3gmacs", False)):
        main(["advise", str(tmp_path / "runs"), "--budget", budget])
        assert ("read off longer runs" in " ".join(capsys.readouterr().out.split())) == read_off


def test_cost_with_tuning_adds_all_trials_and_those_of_the_head(plant: Plant, tmp_path: Path) -> None:
    head = {"learning_rate": 0.1, "gmacs": 30.0, "design": {"trials": 5}, "at_edge": []}
    for seed in (1, 2):
        tuned(plant("full", seed, [0.2, 0.4, 0.6]), head=head)
        tuned(plant("lora", seed, [0.2, 0.5, 0.7]), gmacs=7.0, head=head)
    section = section_of(tmp_path)
    comparison = compare(section, by="gmacs_with_tuning", budgets=(50.0, 102.0))
    assert {line.method: line.cost for line in comparison.lines} == {"full": 2 + 70 + 30, "lora": 2 + 7 + 30}
    assert [(winner.budget, winner.method) for winner in comparison.winners] == [(102.0, "lora")], (
        "one method alone costs 50"
    )
    assert compare(section).lines[0].cost == 2.0, "the default cost excludes tuning"
    assert any("all tuning trials" in note for note in render([comparison], "table").decode().splitlines())


def test_untuned_runs_are_left_out_of_costs_with_tuning(plant: Plant, tmp_path: Path) -> None:
    tuned(plant("full", 1, [0.2, 0.4, 0.6]))
    plant("lora", 1, [0.2, 0.5, 0.7])
    [section] = group_runs(find_runs([tmp_path / "runs"])[0], ["tuning"])
    comparison = compare(section, by="gmacs_with_tuning")
    assert [line.method for line in comparison.lines] == ["full"]
    assert comparison.unmeasured == ("lora",)


def test_different_tuning_designs_are_not_comparable(plant: Plant, tmp_path: Path) -> None:
    tuned(plant("full", 1, [0.2, 0.4]))
    tuned(plant("lora", 1, [0.2, 0.4]), design={"trials": 16, "model_based": 11, "follow_ups": 2, "repeats": 2})
    with pytest.raises(InputError, match=r"(?s)tuning: model_based is 0 and 11.*trials is 16 and 3"):
        section_of(tmp_path)


def test_regret_is_the_distance_to_the_methods_best_setting(edged: RunGroup) -> None:
    regret = regret_curves(edged)
    assert regret is not None
    assert regret.methods == ["full", "lora"]
    trials = [trial for trial in regret.tried if trial.method == "lora"]
    assert [trial.learning_rate for trial in trials] == [*RATES]
    assert [trial.regret for trial in trials] == [pytest.approx(0.09), 0.0, None]
    assert [trial.chosen for trial in trials] == [False, True, False]
    assert [trial.loss for trial in trials] == [pytest.approx(0.9999), pytest.approx(0.999), None]
    assert any(note.startswith("tuning stopped at the edge") for note in regret.notes)


@pytest.mark.parametrize("output_format", FORMATS)
def test_regret_is_rendered_in_every_format(
    output_format: str, edged: RunGroup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "regret"
    assert main(["compare", str(tmp_path / "runs"), "--regret", "--format", output_format, "-o", str(file)]) == 0
    if output_format == "parquet":
        rows = pq.read_table(file).to_pylist()
        assert [row["regret"] for row in rows if row["method"] == "full"] == [pytest.approx(0.09), 0.0, None]
    elif output_format == "csv":
        rows = [*csv.DictReader(io.StringIO(file.read_text()))]
        assert [float(row["learning_rate"]) for row in rows] == [*RATES] * 2
    elif output_format == "json":
        [regret] = json.loads(file.read_text())["regrets"]
        assert len(regret["tried"]) == 6
    else:
        text = file.read_text()
        assert all(word in text for word in ("learning rate", "regret", "0.0001", "0.0900", "n/a"))


def test_untuned_runs_have_no_regret(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    path = plant("lora", 1, [0.2, 0.4])
    assert main(["compare", str(path), "--regret"]) == 2
    assert "no method of these runs was tuned by a sweep" in capsys.readouterr().err


def test_report_and_figures_show_regret(edged: RunGroup, tmp_path: Path) -> None:
    page = render_report([edged])
    assert "<h3>Tuning trials</h3>" in page
    assert "<td>0.0900</td>" in page
    files = draw_figures([edged], tmp_path / "figures", ["svg"])
    [figure] = [file for file in files if file.name.endswith("-regret.svg")]
    text = figure.read_text()
    assert all(f">{word}</text>" in text for word in ("learning rate", "dev accuracy", "dev loss", "lora", "full"))


def test_tuned_learning_rates_are_not_in_method_labels(plant: Plant, tmp_path: Path) -> None:
    for method, rate in (("full", 1e-4), ("lora", 1e-2)):
        for seed in (1, 2):
            table = {"train": {"learning_rate": rate, "head_learning_rate": 0.01}}
            tuned(plant(method, seed, [0.2, 0.4], tables=table), settings={"train.learning_rate": rate})
    comparison: Comparison = compare(section_of(tmp_path))
    assert sorted(line.method for line in comparison.lines) == ["full", "lora"]


def test_runs_that_end_at_their_own_budget_are_within_it(plant: Plant, tmp_path: Path) -> None:
    # The last evaluation lies more than a mean step beyond the budget of 2 GMACs, which the recipe names.
    for seed in (1, 2):
        plant("full", seed, [0.2, 0.3, 0.3, 0.6], cost=1.3, tables=limited(2.0))
        plant("lora", seed, [0.2, 0.4, 0.5, 0.7], cost=1.5, tables=limited(2.0))
    section = section_of(tmp_path)
    (winner,) = compare(section, budgets=(2.0,)).winners
    assert (winner.method, winner.score, winner.read_off) == ("lora", pytest.approx(0.7, abs=0.01), False)
    reached = {
        each.method: (each.score, "read off" in each.notes)
        for each in rank_within_budget(section, "gmacs", 2.0).candidates
    }
    # Expected scores, slightly shrunk; the evaluation before the end has 0.3 and 0.5.
    assert reached == {"full": (pytest.approx(0.6, abs=0.01), False), "lora": (pytest.approx(0.7, abs=0.01), False)}
    assert '"limits":{"gmacs":2.0}' in render_report([section])


def limited(gmacs: float) -> dict[str, Any]:
    return {"train": {"schedule": "linear", "learning_rate": 0.1, "budget": {"gmacs": gmacs}}}


def test_runs_with_superseded_settings_are_left_out_with_a_notice(
    plant: Plant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rate, superseded in ((1e-3, True), (1e-2, False)):
        for seed in (1, 2):
            tables = {"train": {"learning_rate": rate}}
            path = plant("lora", seed, [0.2, 0.5], tables=tables)
            nested = tmp_path / "sweep" / f"{rate}-{seed}"
            nested.mkdir(parents=True)
            path.rename(nested / "run")
            record = {"format": 1, "trials": 9, "gmacs": 1.0, "settings": {}, "design": {"trials": 5}}
            (nested / "tuning.json").write_text(json.dumps(record | ({"superseded": True} if superseded else {})))
    main(["compare", str(tmp_path / "sweep")])
    printed = capsys.readouterr()
    assert printed.out.count("\nlora") == 1
    assert printed.err.count("its settings were replaced by a later tuning of its sweep") == 2


def test_every_format_of_regret_notes_tuning_that_stopped_at_the_edge(plant: Plant, tmp_path: Path) -> None:
    edge = [{"key": "train.learning_rate", "end": "high", "value": 0.1}]
    tried = [{"settings": {"train.learning_rate": 0.1}, "seed": 0, "stage": "design", "score": 0.5, "loss": 1.0}]
    record = {"format": 1, "trials": 1, "gmacs": 1.0, "settings": tried[0]["settings"], "tried": tried, "at_edge": edge}
    path = plant("lora", 1, [0.2, 0.5])
    folder = tmp_path / "sweep"
    folder.mkdir()
    path.rename(folder / "run")
    (folder / "tuning.json").write_text(json.dumps(record))
    section = group_runs(find_runs([folder])[0])
    for output_format in FORMATS:
        rendered = written_regrets(section, output_format)
        if output_format == "parquet":
            [row] = pq.read_table(io.BytesIO(rendered)).to_pylist()
            assert row["at_edge"] == "train.learning_rate at its high end (0.1)"
        else:
            lines = [line for line in rendered.decode().splitlines() if not line.startswith("%")]
            assert any("stopped at the edge" in line or "its high end (0.1)" in line for line in lines), output_format
