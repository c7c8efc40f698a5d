from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from peftkit.cli import main
from peftkit.compare.comparison import Comparison, compare
from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.learning_curves import area_under_curve, reached_at, score_at
from peftkit.errors import InputError
from tests.compare.conftest import Plant, with_values

COSTS, SCORES = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.1, 0.3, 0.2, 0.6])


def compared(paths: Sequence[Path], **options: object) -> Comparison:
    [section] = group_runs(find_runs(paths)[0])
    return compare(section, **options)  # type: ignore[arg-type]


def test_cost_of_a_score_and_score_at_a_cost() -> None:
    assert reached_at(COSTS, SCORES, 0.3) == (0.0, 1.0)
    assert reached_at(COSTS, SCORES, 0.6) == (2.0, 4.0)
    assert reached_at(COSTS[1:], SCORES[1:], 0.1) == (0.0, 1.0)
    assert reached_at(COSTS, SCORES, 0.61) is None
    assert [score_at(COSTS, SCORES, budget) for budget in (0.5, 1.0, 3.9, 9.0)] == [0.1, 0.3, 0.2, 0.6]
    assert score_at(COSTS[1:], SCORES[1:], 0.5) is None


def test_only_the_last_evaluation_may_exceed_the_budget_by_a_step(plant: Plant) -> None:
    for seed in (1, 2):
        plant("late", seed, [0.1, 0.2, 0.9, 0.91], cost=1.04)
        path = plant("early", seed, [0.1, 0.6, 0.7, 0.8])
    comparison = compared([path.parent], budgets=[2.0, 2.08, 3.0])
    # "late" has an evaluation at 2.08 GMACs, within a step of 2; it does not count at 2, as the run continued.
    assert [winner.method for winner in comparison.winners] == ["early", "late", "late"]


def test_area_under_curve_is_a_mean_over_log_cost() -> None:
    assert area_under_curve(COSTS, SCORES, 1.0, 4.0) == pytest.approx((0.3 + 0.2) / 2)
    assert area_under_curve(COSTS, SCORES, 1.0, 8.0) == pytest.approx((0.3 + 0.2 + 0.6) / 3)
    assert area_under_curve(COSTS, SCORES, 2.0, 3.0) == pytest.approx(0.2)


def test_a_better_and_cheaper_method_wins_everywhere(plant: Plant) -> None:
    for seed in (1, 2, 3):
        plant("full", seed, [0.2, 0.4, 0.5, 0.6 + seed / 100], cost=2.0, examples=1000)
        path = plant("lora", seed, [0.2, 0.7, 0.75, 0.8 + seed / 100], cost=1.5, examples=1000)
    comparison = compared([path.parent])
    first, second = comparison.lines
    assert (first.method, second.method) == ("lora", "full")
    assert first.seeds == (1, 2, 3)
    assert first.observed == pytest.approx(0.82)
    assert first.score == pytest.approx(0.82, abs=0.01)
    assert first.low < 0.82 < first.high
    assert (first.letter, second.letter) == ("a", "b")
    assert first.best > 0.99
    assert (first.pareto, second.pareto) == (True, False)
    assert (first.cost, first.relative_cost, second.relative_cost) == (4.5, 0.75, 1.0)
    assert first.cost_to_share == {0.95: 1.5}  # 0.7 is more than 95 % of 0.62
    assert second.cost_to_share == {0.95: 6.0}
    assert {winner.method for winner in comparison.winners} == {"lora"}
    assert first.area is not None
    assert second.area is not None
    assert first.area > second.area
    assert comparison.examples == 1000


def test_shares_that_are_never_reached_have_no_cost(plant: Plant) -> None:
    plant("full", 1, [0.2, 0.9])
    comparison = compared([plant("lora", 1, [0.2, 0.3]).parent])
    lora = next(line for line in comparison.lines if line.method == "lora")
    assert (lora.cost_to_share, lora.never) == ({0.95: None}, {0.95: 1})
    assert (lora.cost_to_share_interval, lora.reach_probability) == ({0.95: None}, {0.95: None})


def with_curve(path: Path, points: Sequence[tuple[float, float]], *, loss: bool = False) -> Path:
    """Gives a run other dev and test scores at its evaluations; dev selects."""
    metric, best = ("loss", min) if loss else ("accuracy", max)
    rows = [json.loads(line) for line in (path / "evaluations.jsonl").read_text().splitlines()]
    for row, (dev, test) in zip(rows, points, strict=True):
        row["dev"], row["test"] = {metric: dev}, {metric: test}
    selected = rows[best(range(len(points)), key=lambda i: points[i][0])]
    summary = json.loads((path / "summary.json").read_text())
    summary |= {"selection_metric": metric, "higher_is_better": not loss}
    summary["selected"] = {key: selected[key] for key in ("step", "dev", "test")}
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "predictions" / "test.jsonl").unlink()
    return path


@pytest.mark.parametrize("loss", [False, True])
def test_shares_are_of_the_score_selected_on_dev_not_of_the_best_on_test(loss: bool, plant: Plant) -> None:
    """The first evaluation of ``full`` is the best on test by chance; dev selects another."""

    def values(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(1 - dev, 1 - test) if loss else (dev, test) for dev, test in points]

    for seed in (1, 2, 3):
        noise = seed / 1000
        chance = values((0.3, 0.9), (0.5, 0.7), (0.55, 0.62), (0.6, 0.60 + noise))
        with_curve(plant("full", seed, [0.1] * 4, cost=2.0), chance, loss=loss)
        rising = values((0.3, 0.3), (0.5, 0.5), (0.55, 0.57), (0.6, 0.62 + noise))
        path = with_curve(plant("lora", seed, [0.1] * 4), rising, loss=loss)
    lines = {line.method: line for line in compared([path.parent], shares=(0.95, 1.0)).lines}
    # The level is 95 % of 0.602 = 0.572, or a loss of 0.419: lora reaches it in its fourth evaluation.
    assert lines["lora"].never == {0.95: 0, 1.0: 0}
    assert lines["lora"].cost_to_share == {0.95: 3.0, 1.0: 3.0}
    assert lines["lora"].cost_to_share_interval[0.95] == (pytest.approx(2.0), pytest.approx(3.0))
    assert lines["full"].cost_to_share[0.95] == 0.0, "it was reached by chance before the first step"
    assert lines["full"].cost_to_share_interval[0.95] is None
    assert lines["lora"].reach_probability == {0.95: 3.5 / 4, 1.0: 3.5 / 4}


def test_areas_and_front_have_uncertainty_with_several_seeds(plant: Plant) -> None:
    rng = random.Random(3)
    for seed in (1, 2, 3):
        for method, ends in (("full", 0.6), ("lora", 0.8)):
            path = plant(method, seed, [0.1, 0.4, 0.5, ends + rng.gauss(0, 0.01)], examples=500)
    plant("ia3", 1, [0.1, 0.2, 0.3, 0.95], examples=500)
    comparison = compared([path.parent])
    by_name = {line.method: line for line in comparison.lines}
    for line in (by_name["full"], by_name["lora"]):
        assert 0 <= line.area_low < line.area < line.area_high <= 1
        assert line.area == pytest.approx(0.44, abs=0.03)
    assert (by_name["lora"].pareto, by_name["full"].pareto) == (True, False)
    assert by_name["lora"].pareto_probability > 0.99
    one = by_name["ia3"]
    assert (one.pareto, one.pareto_probability, one.area_low, one.area_high) == (False, None, None, None)
    assert one.area == pytest.approx(0.2 + 0.1 * (np.log(3 / 2) / np.log(3)))


def test_front_uses_observed_scores_with_one_seed_each(plant: Plant) -> None:
    plant("full", 1, [0.1, 0.5, 0.7], cost=2.0)
    path = plant("lora", 1, [0.1, 0.5, 0.6])
    comparison = compared([path.parent])
    assert [(line.method, line.pareto, line.pareto_probability) for line in comparison.lines] == [
        ("full", True, None),
        ("lora", True, None),
    ]


@pytest.mark.parametrize(("by", "expected"), [("seconds", 4.0), ("samples", 16.0), ("tokens", 176.0)])
def test_every_axis_has_its_own_cost(by: str, expected: float, plant: Plant) -> None:
    comparison = compared([plant("lora", 1, [0.1, 0.4, 0.5])], by=by)
    assert comparison.lines[0].cost == expected


def test_a_constant_cost_axis_has_no_area_and_no_winners(plant: Plant) -> None:
    comparison = compared([plant("lora", 1, [0.1, 0.4, 0.5])], by="peak_memory")
    assert (comparison.lines[0].area, comparison.winners, comparison.lines[0].cost) == (None, (), 2.0**30)


def test_evaluations_without_a_score_are_skipped(plant: Plant) -> None:
    for seed in (1, 2):
        path = plant("lora", seed, [0.1, 0.4, 0.5, 0.45])
        text = (path / "evaluations.jsonl").read_text()
        (path / "evaluations.jsonl").write_text(text.replace('"accuracy": 0.4}', '"accuracy": null}'))
        plant("full", seed, [0.1, 0.3, 0.3, 0.3])
    winners = compared([path.parent], budgets=[1.0, 2.0]).winners
    assert [(winner.budget, winner.method) for winner in winners] == [(1.0, "full"), (2.0, "lora")]


def test_the_reason_for_missing_example_scores_is_reported(plant: Plant) -> None:
    path = plant("lora", 1, [0.1, 0.4])
    plant("full", 1, [0.1, 0.5])
    (path / "predictions" / "test.jsonl").write_text("")
    assert compared([path.parent]).seeds_alone == f"{path} has no predictions per example"
    (path / "predictions" / "test.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="is not JSON objects"):
        compared([path.parent])


def test_an_unknown_metric_or_cost_is_an_error(plant: Plant) -> None:
    path = plant("lora", 1, [0.1, 0.5])
    with pytest.raises(InputError, match="have measured 'joules'"):
        compared([path], by="joules")
    with pytest.raises(InputError, match="did you mean 'accuracy'"):
        compared([path], metric="acuracy")


def test_runs_with_different_test_examples_are_not_compared(plant: Plant) -> None:
    plant("full", 1, [0.1, 0.5], examples=100)
    path = plant("lora", 1, [0.1, 0.5], examples=90)
    with pytest.raises(InputError, match="differ from those of the other runs"):
        compared([path.parent])


@pytest.mark.parametrize("output_format", ["table", "markdown", "latex", "csv", "json"])
def test_every_format_has_the_same_numbers(
    output_format: str, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant("full", 1, [0.2, 0.5])
    path = plant("lora_xs", 1, [0.2, 0.75])
    assert main(["compare", str(path.parent), "--format", output_format]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    if output_format == "csv":
        rows = [*csv.DictReader(io.StringIO(out))]
        assert [(row["method"], float(row["score"])) for row in rows] == [("lora_xs", 0.75), ("full", 0.5)]
    elif output_format == "json":
        [comparison] = json.loads(out)["comparisons"]
        assert [(line["method"], line["score"]) for line in comparison["lines"]] == [("lora_xs", 0.75), ("full", 0.5)]
        assert [line["best"] for line in comparison["lines"]] == [None, None]
    else:
        assert "0.7500" in out
        assert "0.5000" in out
        assert (r"lora\_xs" if output_format == "latex" else "lora_xs") in out


def test_runs_on_different_hardware_are_an_error_that_names_pool(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant("full", 1, [0.2, 0.5], device="cuda")
    path = plant("lora", 1, [0.2, 0.75])
    assert main(["compare", str(path.parent)]) == 2
    assert "--pool hardware" in capsys.readouterr().err
    assert main(["compare", str(path.parent), "--pool", "hardware"]) == 0
    assert 'pooled although hardware differs: device is "cpu" and "cuda"' in " ".join(capsys.readouterr().out.split())


def test_lower_is_better_metrics_rank_lower_scores_first(plant: Plant) -> None:
    def use_errors_metric(path: Path) -> Path:
        summary = json.loads((path / "summary.json").read_text())
        summary |= {"selection_metric": "errors", "higher_is_better": False}
        rows = [json.loads(line) for line in (path / "evaluations.jsonl").read_text().splitlines()]
        for row in rows:
            for split in ("dev", "test"):
                row[split] = {"errors": 1 - row[split]["accuracy"]}
        summary["selected"] |= {split: {"errors": rows[-1][split]["errors"]} for split in ("dev", "test")}
        (path / "summary.json").write_text(json.dumps(summary))
        (path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    for seed in (1, 2, 3):
        use_errors_metric(plant("full", seed, [0.2, 0.5, 0.7 + seed / 1000]))
        path = use_errors_metric(plant("lora", seed, [0.2, 0.6, 0.9 + seed / 900]))
    comparison = compared([path.parent])
    best, worst = comparison.lines
    assert (best.method, worst.method) == ("lora", "full")
    assert best.observed == pytest.approx(0.1 - 2 / 900)
    assert best.score == pytest.approx(0.1 - 2 / 900, abs=0.001)
    assert best.low is not None
    assert best.high is not None
    assert best.low < best.score < best.high
    assert (best.letter, worst.letter) == ("a", "b")
    assert best.best > 0.99
    assert worst.cost_to_share == {0.95: 2.0}
    assert best.cost_to_share == {0.95: 2.0}
    assert best.area is not None
    assert worst.area is not None
    assert best.area < worst.area
    assert (comparison.winners[-1].method, comparison.winners[-1].score) == ("lora", pytest.approx(best.score))


def test_losses_are_compared_per_example_and_lower_is_better(plant: Plant) -> None:
    rng = random.Random(0)
    hard = [rng.uniform(1, 5) for _ in range(200)]
    tokens = [rng.randint(1, 9) for _ in range(200)]
    for method, advantage in (("full", 0.0), ("lora", -0.1)):
        losses = [count * (each + advantage) for each, count in zip(hard, tokens, strict=True)]
        score = sum(losses) / sum(tokens)
        values = [{"loss": loss, "tokens": count} for loss, count in zip(losses, tokens, strict=True)]
        for seed in (1, 2, 3):
            path = with_values(plant(method, seed, [0.1, 0.5]), values, "loss", score, higher_is_better=False)
    comparison = compared([path.parent])
    best, worst = comparison.lines
    assert (best.method, worst.method, comparison.examples) == ("lora", "full", 200)
    assert worst.observed - best.observed == pytest.approx(0.1)
    [difference] = comparison.differences
    assert 0 < difference.low < abs(difference.mean) < difference.high or difference.high < 0
    assert best.low < best.score < best.high
    assert best.high - best.low == pytest.approx(worst.high - worst.low, abs=0.02)
    assert best.high - best.low > 0.1
    assert (best.letter, worst.letter) == ("a", "b")


def test_stored_per_example_scores_are_resampled(plant: Plant) -> None:
    rng = random.Random(0)
    for method, share in (("full", 0.4), ("lora", 0.6)):
        for seed in (1, 2, 3):
            values = [min(1.0, max(0.0, rng.gauss(share, 0.2))) for _ in range(300)]
            kept = [{"scores": {"rougeL": each}} for each in values]
            path = with_values(plant(method, seed, [0.1, 0.5]), kept, "rougeL", sum(values) / 300)
    comparison = compared([path.parent])
    assert (comparison.examples, [line.letter for line in comparison.lines]) == (300, ["a", "b"])
    summary = json.loads((path / "summary.json").read_text())
    summary["selected"]["test"]["rougeL"] += 0.1
    (path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"its predictions give a rougeL of 0\.\d+, unlike its summary"):
        compared([path.parent])


def test_macro_f1_interval_equals_that_of_a_bootstrap(plant: Plant) -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    labels = ["a", "b", "c"]
    right = rng.choice(labels, 400, p=[0.6, 0.3, 0.1])
    for method, share in (("full", 0.6), ("lora", 0.8)):
        predicted = np.where(rng.random(400) < share, right, rng.choice(labels, 400))
        score = float(f1_score(right, predicted, average="macro"))
        values = [
            {"target": str(r), "prediction": str(p), "candidates": labels}
            for r, p in zip(right, predicted, strict=True)
        ]
        run = plant(method, 1, [0.1, 0.5], tables={"metric": [{"name": "f1_macro"}]})
        path = with_values(run, values, "f1_macro", score)
    comparison = compared([path.parent])
    best, worst = comparison.lines
    assert (best.method, worst.method, comparison.examples) == ("lora", "full", 400)
    assert (best.score, best.best, best.letter) == (pytest.approx(score), None, "")
    drawn = [
        f1_score(right[rows], predicted[rows], average="macro")
        for rows in (rng.integers(0, 400, 400) for _ in range(500))
    ]
    assert best.high - best.low == pytest.approx(4 * np.std(drawn), rel=0.15)


def test_recorded_direction_of_another_metric_is_used(plant: Plant) -> None:
    for seed in (1, 2):
        for method, leak in (("full", 0.3), ("lora", 0.1)):
            path = plant(method, seed, [0.1, 0.4, 0.5])
            summary = json.loads((path / "summary.json").read_text())
            summary["lower_is_better"] = ["answer_leakage", "loss"]
            summary["selected"]["test"]["answer_leakage"] = leak + seed / 100
            rows = [json.loads(line) for line in (path / "evaluations.jsonl").read_text().splitlines()]
            for row in rows:
                row["test"]["answer_leakage"] = leak + seed / 100
            (path / "summary.json").write_text(json.dumps(summary))
            (path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    comparison = compared([path.parent], metric="answer_leakage")
    assert [line.method for line in comparison.lines] == ["lora", "full"]
    assert comparison.winners[-1].method == "lora"
