"""``compare`` and ``advise`` take their numbers from one posterior of runs and trials; single seeds are not ranked."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftkit.compare.budget_ranking import rank_within_budget
from peftkit.compare.comparison import Comparison, compare
from peftkit.compare.input.groups import RunGroup, group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.output.html_report import render_report
from peftkit.compare.output.table_formats import FORMATS, render, table_rows
from peftkit.compare.output.table_notes import notes
from peftkit.compare.posterior_inputs import is_proportion, read_tunings
from tests.compare.conftest import Plant, with_values


def section_of(path: Path, *pool: str) -> RunGroup:
    [section] = group_runs(find_runs([path])[0], ["data", *pool])
    return section


def random_runs(rng: random.Random, plant: Plant) -> tuple[Path, float]:
    """Runs of random methods, and the highest cost: accuracies or losses, with or without baselines."""
    examples, loss, without_predictions = rng.choice([20, 40, 200]), rng.random() < 0.3, rng.random() < 0.3
    seeds, blind = rng.choice([2, 3, 5]), rng.choice([None, 0.2, 0.6])
    constant_share = rng.choice([None, 1.0])
    path, highest = Path(), 0.0
    for number in range(rng.randint(1, 6)):
        level, cost = rng.uniform(0.3, 1.0), constant_share or rng.uniform(0.5, 3.0)
        highest = max(highest, 2 * cost)
        for seed in range(1 if rng.random() < 0.15 else seeds):
            share = min(1.0, max(0.0, level + rng.gauss(0, 0.02)))
            last = [0.1, share / 2, share]
            right = [rng.random() < share for _ in range(examples)]
            tables = {"evaluate": {"test_examples": examples}}
            path = plant(f"m{number}", seed, last, right=right, tables=tables, cost=cost, constant=blind)
            if loss:
                losses = [rng.lognormvariate(-level, 0.5) for _ in range(examples)]
                values = [{"loss": each, "tokens": 1} for each in losses]
                with_values(path, values, "loss", float(np.mean(losses)), higher_is_better=False)
            if without_predictions:
                (path / "predictions" / "test.jsonl").unlink()
    return path.parent, highest


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), part=st.floats(0.2, 1.0))
def test_compare_and_advise_name_the_same_method_with_the_same_probability(
    seed: int, part: float, plant: Plant, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    runs, highest = random_runs(random.Random(seed), plant)
    section = section_of(runs)
    within = part * highest
    compared, advised = compare(section, budgets=[within]), rank_within_budget(section, "gmacs", 2 * highest)
    assert [(line.method, line.score, line.low, line.high, line.best) for line in compared.lines] == [
        (each.method, each.score, each.low, each.high, each.best) for each in advised.candidates
    ]
    assert advised.verdict.sentences[1:] == compared.verdict.sentences[1:]
    assert replace(advised.verdict, budget=None, sentences=()) == replace(compared.verdict, sentences=())
    use = rank_within_budget(section, "gmacs", within).verdict.use
    assert [(each.method, each.score, each.best) for each in compared.winners] == (
        [(use.method, use.score, use.best)] if use and len(section.runs) else []
    )
    for line in compared.lines:
        if line.best is not None:
            assert 0 <= line.best <= (line.near_best or 0) <= 1
    if compared.verdict.use:
        assert compared.verdict.use.method == compared.lines[0].method
        assert compared.verdict.use.best == compared.lines[0].best


def comparison_of_single_seeds(plant: Plant) -> Comparison:
    plant("full", 1, [0.1, 0.4], cost=3.0)
    return compare(section_of(plant("lora", 1, [0.1, 0.9]).parent))


@pytest.mark.parametrize("output_format", FORMATS)
def test_no_format_ranks_methods_with_one_seed_each(output_format: str, plant: Plant) -> None:
    comparison = comparison_of_single_seeds(plant)
    assert {(line.best, line.near_best, line.letter) for line in comparison.lines} == {(None, None, "")}
    assert comparison.winners == ()
    assert comparison.differences == comparison.pairwise.differences == ()
    assert comparison.verdict.use is None
    assert render([comparison], output_format)


def test_with_one_seed_each_the_table_shows_the_cost_of_more(plant: Plant) -> None:
    comparison = comparison_of_single_seeds(plant)
    assert {"P(best)", "group"}.isdisjoint(table_rows(comparison, wide=True)[0])
    [note] = [note for note in notes(comparison) if note.startswith("one seed")]
    assert "are of this run" in note
    assert note.endswith("costs 4 GMACs"), "a seed of each costs 3 and 1"


def test_a_method_with_one_seed_comes_after_ranked_ones(plant: Plant) -> None:
    for seed in (1, 2):
        plant("full", seed, [0.1, 0.4])
        path = plant("lora", seed, [0.1, 0.5])
    plant("vera", 1, [0.1, 0.9])
    comparison = compare(section_of(path.parent))
    assert comparison.lines[-1].method == "vera"
    assert [line.best is None for line in comparison.lines] == [False, False, True]
    assert render_report([section_of(path.parent)])


@pytest.mark.parametrize(
    ("metric", "scores", "share"),
    [
        ("accuracy", (0.0, 1.0), True),
        ("rougeL", (0.2, 0.3), True),
        ("bleu", (0.2, 0.3), False),
        ("x", (0.5, 1.8), False),
    ],
)
def test_which_metrics_are_shares(metric: str, scores: tuple[float, float], share: bool, plant: Plant) -> None:
    section = section_of(plant("full", 1, [0.1, 0.5]))
    [run] = section.runs["full"].values()
    assert is_proportion(run, metric, {"full": dict(enumerate(scores))}) == share


RATES = (0.001, 0.01, 0.1)


def study(plant: Plant, method: str, shares: tuple[float, ...], chosen: int, **more: Any) -> None:
    """Writes the final runs of a sweep's study and a trial of each rate with that share of right answers."""
    runs = [plant(method, seed, [0.1, shares[chosen]], examples=400) for seed in (1, 2, 3)]
    sweep = runs[0].parents[1] / "sweep"
    (sweep / method).mkdir(parents=True)
    (sweep / "sweep.json").write_text("{}")
    trials = sweep / "trials" / f"{method}-address"
    tried = []
    for rate, share in zip(RATES, shares, strict=True):
        run = plant(method, 9, [0.1, share], examples=400)
        shutil.copy(run / "predictions" / "test.jsonl", run / "predictions" / "dev.jsonl")
        (trials / str(rate)).mkdir(parents=True)
        run = run.rename(trials / str(rate) / f"{method}-{rate}")
        tried.append({"settings": {"train.learning_rate": rate}, "score": share, "run": run.name, "stage": "design"})
    record = {"format": 1, "trials": 3, "gmacs": 1.0, "settings": tried[chosen]["settings"], "tried": tried, **more}
    (sweep / method / "tuning.json").write_text(json.dumps(record))
    for run in runs:
        run.rename(sweep / method / run.name)


def test_trials_of_a_sweep_lower_the_score_of_an_uncertain_choice(plant: Plant, tmp_path: Path) -> None:
    study(plant, "clear", (0.3, 0.6, 0.4), 1)
    study(plant, "close", (0.57, 0.6, 0.57), 1)
    section = section_of(tmp_path / "sweep")
    tunings = read_tunings(section, "accuracy")
    assert [trial.setting for trial in tunings["close"].trials] == [0, 1, 2]
    assert tunings["close"].chosen == 1
    assert [trial.test.mean() for trial in tunings["close"].trials if trial.test is not None] == [0.57, 0.6, 0.57]
    assert all(len(trial.dev) == 400 for trial in tunings["close"].trials)
    scores = {line.method: line.score for line in compare(section).lines}
    assert scores["close"] < scores["clear"], "another choice would have scored less"
    assert read_tunings(section, "loss") == {}, "settings were chosen by another metric"


def test_trials_at_another_budget_count_by_dev_only(plant: Plant, tmp_path: Path) -> None:
    budgets = {"trials_budget": {"epochs": 1.0}, "final_budget": {"epochs": 4.0}, "order_holds": True}
    study(plant, "lora", (0.3, 0.6, 0.4), 1, transfer=budgets)
    [tuning] = read_tunings(section_of(tmp_path / "sweep"), "accuracy").values()
    assert all(trial.test is None for trial in tuning.trials)


def test_deleted_trials_leave_their_recorded_dev_scores(plant: Plant, tmp_path: Path) -> None:
    study(plant, "lora", (0.3, 0.6, 0.4), 1)
    shutil.rmtree(tmp_path / "sweep" / "trials")
    [tuning] = read_tunings(section_of(tmp_path / "sweep"), "accuracy").values()
    assert [trial.dev.tolist() for trial in tuning.trials] == [[0.3], [0.6], [0.4]]
