from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from peftkit.compare.budget_ranking import rank_within_budget
from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.units import parse_budget, parse_bytes
from peftkit.errors import InputError
from tests.compare.conftest import Plant, with_values


def advised(path: Any, axis: str = "gmacs", budget: float = 3.0, **options: Any) -> Any:
    [section] = group_runs(find_runs([path])[0], ["data"])
    return rank_within_budget(section, axis, budget, **options)


def test_a_far_better_method_is_recommended_and_settled(plant: Plant) -> None:
    for seed in (1, 2, 3):
        plant("full", seed, [0.1, 0.3, 0.4, 0.5 + seed / 200], examples=2000)
        path = plant("lora", seed, [0.1, 0.6, 0.7, 0.8 + seed / 200], examples=2000)
    advice = advised(path.parent)
    first, second = advice.candidates
    assert (first.method, second.method) == ("lora", "full")
    assert first.best > 0.99
    verdict = advice.verdict
    assert (verdict.use.method, verdict.use.best, verdict.use.score) == ("lora", first.best, first.score)
    assert verdict.settled
    assert verdict.not_separable == ()
    assert verdict.runner_up == verdict.baseline
    assert verdict.baseline.plan is None
    assert verdict.baseline.difference == pytest.approx(-0.3, abs=0.01)
    assert verdict.baseline.low < -0.3 < verdict.baseline.high
    assert first.score == pytest.approx(0.81, abs=0.01)


def test_the_recommendation_depends_on_the_budget(plant: Plant) -> None:
    for seed in (1, 2):
        plant("slow", seed, [0.1, 0.2, 0.3, 0.9])
        path = plant("quick", seed, [0.1, 0.5, 0.55, 0.6])
    assert advised(path.parent, budget=2.0).candidates[0].method == "quick"
    assert advised(path.parent, budget=3.0).candidates[0].method == "slow"
    quick = advised(path.parent, budget=2.0).candidates[0]
    assert (quick.score, quick.cost) == (pytest.approx(0.55, abs=0.01), 2.0)
    # Only the last step of a run may exceed the budget.
    assert advised(path.parent, budget=2.1).candidates[0].method == "slow"
    assert advised(path.parent, budget=1.9).candidates[0].score == pytest.approx(0.5, abs=0.01)


def test_methods_over_the_memory_limit_are_left_out_with_the_reason(plant: Plant) -> None:
    for seed in (1, 2):
        plant("heavy", seed, [0.1, 0.9, 0.9, 0.9], cost=4.0)
        plant("light", seed, [0.1, 0.5, 0.6, 0.7])
        path = plant("short", seed, [0.1, 0.5, 0.55, 0.56])
    advice = advised(path.parent, memory=2 * 2**30)
    assert [c.method for c in advice.candidates] == ["light", "short"]
    assert dict(advice.left_out) == {"heavy": "its training took 4.00 GiB"}


def test_runs_that_ended_before_the_budget_are_candidates_and_marked(plant: Plant) -> None:
    for seed in (1, 2):
        plant("heavy", seed, [0.1, 0.5, 0.5, 0.5], cost=4.0)
        path = plant("light", seed, [0.1, 0.5, 0.6, 0.9])
    advice = advised(path.parent, budget=12.0)
    assert advice.verdict.use.method == "light", "it costs less and scores more"
    assert [(each.method, each.ended_at) for each in advice.candidates] == [("light", 3.0), ("heavy", None)]


def test_insufficient_evidence_gives_no_recommendation_and_the_reason(plant: Plant) -> None:
    path = plant("lora", 1, [0.1, 0.5])
    advice = advised(path.parent, budget=1.0)
    assert advice.verdict.use is None
    assert "only one method, lora" in advice.verdict.why_not[0]
    plant("full", 1, [0.1, 0.6])
    advice = advised(path.parent, budget=1.0)
    assert advice.verdict.use is None
    assert "the variance between seeds is unknown" in advice.verdict.why_not[0]
    assert [each.best for each in advice.candidates] == [None, None]


def test_a_method_with_one_seed_does_not_prevent_a_recommendation(plant: Plant) -> None:
    for seed in (1, 2, 3):
        plant("full", seed, [0.1, 0.5])
        path = plant("lora", seed, [0.1, 0.8])
    plant("vera", 1, [0.1, 0.9])
    advice = advised(path.parent, budget=1.0)
    assert [(each.method, each.best is None) for each in advice.candidates] == [
        ("lora", False),
        ("full", False),
        ("vera", True),
    ]
    assert (advice.verdict.use.method, advice.verdict.methods) == ("lora", 2)
    assert set(advice.candidates[-1].notes) == {"one seed"}


def close_verdict(plant: Plant, examples: int) -> Any:
    """Two methods whose difference, of 0.03, is within chance."""
    for seed, noise in ((1, 0.03), (2, -0.03), (3, 0.0)):
        plant("full", seed, [0.1, 0.50 + noise], examples=examples)
        path = plant("lora", seed, [0.1, 0.53 - noise], examples=examples)
    verdict = advised(path.parent, budget=1.0).verdict
    assert not verdict.settled
    assert verdict.not_separable == ("full",)
    return verdict


def test_a_difference_within_chance_is_not_settled_and_gets_a_plan_of_runs(plant: Plant) -> None:
    verdict = close_verdict(plant, 4000)
    plan = verdict.runner_up.plan
    assert 4 <= plan.seeds <= 200
    assert plan.more_runs == 2 * (plan.seeds - 3)
    assert plan.gmacs == plan.more_runs * 1.0, "each run took 1 GMAC"
    assert plan.minutes == pytest.approx(plan.more_runs * 2.0 / 60)
    [sentence] = [each for each in verdict.sentences if "runner-up" in each]
    assert "would show that lora is better" in sentence
    assert "more runs: " in sentence


def with_losses(path: Path, losses: list[float]) -> Path:
    """Gives a run these test losses, of one token each, and selects by loss."""
    values = [{"loss": loss, "tokens": 1} for loss in losses]
    return with_values(path, values, "loss", sum(losses) / len(losses), higher_is_better=False)


def test_losses_vary_by_example_and_too_few_examples_give_no_recommendation(plant: Plant) -> None:
    rng = random.Random(1)
    losses = [rng.gauss(3, 1) for _ in range(100)]
    for seed in (1, 2, 3):
        with_losses(plant("full", seed, [0.1, 0.2, 0.3]), [each + 0.02 + seed / 1e4 for each in losses])
        path = with_losses(plant("lora", seed, [0.1, 0.2, 0.3]), [each + seed / 1e4 for each in losses])
    advice = advised(path.parent, budget=2.0)
    assert advice.verdict.use.method == "lora"
    assert advice.verdict.settled, "the difference is the same on every example"
    # Seeds are almost equal: the interval is that of a mean of 100 values with standard deviation 1.
    assert advice.candidates[0].high - advice.candidates[0].low == pytest.approx(2 * 1.96 / 10, rel=0.15)
    for folder in path.parent.iterdir():
        with_losses(folder, losses[:5])
    assert advised(path.parent, budget=2.0).verdict.why_not == (
        "5 test examples are too few to compare methods: evaluate on 30 or more",
    )


def test_methods_without_a_measured_cost_are_left_out(plant: Plant) -> None:
    for seed in (1, 2):
        plant("full", seed, [0.1, 0.5])
        plant("lora", seed, [0.1, 0.6])
        path = plant("vera", seed, [0.1, 0.7])
        rows = (path / "evaluations.jsonl").read_text()
        (path / "evaluations.jsonl").write_text(rows.replace('"gmacs"', '"other"'))
    advice = advised(path.parent, budget=1.0)
    assert [each.method for each in advice.candidates] == ["lora", "full"]
    assert advice.left_out == (("vera", "not all its runs have measured gmacs"),)
    # Measured memory is required only with a limit.
    for folder in path.parent.iterdir():
        summary = (folder / "summary.json").read_text()
        (folder / "summary.json").write_text(summary.replace('"peak_host_bytes"', '"other"'))
    assert advised(path.parent, budget=1.0).candidates[0].peak_memory is None
    limited = advised(path.parent, budget=1.0, memory=2**30)
    assert dict(limited.left_out)["lora"] == "not all its runs have measured their memory"
    with pytest.raises(InputError, match="have measured 'joules'; measured are gmacs, seconds, samples, tokens"):
        advised(path.parent, "joules", 1.0)


def test_without_predictions_the_recorded_number_of_rows_is_used(plant: Plant) -> None:
    for seed in (1, 2, 3):
        plant("full", seed, [0.1, 0.50 + seed / 1000], tables={"evaluate": {"test_examples": 200}})
        path = plant("lora", seed, [0.1, 0.52 + seed / 1000], tables={"evaluate": {"test_examples": 200}})
    for folder in path.parent.iterdir():
        (folder / "predictions" / "test.jsonl").unlink()
    advice = advised(path.parent, budget=1.0)
    assert not advice.verdict.settled
    assert advice.verdict.runner_up.plan.examples > 200
    width = advice.candidates[0].high - advice.candidates[0].low
    assert width == pytest.approx(2 * 1.96 * (0.25 / 200) ** 0.5, rel=0.35)


def test_evaluations_without_a_dev_score_are_not_within_the_budget(plant: Plant) -> None:
    for seed in (1, 2):
        plant("full", seed, [0.1, 0.5, 0.5])
        path = plant("lora", seed, [0.1, 0.6, 0.6])
        text = (path / "evaluations.jsonl").read_text()
        (path / "evaluations.jsonl").write_text(text.replace('"dev": {"accuracy": 0.1}', '"dev": {"accuracy": null}'))
    assert dict(advised(path.parent, budget=0.5).left_out) == {"lora": "it has no evaluation within the budget"}
    assert [each.method for each in advised(path.parent, budget=1.0).candidates] == ["lora", "full"]


def test_an_unknown_metric_is_an_error(plant: Plant) -> None:
    plant("full", 1, [0.1, 0.5])
    path = plant("lora", 1, [0.1, 0.6])
    with pytest.raises(InputError, match=r"no metric 'acuracy' \(did you mean 'accuracy'\?\)"):
        advised(path.parent, budget=1.0, metric="acuracy")


@pytest.mark.slow
def test_equal_methods_are_seldom_separated(plant: Plant) -> None:
    """Simulates seeds and examples; few of 40 pairs of equal methods are settled."""
    rng = random.Random(5)
    wrong = 0
    for number in range(40):
        for method in (f"a{number}", f"b{number}"):
            for seed in (1, 2, 3):
                share = 0.6 + rng.gauss(0, 0.02)
                right = [rng.random() < share for _ in range(300)]
                last = plant(method, seed, [0.1, sum(right) / 300], examples=300, right=right)
    runs = find_runs([last.parent])[0]
    for number in range(40):
        pair = [run for run in runs if run.summary["method"] in (f"a{number}", f"b{number}")]
        [section] = group_runs(pair, ["data"])
        wrong += rank_within_budget(section, "gmacs", 1.0).verdict.settled
    assert wrong <= 4


@pytest.mark.parametrize(
    ("text", "axis", "amount"),
    [
        ("5e5gmacs", "gmacs", 5e5),
        ("2 h", "seconds", 7200.0),
        ("1.5TMACs", "gmacs", 1500.0),
        ("3e4samples", "samples", 3e4),
    ],
)
def test_parse_budget(text: str, axis: str, amount: float) -> None:
    assert parse_budget(text) == (axis, amount)


@pytest.mark.parametrize("text", ["", "5", "gmacs", "-3gmacs", "0s", "5 gmac", "1e999s", "nanh", "1..2s"])
def test_invalid_budgets_are_rejected(text: str) -> None:
    with pytest.raises(InputError, match="must be a number above zero with a unit"):
        parse_budget(text)


def test_parse_bytes() -> None:
    assert parse_bytes("8GiB") == 8 * 2**30
    assert parse_bytes("500MB") == 5e8
    with pytest.raises(InputError, match="did you mean 'gib'"):
        parse_bytes("8gig")
