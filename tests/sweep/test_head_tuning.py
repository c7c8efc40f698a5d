"""The learning rate of new heads: tuned once for each model and task, and the same for all methods."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import InputError
from peftkit.plugins import Registry
from peftkit.sweep.grid import Grid, recipe_hash
from peftkit.sweep.head_tuning import find_heads
from peftkit.sweep.plan import estimate_sweep
from peftkit.sweep.scheduler import Sweep, final_recipes, read_tuning, write_marker
from peftkit.sweep.tuning_stages import search_space_of
from tests.sweep.conftest import best_at

Make = Callable[..., Grid]
ENCODER = "model.name=pocket-encoder"
AXES = '[axes]\nmethod = ["lora", "ia3"]\nseed = [1, 2]\n'
TUNED = AXES + "[tune]\ntrials = 3\n"
OF_EACH = 3 + 2 + 2
OF_HEAD = 5 + 2 + 2


def sweep(grid: Grid, registry: Registry, workers: Any, **options: Any) -> tuple[Sweep, list[str]]:
    said: list[str] = []
    return Sweep(grid, registry, workers, said.append, **options), said


def in_head(recipe: Any) -> bool:
    return any(part.startswith("head-") for part in Path(recipe.run.output).parts)


def head_score(recipe: Any) -> float:
    """Of a head's trials the best rate is 1e-2, of methods' trials it is 1e-3."""
    return best_at(1e-2, "head_learning_rate")(recipe) if in_head(recipe) else best_at(1e-3)(recipe)


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_a_head_is_tuned_once_and_its_rate_is_that_of_every_run_of_its_model_and_task(
    jobs: int, grid: Make, planted: Any, registry: Registry
) -> None:
    workers = planted(score=head_score, jobs=jobs)
    made = grid(
        TUNED + '[[axes.on]]\ntask.name = "wordnet_topic"\n[[axes.on]]\ntask.name = "wordnet_mcq"\n', (ENCODER,)
    )
    one, _ = sweep(made, registry, workers, overrides=(ENCODER,))
    assert one.run() == []
    assert len(workers.asked) == one.progress.total == one.progress.done == 2 * OF_HEAD + 4 * (OF_EACH + 2)
    heads = [recipe for recipe in workers.asked if in_head(recipe)]
    assert len(heads) == 2 * OF_HEAD
    assert {recipe.method.name for recipe in heads} == {"head_only"}
    rates = [recipe.train.head_learning_rate for recipe in heads if recipe.task.name == "wordnet_mcq"]
    assert sorted(rates[:5]) == pytest.approx([1e-4, 5.623e-4, 3.162e-3, 1.778e-2, 1e-1], rel=1e-3)
    for study in made.studies:
        record = read_tuning(made, study)
        assert record is not None
        head = record["head"]
        assert head["method"] == "head_only"
        assert head["trials"] == len(head["tried"]) == OF_HEAD
        assert head["gmacs"] == 10.0 * OF_HEAD
        assert all(each["run"] for each in head["tried"])
        assert head["learning_rate"] == pytest.approx(1e-2, rel=0.4)
        runs = [r for r in workers.asked if not in_head(r) and r.task.name == study.any_recipe.task.name]
        assert {recipe.train.head_learning_rate for recipe in runs} == {head["learning_rate"]}
        finals = final_recipes(made, study, registry, (ENCODER,))
        assert {recipe.train.head_learning_rate for recipe in finals.values()} == {head["learning_rate"]}


def test_a_head_is_tuned_before_any_study_of_it(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted(score=head_score, jobs=3)
    assert sweep(grid(TUNED, (ENCODER,)), registry, workers, overrides=(ENCODER,))[0].run() == []
    assert [in_head(recipe) for recipe in workers.asked] == [True] * OF_HEAD + [False] * 2 * (OF_EACH + 2)


def test_a_sweep_that_was_interrupted_finds_the_head_again(
    grid: Make, planted: Any, registry: Registry, tmp_path: Path
) -> None:
    made = grid(TUNED, (ENCODER,))
    whole = planted(score=head_score, jobs=1)
    sweep(made, registry, whole, overrides=(ENCODER,))[0].run()
    shutil.rmtree(tmp_path / "s")
    for number in (4, OF_HEAD, OF_HEAD + 3):
        broken = planted(score=head_score, jobs=1)
        run = broken.run

        def cut(*words: Any, run: Any = run, broken: Any = broken, number: int = number) -> Any:
            if len(broken.asked) == number:
                raise KeyboardInterrupt
            return run(*words)

        broken.run = cut
        with pytest.raises(KeyboardInterrupt):
            sweep(made, registry, broken, overrides=(ENCODER,))[0].run()
        again = planted(score=head_score, jobs=1)
        two, _ = sweep(made, registry, again, overrides=(ENCODER,))
        assert two.run() == []
        assert two.progress.done == two.progress.total
        assert {recipe_hash(r) for r in (*broken.asked, *again.asked)} == {recipe_hash(r) for r in whole.asked}
        assert len(broken.asked) + len(again.asked) == len(whole.asked)
        shutil.rmtree(tmp_path / "s")


def test_jobs_of_a_cluster_tune_the_head_once(grid: Make, planted: Any, registry: Registry) -> None:
    """Each job is a process of its own, which knows of the others by the sweep's folder alone."""
    workers = planted(score=head_score, jobs=1)
    made = grid(TUNED, (ENCODER,))
    write_marker(made)
    jobs = [sweep(made, registry, workers, overrides=(ENCODER,))[0] for _ in made.studies]
    with ThreadPoolExecutor(len(jobs)) as pool:
        assert [*pool.map(lambda job, study: job.run_one(study), jobs, made.studies)] == [[], []]
    assert sum(map(in_head, workers.asked)) == OF_HEAD
    assert len({recipe.train.head_learning_rate for recipe in workers.asked if not in_head(recipe)}) == 1


def test_a_part_of_a_sweep_has_the_head_of_the_whole(grid: Make, registry: Registry) -> None:
    """An axis that names neither the model nor the task has no part in it."""
    text = AXES + 'train.batch_size = [4, 8]\n[[axes.on]]\ntask.name = "wordnet_topic"\n[tune]\ntrials = 3\n'
    whole = find_heads(grid(text, (ENCODER,)), registry, (ENCODER,))
    part = find_heads(grid(text, (ENCODER,), ("method=ia3", "train.batch_size=8")), registry, (ENCODER,))
    assert (len(whole), len(part)) == (4, 1)
    assert len({head.folder for head in (*whole.values(), *part.values())}) == 1


@pytest.mark.parametrize(
    ("text", "overrides", "number"),
    [
        (TUNED, ("model.name=pocket-t5",), 0),
        (TUNED, ("model.name=pocket-decoder",), 0),
        (TUNED, (ENCODER,), 2),
        (TUNED, (ENCODER, "train.head_learning_rate=0.02"), 0),
        (AXES, (ENCODER,), 0),
    ],
)
def test_heads_are_tuned_where_there_are_new_ones_of_no_given_rate(
    text: str, overrides: tuple[str, ...], number: int, grid: Make, registry: Registry
) -> None:
    assert len(find_heads(grid(text, overrides), registry, overrides)) == number


def test_the_plan_counts_the_heads_trials(grid: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftkit.sweep.plan._CostEstimator._estimate_run", lambda self, recipe: (2.0, 1.0))
    made = estimate_sweep(grid(TUNED, (ENCODER,)), registry, (ENCODER,), trial=False)
    assert [(each.label.startswith("head of"), each.trials) for each in made.studies] == [
        (True, OF_HEAD),
        (False, OF_EACH),
        (False, OF_EACH),
    ]
    assert made.runs == 4
    assert made.gmacs == 2.0 * (OF_HEAD + 2 * OF_EACH + 4)


def test_a_head_that_cannot_be_tuned_fails_its_studies_and_no_others(
    grid: Make, planted: Any, registry: Registry
) -> None:
    text = TUNED.replace("[tune]", 'model = ["pocket-encoder", "pocket-t5"]\n[tune]')
    workers = planted(fails=in_head)
    one, _ = sweep(grid(text), registry, workers)
    failures = one.run()
    assert one.progress.done == one.progress.total
    assert [failure.last_lines[-1] for failure in failures if failure.label.startswith("lora")] == [
        "head of pocket-encoder · wordnet_topic could not be tuned"
    ]
    assert sum(recipe.model.name == "pocket-t5" for recipe in workers.asked) == 2 * (OF_EACH + 2)


def test_a_reference_method_that_cannot_be_used_is_refused_before_anything_is_run(
    grid: Make, planted: Any, registry: Registry
) -> None:
    made = grid(TUNED + '[tune.head]\nmethod = "adaption_prompt"\n', (ENCODER,))
    with pytest.raises(InputError, match=r"head of pocket-encoder · wordnet_topic.*adaption_prompt"):
        sweep(made, registry, planted(), overrides=(ENCODER,))


def test_a_head_at_the_edge_of_its_range_is_said(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted(score=lambda r: r.train.head_learning_rate if in_head(r) else best_at(1e-3)(r))
    made = grid(TUNED, (ENCODER,))
    one, _ = sweep(made, registry, workers, overrides=(ENCODER,))
    one.run()
    assert one.at_edge["head of pocket-encoder · wordnet_topic"] == (
        "train.head_learning_rate at its high end (3.162)",
    )
    record: Mapping[str, Any] = json.loads(
        next((made.folder / "trials").glob("head-*/tuning.json")).read_text(encoding="utf-8")
    )
    assert record["at_edge"] == [{"key": "train.head_learning_rate", "end": "high", "value": 3.162}]


def test_a_method_that_trains_the_head_alone_is_tuned_with_the_head(
    grid: Make, planted: Any, registry: Registry
) -> None:
    text = '[axes]\nmethod = ["lora", "head_only"]\nseed = [1, 2]\n[tune]\ntrials = 3\n'
    workers = planted(score=head_score)
    made = grid(text, (ENCODER,))
    one, _ = sweep(made, registry, workers, overrides=(ENCODER,))
    assert one.run() == []
    assert len(workers.asked) == one.progress.total == one.progress.done == OF_HEAD + OF_EACH + 2 + 2
    lora, head_only = (read_tuning(made, study) for study in made.studies)
    assert lora is not None
    assert head_only is not None
    assert (head_only["trials"], head_only["gmacs"], head_only["settings"], head_only["tried"]) == (0, 0.0, {}, [])
    assert head_only["design"] == lora["design"], "they are compared as tuned alike"
    assert head_only["head"] == lora["head"]


def test_the_heads_rate_is_no_methods_own(written: Any, registry: Registry, grid: Make) -> None:
    space = '[tune.space.lora]\n"train.head_learning_rate" = { low = 1e-4, high = 1e-2, log = true }\n'
    with pytest.raises(InputError, match=r"tune\.space\.lora: train\.head_learning_rate is tuned once for all methods"):
        heads_and_spaces(grid(TUNED + space, (ENCODER,)))


def heads_and_spaces(made: Grid) -> None:
    assert made.config.tune is not None
    for study in made.studies:
        search_space_of(study, made.config.tune)
