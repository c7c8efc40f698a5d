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
from peftkit.compare.curves import area_under_curve, reached_at, score_at
from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.errors import InputError
from tests.compare.conftest import Plant, with_values

COSTS, SCORES = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.1, 0.3, 0.2, 0.6])


def compared(paths: Sequence[Path], **options: object) -> Comparison:
    [section] = group_runs(find_runs(paths)[0])
    return compare(section, **options)  # type: ignore[arg-type]


def test_what_is_reached_at_which_cost() -> None:
    assert reached_at(COSTS, SCORES, 0.3) == (0.0, 1.0)
    assert reached_at(COSTS, SCORES, 0.6) == (2.0, 4.0)
    assert reached_at(COSTS[1:], SCORES[1:], 0.1) == (0.0, 1.0)
    assert reached_at(COSTS, SCORES, 0.61) is None
    assert [score_at(COSTS, SCORES, budget) for budget in (0.5, 1.0, 3.9, 9.0)] == [0.1, 0.3, 0.2, 0.6]
    assert score_at(COSTS[1:], SCORES[1:], 0.5) is None


def test_only_what_the_end_has_reached_may_lie_a_step_beyond_the_budget(plant: Plant) -> None:
    for seed in (1, 2):
        plant("late", seed, [0.1, 0.2, 0.9, 0.91], cost=1.04)
        path = plant("early", seed, [0.1, 0.6, 0.7, 0.8])
    found = compared([path.parent], budgets=[2.0, 2.08, 3.0])
    # At 2.08 GMACs the second step of the one was made: that it ends within a step of 2 is nothing, since it went on.
    assert [winner.method for winner in found.winners] == ["early", "late", "late"]


def test_the_area_is_the_mean_over_the_logarithm_of_the_cost() -> None:
    assert area_under_curve(COSTS, SCORES, 1.0, 4.0) == pytest.approx((0.3 + 0.2) / 2)
    assert area_under_curve(COSTS, SCORES, 1.0, 8.0) == pytest.approx((0.3 + 0.2 + 0.6) / 3)
    assert area_under_curve(COSTS, SCORES, 2.0, 3.0) == pytest.approx(0.2)


def test_a_method_that_is_better_and_cheaper_wins_everywhere(plant: Plant) -> None:
    for seed in (1, 2, 3):
        plant("full", seed, [0.2, 0.4, 0.5, 0.6 + seed / 100], cost=2.0, examples=1000)
        path = plant("lora", seed, [0.2, 0.7, 0.75, 0.8 + seed / 100], cost=1.5, examples=1000)
    found = compared([path.parent])
    first, second = found.lines
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
    assert {winner.method for winner in found.winners} == {"lora"}
    assert first.area is not None
    assert second.area is not None
    assert first.area > second.area
    assert found.examples == 1000


def test_shares_that_are_never_reached_have_no_cost(plant: Plant) -> None:
    plant("full", 1, [0.2, 0.9])
    found = compared([plant("lora", 1, [0.2, 0.3]).parent])
    lora = next(line for line in found.lines if line.method == "lora")
    assert (lora.cost_to_share, lora.never) == ({0.95: None}, {0.95: 1})
    assert (lora.cost_to_share_interval, lora.reach_probability) == ({0.95: None}, {0.95: None})


def with_curve(path: Path, points: Sequence[tuple[float, float]], *, loss: bool = False) -> Path:
    """The run with other values of dev and test at its evaluations; dev selects."""
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
def test_the_level_of_a_share_is_what_dev_selects_and_not_the_best_on_test(loss: bool, plant: Plant) -> None:
    """Of ``full`` the first evaluation is the best on test by chance, and dev selects another."""

    def values(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(1 - dev, 1 - test) if loss else (dev, test) for dev, test in points]

    for seed in (1, 2, 3):
        noise = seed / 1000
        chance = values((0.3, 0.9), (0.5, 0.7), (0.55, 0.62), (0.6, 0.60 + noise))
        with_curve(plant("full", seed, [0.1] * 4, cost=2.0), chance, loss=loss)
        rising = values((0.3, 0.3), (0.5, 0.5), (0.55, 0.57), (0.6, 0.62 + noise))
        path = with_curve(plant("lora", seed, [0.1] * 4), rising, loss=loss)
    found = {line.method: line for line in compared([path.parent], shares=(0.95, 1.0)).lines}
    # 95 % of 0.602 are 0.572, and a loss of 0.398 makes 0.419: the fourth evaluation of lora is the first beyond.
    assert found["lora"].never == {0.95: 0, 1.0: 0}
    assert found["lora"].cost_to_share == {0.95: 3.0, 1.0: 3.0}
    assert found["lora"].cost_to_share_interval[0.95] == (pytest.approx(2.0), pytest.approx(3.0))
    assert found["full"].cost_to_share[0.95] == 0.0, "by chance it was there before the first step"
    assert found["full"].cost_to_share_interval[0.95] is None
    assert found["lora"].reach_probability == {0.95: 3.5 / 4, 1.0: 3.5 / 4}


def test_areas_and_the_front_have_an_uncertainty_where_there_are_several_seeds(plant: Plant) -> None:
    rng = random.Random(3)
    for seed in (1, 2, 3):
        for method, ends in (("full", 0.6), ("lora", 0.8)):
            path = plant(method, seed, [0.1, 0.4, 0.5, ends + rng.gauss(0, 0.01)], examples=500)
    plant("ia3", 1, [0.1, 0.2, 0.3, 0.95], examples=500)
    found = compared([path.parent])
    by_name = {line.method: line for line in found.lines}
    for line in (by_name["full"], by_name["lora"]):
        assert 0 <= line.area_low < line.area < line.area_high <= 1
        assert line.area == pytest.approx(0.44, abs=0.03)
    assert (by_name["lora"].pareto, by_name["full"].pareto) == (True, False)
    assert by_name["lora"].pareto_probability > 0.99
    one = by_name["ia3"]
    assert (one.pareto, one.pareto_probability, one.area_low, one.area_high) == (False, None, None, None)
    assert one.area == pytest.approx(0.2 + 0.1 * (np.log(3 / 2) / np.log(3)))


def test_with_one_seed_each_the_front_uses_the_runs_scores(plant: Plant) -> None:
    plant("full", 1, [0.1, 0.5, 0.7], cost=2.0)
    path = plant("lora", 1, [0.1, 0.5, 0.6])
    found = compared([path.parent])
    assert [(line.method, line.pareto, line.pareto_probability) for line in found.lines] == [
        ("full", True, None),
        ("lora", True, None),
    ]


@pytest.mark.parametrize(("by", "expected"), [("seconds", 4.0), ("samples", 16.0), ("tokens", 176.0)])
def test_every_axis_has_its_own_cost(by: str, expected: float, plant: Plant) -> None:
    found = compared([plant("lora", 1, [0.1, 0.4, 0.5])], by=by)
    assert found.lines[0].cost == expected


def test_an_axis_that_does_not_grow_has_no_area_and_no_winners(plant: Plant) -> None:
    found = compared([plant("lora", 1, [0.1, 0.4, 0.5])], by="peak_memory")
    assert (found.lines[0].area, found.winners, found.lines[0].cost) == (None, (), 2.0**30)


def test_an_evaluation_that_was_no_number_is_passed_over(plant: Plant) -> None:
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


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "csv", "json"])
def test_every_form_has_the_same_numbers(form: str, plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    plant("full", 1, [0.2, 0.5])
    path = plant("lora_xs", 1, [0.2, 0.75])
    assert main(["compare", str(path.parent), "--format", form]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    if form == "csv":
        rows = [*csv.DictReader(io.StringIO(out))]
        assert [(row["method"], float(row["score"])) for row in rows] == [("lora_xs", 0.75), ("full", 0.5)]
    elif form == "json":
        [found] = json.loads(out)["comparisons"]
        assert [(line["method"], line["score"]) for line in found["lines"]] == [("lora_xs", 0.75), ("full", 0.5)]
        assert [line["best"] for line in found["lines"]] == [None, None]
    else:
        assert "0.7500" in out
        assert "0.5000" in out
        assert (r"lora\_xs" if form == "latex" else "lora_xs") in out


def test_runs_that_must_not_be_pooled_end_with_the_reason(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    plant("full", 1, [0.2, 0.5], device="cuda")
    path = plant("lora", 1, [0.2, 0.75])
    assert main(["compare", str(path.parent)]) == 2
    assert "--pool hardware" in capsys.readouterr().err
    assert main(["compare", str(path.parent), "--pool", "hardware"]) == 0
    assert 'pooled although hardware differs: device is "cpu" and "cuda"' in " ".join(capsys.readouterr().out.split())


def test_a_metric_of_which_less_is_better_is_ranked_so(plant: Plant) -> None:
    def lower(path: Path) -> Path:
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
        lower(plant("full", seed, [0.2, 0.5, 0.7 + seed / 1000]))
        path = lower(plant("lora", seed, [0.2, 0.6, 0.9 + seed / 900]))
    found = compared([path.parent])
    best, worst = found.lines
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
    assert (found.winners[-1].method, found.winners[-1].score) == ("lora", pytest.approx(best.score))


def test_the_loss_is_compared_example_by_example_and_less_of_it_is_better(plant: Plant) -> None:
    rng = random.Random(0)
    hard = [rng.uniform(1, 5) for _ in range(200)]
    tokens = [rng.randint(1, 9) for _ in range(200)]
    for method, own in (("full", 0.0), ("lora", -0.1)):
        losses = [count * (each + own) for each, count in zip(hard, tokens, strict=True)]
        score = sum(losses) / sum(tokens)
        values = [{"loss": loss, "tokens": count} for loss, count in zip(losses, tokens, strict=True)]
        for seed in (1, 2, 3):
            path = with_values(plant(method, seed, [0.1, 0.5]), values, "loss", score, higher_is_better=False)
    found = compared([path.parent])
    best, worst = found.lines
    assert (best.method, worst.method, found.examples) == ("lora", "full", 200)
    assert worst.observed - best.observed == pytest.approx(0.1)
    [difference] = found.differences
    assert 0 < difference.low < abs(difference.mean) < difference.high or difference.high < 0
    assert best.low < best.score < best.high
    assert best.high - best.low == pytest.approx(worst.high - worst.low, abs=0.02)
    assert best.high - best.low > 0.1
    assert (best.letter, worst.letter) == ("a", "b")


def test_scores_of_single_examples_are_drawn_where_they_were_kept(plant: Plant) -> None:
    rng = random.Random(0)
    for method, share in (("full", 0.4), ("lora", 0.6)):
        for seed in (1, 2, 3):
            values = [min(1.0, max(0.0, rng.gauss(share, 0.2))) for _ in range(300)]
            kept = [{"scores": {"rougeL": each}} for each in values]
            path = with_values(plant(method, seed, [0.1, 0.5]), kept, "rougeL", sum(values) / 300)
    found = compared([path.parent])
    assert (found.examples, [line.letter for line in found.lines]) == (300, ["a", "b"])
    summary = json.loads((path / "summary.json").read_text())
    summary["selected"]["test"]["rougeL"] += 0.1
    (path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"its predictions give a rougeL of 0\.\d+, unlike its summary"):
        compared([path.parent])


def test_macro_f1_varies_by_example_as_drawing_anew_says(plant: Plant) -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    labels = ["a", "b", "c"]
    right = rng.choice(labels, 400, p=[0.6, 0.3, 0.1])
    for method, share in (("full", 0.6), ("lora", 0.8)):
        said = np.where(rng.random(400) < share, right, rng.choice(labels, 400))
        score = float(f1_score(right, said, average="macro"))
        values = [
            {"target": str(r), "prediction": str(p), "candidates": labels} for r, p in zip(right, said, strict=True)
        ]
        run = plant(method, 1, [0.1, 0.5], tables={"metric": [{"name": "f1_macro"}]})
        path = with_values(run, values, "f1_macro", score)
    found = compared([path.parent])
    best, worst = found.lines
    assert (best.method, worst.method, found.examples) == ("lora", "full", 400)
    assert (best.score, best.best, best.letter) == (pytest.approx(score), None, "")
    drawn = [
        f1_score(right[rows], said[rows], average="macro") for rows in (rng.integers(0, 400, 400) for _ in range(500))
    ]
    assert best.high - best.low == pytest.approx(4 * np.std(drawn), rel=0.15)


def test_of_another_metric_it_is_known_whether_less_is_better(plant: Plant) -> None:
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
    found = compared([path.parent], metric="answer_leakage")
    assert [line.method for line in found.lines] == ["lora", "full"]
    assert found.winners[-1].method == "lora"
