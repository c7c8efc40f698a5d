from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftkit import Between
from peftkit.errors import InputError
from peftkit.plugins import Registry
from peftkit.sweep.grid import Grid, address
from peftkit.sweep.running import Sweep, alone, final_recipes, found

Make = Callable[..., Grid]
AXES = '[axes]\nmethod = ["lora", "full"]\nseed = [1, 2]\n'
TUNED = AXES + "[tune]\ntrials = 4\n[tune.set]\ntrain.budget.steps = 2\n"


def sweep(grid: Grid, registry: Registry, workers: Any) -> tuple[Sweep, list[str]]:
    said: list[str] = []
    return Sweep(grid, registry, workers, said.append), said


def test_everything_is_run_once_and_never_again(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted()
    one, said = sweep(grid(AXES), registry, workers)
    assert one.run() == []
    assert len(workers.asked) == 4
    assert len(said) == 4
    assert said[-1].startswith("[4/4]")
    two, said = sweep(grid(AXES), registry, workers)
    assert two.run() == []
    assert len(workers.asked) == 4
    assert said == []
    assert two.progress.found == 4
    changed, _ = sweep(grid(AXES + "[set]\ntrain.batch_size = 4\n"), registry, workers)
    changed.run()
    assert len(workers.asked) == 8


def test_a_failure_stops_nothing_and_is_tried_again(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted(fails=lambda recipe: recipe.method.name == "full" and recipe.run.seed == 1)
    one, said = sweep(grid(AXES), registry, workers)
    failures = one.run()
    assert [(f.label, f.last_lines[-1]) for f in failures] == [("full · seed 1", "peftkit: error: the disk is full")]
    assert failures[0].where.endswith("log.txt")
    assert any("failed: peftkit: error: the disk is full" in line for line in said)
    assert one.progress.done == 4
    workers.fails = lambda recipe: False
    two, _ = sweep(grid(AXES), registry, workers)
    assert two.run() == []
    assert len(workers.asked) == 5
    assert workers.resumed[-1] is not None, "it goes on in the directory of the one that failed"


def test_tuning_gives_every_method_as_much_and_finds_the_best(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted()
    made = grid(TUNED)
    one, _ = sweep(made, registry, workers)
    assert one.run() == []
    assert len(workers.asked) == 2 * (4 + 2)
    for study in made.studies:
        finals = final_recipes(made, study, registry)
        for seed, recipe in finals.items():
            told = json.loads((Path(recipe.run.output) / "tuning.json").read_text())
            assert told["trials"] == 4
            assert told["gmacs"] == 40.0
            assert told["limit"] == {"trials": 4}
            best = max(told["tried"], key=lambda each: each["score"])
            assert recipe.train.learning_rate == best["settings"]["train.learning_rate"]
            assert (recipe.run.seed, recipe.train.budget.steps) == (seed, 4)
            run = found(recipe)
            assert run is not None
            assert run.finished
    trials = [r for r in workers.asked if "trials" in Path(r.run.output).parts]
    assert {r.run.seed for r in trials} == {0}
    assert {r.train.budget.steps for r in trials} == {2}
    of_lora = [r.train.learning_rate for r in trials if r.method.name == "lora"]
    assert of_lora[0] == 1e-3, "the recipe's own rate is tried first"
    declared = next(r.method for r in trials if r.method.name == "lora").search["train.learning_rate"]
    assert isinstance(declared, Between)
    assert all(declared.low <= rate <= declared.high for rate in of_lora)
    assert len(set(of_lora)) == 4


def test_a_tuned_sweep_that_was_broken_off_goes_on_with_the_same_trials(
    grid: Make, planted: Any, registry: Registry, tmp_path: Path
) -> None:
    whole = planted()
    sweep(grid(TUNED), registry, whole)[0].run()
    expected = {address(recipe) for recipe in whole.asked}
    import shutil

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
    assert {address(r) for r in (*broken.asked, *again.asked)} == expected
    assert not {address(r) for r in broken.asked} & {address(r) for r in again.asked}


def test_macs_limit_trials_too(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted()
    made = grid(AXES + "[tune]\ngmacs = 35\n")
    assert sweep(made, registry, workers)[0].run() == []
    trials = [r for r in workers.asked if "trials" in Path(r.run.output).parts]
    assert len(trials) == 2 * 3  # of 10 GMACs each


def test_a_study_whose_trials_all_fail_is_told_and_the_others_go_on(
    grid: Make, planted: Any, registry: Registry
) -> None:
    workers = planted(fails=lambda recipe: recipe.method.name == "full")
    one, _ = sweep(grid(TUNED), registry, workers)
    failures = one.run()
    assert [f.label for f in failures][-1] == "full · wordnet_topic" or failures[-1].label.startswith("full")
    assert failures[-1].last_lines == ("full: every trial failed",)
    assert one.progress.done == one.progress.total == 12
    assert sum(r.method.name == "lora" for r in workers.asked) == 6


def test_a_space_of_the_file_goes_before_the_methods_own(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted()
    made = grid(TUNED + '[tune.space.lora]\n"method.r" = [2, 4]\n"train.weight_decay" = { low = 0.1, high = 0.2 }\n')
    assert sweep(made, registry, workers)[0].run() == []
    trials = [r for r in workers.asked if "trials" in Path(r.run.output).parts and r.method.name == "lora"]
    assert {r.method.r for r in trials} <= {2, 4}
    assert all(0.1 <= r.train.weight_decay <= 0.2 for r in trials)


def test_one_sweep_is_run_by_one_process(grid: Make, planted: Any, registry: Registry) -> None:
    made = grid(AXES)
    with alone(made), pytest.raises(InputError, match="being run by another process"):
        sweep(made, registry, planted())[0].run()
