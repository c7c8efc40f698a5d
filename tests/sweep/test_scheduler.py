from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import InputError
from peftkit.plugins import Registry
from peftkit.recipe import load_recipe
from peftkit.sweep.grid import Grid, recipe_hash
from peftkit.sweep.reused_runs import ReuseCheck
from peftkit.sweep.scheduler import Sweep, final_recipes, find_run, read_tuning, sweep_lock
from tests.sweep.conftest import best_at, trials_of

Make = Callable[..., Grid]
AXES = '[axes]\nmethod = ["lora", "full"]\nseed = [1, 2]\n'
TUNED = AXES + "[tune]\ntrials = 4\n"


def sweep(grid: Grid, registry: Registry, workers: Any) -> tuple[Sweep, list[str]]:
    messages: list[str] = []
    return Sweep(grid, registry, workers, messages.append), messages


def test_finished_runs_are_not_repeated(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted()
    one, messages = sweep(grid(AXES), registry, workers)
    assert one.run() == []
    assert len(workers.started) == 4
    assert len(messages) == 4
    assert messages[-1].startswith("[4/4]")
    two, messages = sweep(grid(AXES), registry, workers)
    assert two.run() == []
    assert len(workers.started) == 4
    assert messages == []
    assert two.progress.reused == 4
    changed, _ = sweep(grid(AXES + "[set]\ntrain.batch_size = 4\n"), registry, workers)
    changed.run()
    assert len(workers.started) == 8


def test_a_failed_run_does_not_stop_the_sweep_and_is_retried(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted(fails=lambda recipe: recipe.method.name == "full" and recipe.run.seed == 1)
    one, messages = sweep(grid(AXES), registry, workers)
    failures = one.run()
    assert [(f.label, f.last_lines[-1]) for f in failures] == [("full · seed 1", "peftkit: error: the disk is full")]
    assert failures[0].log.endswith("log.txt")
    assert any("failed: peftkit: error: the disk is full" in line for line in messages)
    assert one.progress.done == 4
    workers.fails = lambda recipe: False
    two, _ = sweep(grid(AXES), registry, workers)
    assert two.run() == []
    assert len(workers.started) == 5
    assert workers.resumed[-1] is not None, "it resumes in the directory of the failed run"


def test_every_method_gets_equal_trials_and_its_best_setting(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted()
    expanded = grid(TUNED)
    one, _ = sweep(expanded, registry, workers)
    assert one.run() == []
    assert len(workers.started) == one.progress.total == one.progress.done == 2 * (4 + 2 + 2 + 2)
    for study in expanded.studies:
        finals = final_recipes(expanded, study, registry)
        for seed, recipe in finals.items():
            record = json.loads((Path(recipe.run.output) / "tuning.json").read_text())
            assert record["trials"] == len(record["tried"]) == 8
            assert record["gmacs"] == 80.0
            assert record["design"] == {"trials": 4, "model_based": 0, "follow_ups": 2, "repeats": 2, "transfer": 0}
            assert (record["transfer"], record["head"]) == (None, None)
            best = max(record["tried"], key=lambda each: each["score"])
            assert recipe.train.learning_rate == best["settings"]["train.learning_rate"]
            assert (recipe.run.seed, recipe.train.budget.steps) == (seed, 4)
            run = find_run(recipe)
            assert run is not None
            assert run.finished
    for method in ("lora", "full"):
        trials = trials_of(workers, method)
        assert [r.run.seed for r in trials] == [0] * 6 + [3] * 2, "trials use no seed of the final runs"
        assert {r.train.budget.steps for r in trials} == {4}, "trials have the budget of the final runs"
        assert len({recipe_hash(r) for r in trials}) == 8


def test_the_best_trials_at_another_budget_are_repeated_at_the_final_one(
    grid: Make, planted: Any, registry: Registry
) -> None:
    """The best rate is lower at the final budget."""

    def score(recipe: Any) -> float:
        return best_at(7e-3 if recipe.train.budget.steps == 2 else 1e-3)(recipe)

    workers = planted(score=score)
    space = '[tune.space.lora]\n"train.learning_rate" = { low = 1e-4, high = 1e-2, log = true }\n'
    expanded = grid(TUNED + f"[tune.set]\ntrain.budget.steps = 2\n{space}")
    one, _ = sweep(expanded, registry, workers)
    assert one.run() == []
    assert len(workers.started) == one.progress.total == 2 * (4 + 2 + 2 + 2 + 2)
    record = read_tuning(expanded, expanded.studies[0])
    assert record is not None
    assert record["design"]["transfer"] == 2
    assert record["transfer"] == {"trials_budget": {"steps": 2}, "final_budget": {"steps": 4}, "order_holds": False}
    first, second = (each for each in record["tried"] if each["stage"] == "transfer")
    assert first["settings"]["train.learning_rate"] == 1e-2, "the best setting of the trials is run first"
    assert second["settings"] == record["settings"], "the better dev score at the final budget wins"
    assert second["score"] > first["score"]
    budgets = [r.train.budget.steps for r in trials_of(workers, "lora")]
    assert budgets == [2] * 8 + [4] * 2


def test_an_interrupted_tuning_resumes_with_the_same_trials(
    grid: Make, planted: Any, registry: Registry, tmp_path: Path
) -> None:
    whole = planted()
    sweep(grid(TUNED), registry, whole)[0].run()
    expected = {recipe_hash(recipe) for recipe in whole.started}
    shutil.rmtree(tmp_path / "s")
    broken = planted()
    one, _ = sweep(grid(TUNED), registry, broken)
    tried: list[int] = []

    def run(*words: Any) -> Any:
        tried.append(1)
        if len(tried) > 5:
            raise KeyboardInterrupt
        return type(broken).run(broken, *words)

    broken.run = run
    with pytest.raises(KeyboardInterrupt):
        one.run()
    again = planted()
    assert sweep(grid(TUNED), registry, again)[0].run() == []
    assert {recipe_hash(r) for r in (*broken.started, *again.started)} == expected
    assert not {recipe_hash(r) for r in broken.started} & {recipe_hash(r) for r in again.started}


def test_a_diverged_trial_ranks_last_and_is_not_repeated(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted(diverges=lambda recipe: recipe.train.learning_rate > 1e-3)
    expanded = grid(TUNED)
    one, messages = sweep(expanded, registry, workers)
    assert one.run() == []
    assert any("diverged" in line for line in messages)
    record = read_tuning(expanded, expanded.studies[0])
    assert record is not None
    assert record["trials"] == len(record["tried"]) == 8
    diverged = [each for each in record["tried"] if each["score"] is None]
    assert diverged
    assert all(each["settings"]["train.learning_rate"] > 1e-3 and each["gmacs"] == 5.0 for each in diverged)
    assert record["gmacs"] == sum(each["gmacs"] for each in record["tried"])
    number = len(workers.started)
    assert sweep(expanded, registry, workers)[0].run() == []
    assert len(workers.started) == number


def test_tuning_does_not_depend_on_test_scores(grid: Make, planted: Any, registry: Registry, tmp_path: Path) -> None:
    """Implausible test scores in the trials' directories do not change the choice."""
    chosen = []
    for absurd in (False, True):
        workers = planted()
        run = workers.run

        def spoilt(file: Path, resume: Path | None, log: Path, run: Any = run, absurd: bool = absurd) -> Any:
            outcome = run(file, resume, log)
            for folder in file.parent.glob("*/"):
                summary = json.loads((folder / "summary.json").read_text())
                if absurd:
                    rate = load_recipe(file, registry).train.learning_rate
                    summary["selected"]["test"] = {"accuracy": 1e6 * rate, "loss": -1e9 * rate}
                    (folder / "predictions").mkdir(exist_ok=True)
                    (folder / "predictions" / "test.jsonl").write_text("absurd")
                    (folder / "evaluations.jsonl").write_text('{"test": {"accuracy": 1e9}}')
                (folder / "summary.json").write_text(json.dumps(summary))
            return outcome

        workers.run = spoilt
        expanded = grid(TUNED)
        assert sweep(expanded, registry, workers)[0].run() == []
        chosen.append([read_tuning(expanded, study)["settings"] for study in expanded.studies])  # type: ignore[index]
        shutil.rmtree(tmp_path / "s")
    assert chosen[0] == chosen[1]


def test_a_study_with_only_failed_trials_does_not_stop_the_others(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted(fails=lambda recipe: recipe.method.name == "full")
    one, _ = sweep(grid(TUNED), registry, workers)
    failures = one.run()
    assert [f.label for f in failures][-1] == "full · wordnet_topic" or failures[-1].label.startswith("full")
    assert failures[-1].last_lines == ("full: every trial failed",)
    assert one.progress.done == one.progress.total == 2 * (8 + 2)
    assert sum(r.method.name == "lora" for r in workers.started) == 8 + 2


def test_the_sweeps_search_space_replaces_the_methods(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted()
    expanded = grid(
        TUNED + '[tune.space.lora]\n"method.r" = [2, 4]\n"train.weight_decay" = { low = 0.1, high = 0.2 }\n'
    )
    assert sweep(expanded, registry, workers)[0].run() == []
    trials = [r for r in workers.started if "trials" in Path(r.run.output).parts and r.method.name == "lora"]
    assert {r.method.r for r in trials} <= {2, 4}
    assert all(0.1 <= r.train.weight_decay <= 0.2 for r in trials[:4]), "only extensions are outside the range"
    assert len(trials) == 8


def test_a_running_sweep_is_locked(grid: Make, planted: Any, registry: Registry) -> None:
    expanded = grid(AXES)
    with sweep_lock(expanded), pytest.raises(InputError, match="another process is running this sweep"):
        sweep(expanded, registry, planted())[0].run()


def test_final_runs_of_an_earlier_tuning_are_superseded(grid: Make, planted: Any, registry: Registry) -> None:
    for low, high in ((1e-5, 1e-4), (1e-3, 1e-2), (1e-5, 1e-4)):
        space = f'[tune.space.lora]\n"train.learning_rate" = {{ low = {low}, high = {high}, log = true }}\n'
        expanded = grid(TUNED + space)
        one, _ = sweep(expanded, registry, planted())
        assert one.run() == []
        records = [json.loads(f.read_text()) for f in (expanded.folder / "runs").glob("*/tuning.json")]
        chosen = read_tuning(expanded, next(s for s in expanded.studies if s.any_recipe.method.name == "lora"))
        assert chosen is not None
        of_lora = [each for each in records if each["study"] == chosen["study"]]
        assert [each["settings"] == chosen["settings"] for each in of_lora] == [
            not each.get("superseded") for each in of_lora
        ]
        assert sum(not each.get("superseded") for each in of_lora) == 2, "one for each seed"
    assert len(of_lora) == 4


@pytest.mark.parametrize("key", ["init_seed", "order_seed"])
def test_init_and_order_seeds_are_not_axes_of_a_tuned_sweep(
    key: str, grid: Make, planted: Any, registry: Registry
) -> None:
    axes = f'[axes]\nmethod = ["lora"]\nrun.{key} = [1, 2]\n'
    with pytest.raises(
        InputError, match=rf"as an axis, run\.{key} would tune each of its values separately; use the axis seed"
    ):
        sweep(grid(axes + "[tune]\ntrials = 3\n"), registry, planted())
    one, _ = sweep(grid(axes), registry, planted())
    assert one.run() == []


def test_a_finished_run_is_reused_only_with_unchanged_inputs(
    grid: Make, planted: Any, registry: Registry, tmp_path: Path
) -> None:
    rows = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(40)]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    task = f"""
    [set]
    train.batch_size = 4
    task.name = "text_classification"
    task.path.train = "{file}"
    task.path.dev = "{file}"
    task.path.test = "{file}"
    """
    workers = planted()
    one, _ = sweep(grid(AXES + task), registry, workers)
    assert one.run() == []
    num_runs = len(workers.started)
    inputs = ReuseCheck(registry).inputs
    for recipe in workers.started:
        run = find_run(recipe)
        assert run is not None
        run.write_json("environment.json", {"inputs": inputs(run.path, recipe)})
    again, _ = sweep(grid(AXES + task), registry, workers)
    assert again.run() == []
    assert again.progress.reused == num_runs
    file.write_text(json.dumps([*rows[:-1], {"text": "another", "label": "b"}]))
    other, _ = sweep(grid(AXES + task), registry, workers)
    failures = other.run()
    assert len(workers.started) == num_runs, "nothing is run again"
    assert len(failures) == num_runs
    for failure in failures:
        assert (
            "have changed: the rows of dev, the rows of test, the rows of train; restore them" in failure.last_lines[-1]
        )
