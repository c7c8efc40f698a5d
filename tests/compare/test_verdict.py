"""What is recommended, how sure that is, and when nothing is."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from peftkit.compare.comparison import Comparison, compare
from peftkit.compare.evidence import collect_evidence
from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.verdict import Verdict, format_percent, probability_above_baselines
from tests.compare.conftest import Plant


def compared(path: Path, **options: Any) -> Comparison:
    [section] = group_runs(find_runs([path])[0], ["data", "hardware"])
    return compare(section, **options)


def with_baselines(path: Path, **values: float) -> Path:
    """The run with these scores of models that read nothing, on test."""
    summary = json.loads((path / "summary.json").read_text())
    summary["baselines"] = {name: {"test": {"accuracy": value}} for name, value in values.items()}
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def drawn(plant: Plant, shares: dict[str, float], *, examples: int, seeds: int = 5, **more: Any) -> Path:
    """Methods that are right on about such shares of the same examples, which are as hard for all of them."""
    rng, path = random.Random(3), Path()
    hard = [rng.random() for _ in range(examples)]
    for method, share in shares.items():
        for seed in range(1, seeds + 1):
            right = [each < share + rng.gauss(0, 0.002) for each in hard]
            path = plant(method, seed, [0.1, sum(right) / examples], right=right, examples=examples, **more)
    return path.parent


def test_equivalence_is_shown_and_not_assumed(plant: Plant) -> None:
    found = compared(drawn(plant, {"full": 0.7, "lora": 0.7005}, examples=4000)).verdict
    assert not found.settled
    rival = found.runner_up
    assert rival is not None
    assert rival.equivalent >= 0.95
    assert rival.low > -0.01
    assert rival.high < 0.01
    assert rival.plan is None, "it is settled"
    assert found.equivalent == (rival,)
    assert any(
        each.startswith(f"Equivalent to it, less than 0.01 apart: {rival.method} (P ") for each in found.sentences
    )


def test_without_a_test_of_equivalence_it_is_not_settled(plant: Plant) -> None:
    for method in ("a", "b"):
        for seed, share in ((1, 0.6), (2, 0.8)):
            path = plant(method, seed, [0.1, share])
    found = compared(path.parent).verdict
    text = " ".join(found.sentences)
    assert "not certain to be the best" in text
    assert "equivalent" not in text
    assert "as good as equal" not in text
    assert found.runner_up is not None
    assert found.runner_up.plan is not None
    assert found.runner_up.plan.seeds > 100
    assert "GMACs" in text


def test_a_cheaper_method_that_is_not_inferior_is_named(plant: Plant) -> None:
    shares = {"full": 0.705, "lora": 0.7}
    rng = random.Random(3)
    hard = [rng.random() for _ in range(4000)]
    for method, share in shares.items():
        for seed in range(1, 6):
            right = [each < share + rng.gauss(0, 0.001) for each in hard]
            path = plant(method, seed, [0.1] * 20 + [share], right=right, cost=3.0 if method == "full" else 1.0)
    found = compared(path.parent).verdict
    assert found.use is not None
    assert found.use.method == "full"
    assert [each.method for each in found.cheaper] == ["lora"]
    assert found.cheaper[0].relative_cost == pytest.approx(1 / 3)
    assert any(each.startswith("As good and cheaper: lora, at 0.33 of the cost") for each in found.sentences)
    strict = compared(path.parent, margin=0.001).verdict
    assert strict.cheaper == ()


def test_costs_within_a_step_of_each_other_are_equal(plant: Plant) -> None:
    for seed in (1, 2, 3):
        plant("full", seed, [0.1, 0.7, 0.701], examples=3000, cost=1.001)
        path = plant("lora", seed, [0.1, 0.7, 0.7], examples=3000)
    found = compared(path.parent, margin=0.2).verdict
    assert found.cheaper == ()
    assert found.perhaps == ()


def test_what_full_fine_tuning_would_add(plant: Plant) -> None:
    for seed in (1, 2, 3):
        plant("full", seed, [0.1, 0.5], cost=2.5)
        path = plant("lora", seed, [0.1, 0.8])
    [sentence] = [each for each in compared(path.parent).verdict.sentences if each.startswith("Full fine-tuning")]
    assert sentence.startswith("Full fine-tuning would add -0.")
    assert sentence.endswith("and cost 2.50 times as much.")


def test_a_baseline_that_was_not_run_is_named(plant: Plant) -> None:
    for seed in (1, 2, 3):
        plant("vera", seed, [0.1, 0.5])
        path = plant("lora", seed, [0.1, 0.8], cost=2.0)
    sentences = compared(path.parent).verdict.sentences
    assert "Full fine-tuning is not among the compared methods." in sentences
    [runner_up] = [each for each in sentences if each.startswith("The runner-up, vera, is 0.")]
    assert runner_up.endswith(", at 0.50 of the cost.")
    of_vera = compared(path.parent, baseline="lora").verdict
    assert (of_vera.baseline_name, of_vera.baseline) == ("lora", None)
    assert not any("not among them" in each for each in of_vera.sentences)


def test_no_method_learned_the_task_below_the_constant_answer(plant: Plant) -> None:
    rng = random.Random(1)
    for number in range(12):
        for seed in (1, 2, 3):
            share = rng.gauss(0.2, 0.015)
            path = plant(f"m{number}", seed, [0.1, share], examples=300)
            with_baselines(path, constant=0.228, majority=0.21, random=0.2)
    found = compared(path.parent)
    assert found.verdict.use is None
    assert found.winners == ()
    text = " ".join(found.verdict.sentences)
    assert text.startswith("No recommendation.")
    assert "none beats the constant answer (0.2280) beyond noise" in text
    for cause in ("the budget", "learning rates", "the prompt", "base model"):
        assert cause in text
    assert "Use " not in text


def test_above_the_constant_answer_a_method_is_recommended(plant: Plant) -> None:
    for seed in (1, 2, 3):
        with_baselines(plant("full", seed, [0.1, 0.3 + seed / 500]), constant=0.228)
        path = with_baselines(plant("lora", seed, [0.1, 0.6 + seed / 500]), constant=0.228)
    [section] = group_runs(find_runs([path.parent])[0])
    found = probability_above_baselines(collect_evidence(section, "gmacs"))
    assert found["lora"] > 0.99
    assert 0.8 < found["full"] < 1
    verdict = compared(path.parent).verdict
    assert verdict.use is not None
    assert verdict.use.method == "lora"


def test_a_baseline_on_few_examples_varies_too(plant: Plant) -> None:
    for method in ("a", "b"):
        for seed in (1, 2, 3):
            path = plant(method, seed, [0.1, 0.58 + seed / 500], examples=100)
            with_baselines(path, constant=0.5)
    [section] = group_runs(find_runs([path.parent])[0])
    assert max(probability_above_baselines(collect_evidence(section, "gmacs")).values()) < 0.95


def test_scores_that_leak_the_answer_recommend_nothing(plant: Plant) -> None:
    for method in ("full", "lora"):
        for seed in (1, 2):
            path = plant(method, seed, [0.1, 0.5])
            for file in ("summary.json", "evaluations.jsonl"):
                text = (path / file).read_text()
                (path / file).write_text(text.replace('"accuracy"', '"teacher_forced_accuracy"'))
    found = compared(path.parent)
    assert found.verdict.use is None
    assert "leak" in found.verdict.sentences[1]
    assert all("leaked" in line.notes for line in found.lines)


def _of_model(plant: Plant, model: str) -> Verdict:
    for method, share in (("full", 0.5), ("lora", 0.8)):
        for seed in (1, 2):
            path = plant(method, seed, [0.1, share])
            summary = json.loads((path / "summary.json").read_text())
            (path / "summary.json").write_text(json.dumps({**summary, "model": model}))
    return compared(path.parent).verdict


def test_a_verdict_names_what_it_holds_for(plant: Plant) -> None:
    assert _of_model(plant, "org/base").sentences[-1] == "This holds for t with org/base and this training sample."


def test_results_of_a_pocket_model_do_not_carry_over(plant: Plant) -> None:
    assert "results do not carry over to larger models" in _of_model(plant, "pocket-t5").sentences[-1]


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (1.0, "> 99 %"),
        (0.996, "> 99 %"),
        (0.954, "95 %"),
        (0.5, "50 %"),
        (0.004, "< 1 %"),
        (0.0, "< 1 %"),
    ],
)
def test_no_probability_is_rounded_to_certainty(probability: float, text: str) -> None:
    assert format_percent(probability) == text
