from __future__ import annotations

import json

import pytest

from peftkit.cli import main
from peftkit.compare.across import (
    BY_RANK,
    POCKET_CAVEAT,
    compare_across_tasks,
)
from peftkit.compare.output.across_pages import notes, table_rows
from tests.compare.across.conftest import BEST, TASKS, read, runs
from tests.compare.conftest import Plant, with_values


def test_the_verdict_names_the_method_tasks_and_models(plant: Plant) -> None:
    path = runs(plant, BEST)
    runs(plant, BEST, ("rte",), model="roberta-base")
    comparison = compare_across_tasks(read(path))
    assert comparison.verdict == (
        "Overall: lora (P > 99 %), by mean normalised score on 3 tasks with t5-base: cola, rte, sst2 and "
        "1 task with roberta-base: rte"
    )
    assert any(note.startswith("rte: 2 models share test examples") for note in notes(comparison))
    assert "intervals: 95%, for these tasks and models only" in notes(comparison)


def test_methods_that_lead_on_different_tasks_are_not_settled(plant: Plant) -> None:
    path = runs(plant, {"full": 0.70, "lora": 0.80}, ("cola",))
    runs(plant, {"full": 0.80, "lora": 0.70}, ("rte",))
    comparison = compare_across_tasks(read(path))
    assert not comparison.settled
    assert comparison.verdict.startswith("Overall: not settled: ")
    assert "on 2 tasks with t5-base: cola, rte" in comparison.verdict
    assert "a difference of " in comparison.verdict
    assert [line.rank.mean for line in comparison.lines] == pytest.approx([1.5, 1.5], abs=0.05)


# Tasks and methods that count.


def test_pocket_models_get_a_caveat_or_are_left_out(plant: Plant) -> None:
    path = runs(plant, BEST, model="pocket-t5")
    alone = compare_across_tasks(read(path))
    assert alone.pocket
    assert alone.verdict == (
        "On pocket models: lora (P > 99 %), by mean normalised score on 3 tasks with pocket-t5: cola, rte, "
        f"sst2. {POCKET_CAVEAT}"
    )
    runs(plant, {"full": 0.85, "lora": 0.70, "vera": 0.60})
    mixed = compare_across_tasks(read(path))
    assert mixed.verdict.startswith("Overall: full ")
    assert "pocket" not in mixed.verdict
    assert ("rte with pocket-t5", "results of a pocket model do not carry over to larger models") in mixed.left_out


def test_methods_with_one_seed_or_a_missing_task_are_left_out_and_named(plant: Plant) -> None:
    path = runs(plant, BEST)
    runs(plant, {"bitfit": 0.9}, ("rte", "sst2"))
    runs(plant, {"ia3": 0.9}, ("cola", "rte"))
    runs(plant, {"ia3": 0.9}, ("sst2",), seeds=1)
    comparison = compare_across_tasks(read(path))
    assert {line.method for line in comparison.lines} == {*BEST}
    assert dict(comparison.left_out) == {
        "bitfit": "missing in cola with t5-base",
        "ia3": "one seed in sst2 with t5-base",
    }
    assert "left out: bitfit: missing in cola with t5-base" in notes(comparison)


@pytest.mark.parametrize("tasks", [("rte",), ("rte", "cola")])
def test_too_few_tasks_or_methods_are_rejected_with_the_reasons(
    tasks: tuple[str, ...], plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs(plant, {"lora": 0.8}, tasks[:1])
    runs(plant, {"vera": 0.8}, tasks[1:]) if len(tasks) > 1 else None
    assert main(["compare", str(path), "--across"]) == 2
    text = capsys.readouterr().err
    if len(tasks) == 1:
        assert (
            "a comparison across tasks needs runs of at least 2 tasks or models, but there are: rte with t5-base"
            in text
        )
    else:
        assert "needs 2 methods or more with two seeds in every task and model, but there are: noth" in text
        assert "lora: missing in cola with t5-base" in text
        assert "vera: missing in rte with t5-base" in text


def test_variants_are_matched_by_their_options(plant: Plant) -> None:
    for task in ("cola", "rte"):
        path = runs(plant, {"full": 0.7}, (task,))
        for rank in (4, 8):
            runs(plant, {"lora": 0.6 + rank / 50}, (task,), options={"r": rank})
    assert [line.method for line in compare_across_tasks(read(path)).lines] == ["lora (r=8)", "full", "lora (r=4)"]


def test_a_method_with_one_variant_per_task_is_one_row_with_a_note(plant: Plant) -> None:
    path = runs(plant, {"full": 0.7}, ("cola", "rte"))
    runs(plant, {"lora": 0.8}, ("cola",), options={"r": 4})
    runs(plant, {"lora": 0.8}, ("rte",), options={"r": 8})
    comparison = compare_across_tasks(read(path))
    assert comparison.lines[0].method == "lora"
    assert "lora: options differ between tasks and models: r is 4 and 8" in comparison.remarks


def test_matched_variants_of_different_size_are_one_method(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs(plant, {"full": 0.7}, ("cola", "rte"))
    for task in ("cola", "rte"):
        for rank in (4, 8):
            runs(plant, {"lora": 0.8}, (task,), options={"r": rank})
    for folder in path.iterdir():  # the matching variant has as many parameters as full
        summary = json.loads((folder / "summary.json").read_text())
        near = 4 if summary["task"] == "cola" else 8
        same = f"r = {near}" in (folder / "recipe.toml").read_text() or summary["method"] == "full"
        summary["cost"]["trainable_parameters"] = 100 if same else 900
        (folder / "summary.json").write_text(json.dumps(summary))
    assert main(["compare", str(path), "--across", "--match", "parameters=100±5%"]) == 0
    text = capsys.readouterr().out
    assert "Overall: lora (P " in text
    assert "lora: options differ between tasks and models: r is 4 and 8" in text
    assert "matched: the variant of each method nearest to 100 parameters" in text


def test_a_task_that_no_method_learned_is_left_out(plant: Plant) -> None:
    path = runs(plant, BEST)
    runs(plant, {"full": 0.50, "lora": 0.50, "vera": 0.51}, ("qnli",))
    comparison = compare_across_tasks(read(path))
    assert [place.task for place in comparison.places] == [*TASKS]
    assert dict(comparison.left_out)["qnli with t5-base"].startswith("not learned: ")
    assert "qnli" not in comparison.verdict


def test_a_task_that_only_excluded_methods_learned_is_left_out(plant: Plant) -> None:
    path = runs(plant, BEST)
    runs(plant, {"full": 0.50, "lora": 0.50, "vera": 0.50, "ia3": 0.9}, ("qnli",))
    comparison = compare_across_tasks(read(path))
    assert dict(comparison.left_out)["qnli with t5-base"] == (
        "not learned by the methods that all tasks and models have"
    )


def test_a_task_without_a_constant_answer_counts_for_ranks_only(plant: Plant) -> None:
    path = runs(plant, BEST)
    runs(plant, {"full": 0.9, "lora": 0.6, "vera": 0.5}, ("qnli",), constant=None)
    comparison = compare_across_tasks(read(path))
    [lora] = [line for line in comparison.lines if line.method == "lora"]
    assert lora.rank.mean == pytest.approx((3 * 1 + 2) / 4, abs=0.05)
    assert [place.task for place in comparison.deciding_tasks] == [*TASKS]
    assert "qnli" not in comparison.verdict
    note = "in ranks only: qnli with t5-base: not all runs record the accuracy of the constant answer"
    assert note in notes(comparison)


def test_lower_losses_rank_first(plant: Plant) -> None:
    for task in ("cola", "rte"):
        for method, loss in (("full", 0.9), ("lora", 0.4)):
            for seed in (1, 2, 3):
                path = plant(method, seed, [0.5], task=task, model="t5-base")
                values = [{"loss": loss + 0.01 * seed, "tokens": 1}] * 20
                with_values(path, values, "loss", loss + 0.01 * seed, higher_is_better=False)
    comparison = compare_across_tasks(read(path.parent))
    assert comparison.decided_by == BY_RANK
    assert comparison.verdict.startswith("Overall: lora (P > 99 %), by mean rank on 2 tasks")
    assert {line.score for line in comparison.lines} == {None}
    assert comparison.places[0].top == pytest.approx(0.42, abs=0.03), "the loss keeps its sign"
    assert "score" not in table_rows(comparison)[0]


def test_runs_that_record_different_constant_answers_have_no_scale(plant: Plant) -> None:
    path = runs(plant, BEST, ("cola", "rte", "sst2"))
    summary = next(path.glob("lora-1-*")) / "summary.json"
    changed = json.loads(summary.read_text())
    changed["baselines"]["constant"]["test"]["accuracy"] = 0.4
    summary.write_text(json.dumps(changed))
    [reason] = [place.unscaled for place in compare_across_tasks(read(path)).places if place.unscaled]
    assert reason == "runs record different values of accuracy for the constant answer"


def test_tasks_without_predictions_have_intervals_over_seeds_only(plant: Plant) -> None:
    path = runs(plant, BEST)
    for run in path.glob("*"):
        if json.loads((run / "summary.json").read_text())["task"] == "cola":
            (run / "predictions" / "test.jsonl").unlink()
    [text] = [text for text in compare_across_tasks(read(path)).remarks if "seeds only" in text]
    assert text.startswith("cola with t5-base: intervals: over seeds only, since ")


def test_methods_without_the_cost_are_left_out(plant: Plant) -> None:
    path = runs(plant, BEST | {"ia3": 0.8})
    for run in path.glob("ia3-*"):
        for name in ("summary.json", "evaluations.jsonl"):
            (run / name).write_text((run / name).read_text().replace('"gmacs"', '"other"'))
    reason = dict(compare_across_tasks(read(path)).left_out)["ia3"]
    assert reason == "gmacs was not measured in cola with t5-base, rte with t5-base, sst2 with t5-base"


def test_a_metric_that_a_task_lacks_is_an_error(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs(plant, BEST)), "--across", "--metric", "acuracy"]) == 2
    assert "no metric 'acuracy' (did you mean 'accuracy'?)" in capsys.readouterr().err


# Costs.


def test_costs_are_relative_to_a_baseline_of_all_tasks(plant: Plant) -> None:
    path = runs(plant, BEST)
    comparison = compare_across_tasks(read(path), by="gmacs", baseline="full")
    assert comparison.baseline == "full"
    assert {line.method: line.cost for line in comparison.lines} == {"full": 1.0, "lora": 0.5, "vera": 0.5}
    absolute = compare_across_tasks(read(path), baseline="none")
    assert absolute.baseline is None
    assert {line.method: line.cost for line in absolute.lines} == {"full": 2.0, "lora": 1.0, "vera": 1.0}


def test_costs_are_relative_to_a_baseline_with_one_seed(plant: Plant) -> None:
    path = runs(plant, {"lora": 0.85, "vera": 0.60})
    runs(plant, {"full": 0.7}, seeds=1)
    comparison = compare_across_tasks(read(path))
    assert comparison.baseline == "full"
    assert {line.cost for line in comparison.lines} == {0.5}


# Output.
