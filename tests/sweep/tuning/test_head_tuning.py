"""The learning rate of new heads is tuned once for each model and task and shared by all methods."""

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
from peftkit.sweep.scheduler import Sweep, final_recipes, read_tuning, write_marker
from peftkit.sweep.sweep_plan import estimate_sweep
from peftkit.sweep.tuning.head_tuning import find_heads
from peftkit.sweep.tuning.tuning_stages import search_space_of
from tests.sweep.conftest import best_at

Make = Callable[..., Grid]
ENCODER = "model.name=pocket-encoder"
AXES = '[axes]\nmethod = ["lora", "ia3"]\nseed = [1, 2]\n'
TUNED = AXES + "[tune]\ntrials = 3\n"
METHOD_TRIALS = 3 + 2 + 2
HEAD_TRIALS = 5 + 2 + 2


def sweep(grid: Grid, registry: Registry, workers: Any, **options: Any) -> tuple[Sweep, list[str]]:
    messages: list[str] = []
    return Sweep(grid, registry, workers, messages.append, **options), messages


def in_head(recipe: Any) -> bool:
    return any(part.startswith("head-") for part in Path(recipe.run.output).parts)


def head_score(recipe: Any) -> float:
    """The best rate is 1e-2 in trials of the head and 1e-3 in trials of methods."""
    return best_at(1e-2, "head_learning_rate")(recipe) if in_head(recipe) else best_at(1e-3)(recipe)


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_every_run_of_a_model_and_task_uses_its_tuned_head_rate(
    jobs: int, grid: Make, planted: Any, registry: Registry
) -> None:
    workers = planted(score=head_score, jobs=jobs)
    expanded = grid(
        TUNED + '[[axes.on]]\ntask.name = "wordnet_topic"\n[[axes.on]]\ntask.name = "wordnet_mcq"\n', (ENCODER,)
    )
    one, _ = sweep(expanded, registry, workers, overrides=(ENCODER,))
    assert one.run() == []
    assert len(workers.started) == one.progress.total == one.progress.done == 2 * HEAD_TRIALS + 4 * (METHOD_TRIALS + 2)
    heads = [recipe for recipe in workers.started if in_head(recipe)]
    assert len(heads) == 2 * HEAD_TRIALS
    assert {recipe.method.name for recipe in heads} == {"head_only"}
    rates = [recipe.train.head_learning_rate for recipe in heads if recipe.task.name == "wordnet_mcq"]
    assert sorted(rates[:5]) == pytest.approx([1e-4, 5.623e-4, 3.162e-3, 1.778e-2, 1e-1], rel=1e-3)
    for study in expanded.studies:
        record = read_tuning(expanded, study)
        assert record is not None
        head = record["head"]
        assert head["method"] == "head_only"
        assert head["trials"] == len(head["tried"]) == HEAD_TRIALS
        assert head["gmacs"] == 10.0 * HEAD_TRIALS
        assert all(each["run"] for each in head["tried"])
        assert head["learning_rate"] == pytest.approx(1e-2, rel=0.4)
        runs = [r for r in workers.started if not in_head(r) and r.task.name == study.any_recipe.task.name]
        assert {recipe.train.head_learning_rate for recipe in runs} == {head["learning_rate"]}
        finals = final_recipes(expanded, study, registry, (ENCODER,))
        assert {recipe.train.head_learning_rate for recipe in finals.values()} == {head["learning_rate"]}


def test_heads_are_tuned_before_their_studies(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted(score=head_score, jobs=3)
    assert sweep(grid(TUNED, (ENCODER,)), registry, workers, overrides=(ENCODER,))[0].run() == []
    assert [in_head(recipe) for recipe in workers.started] == [True] * HEAD_TRIALS + [False] * 2 * (METHOD_TRIALS + 2)


def test_an_interrupted_sweep_reuses_trials_of_the_head(
    grid: Make, planted: Any, registry: Registry, tmp_path: Path
) -> None:
    expanded = grid(TUNED, (ENCODER,))
    whole = planted(score=head_score, jobs=1)
    sweep(expanded, registry, whole, overrides=(ENCODER,))[0].run()
    shutil.rmtree(tmp_path / "s")
    for number in (4, HEAD_TRIALS, HEAD_TRIALS + 3):
        broken = planted(score=head_score, jobs=1)
        run = broken.run

        def cut(*words: Any, run: Any = run, broken: Any = broken, number: int = number) -> Any:
            if len(broken.started) == number:
                raise KeyboardInterrupt
            return run(*words)

        broken.run = cut
        with pytest.raises(KeyboardInterrupt):
            sweep(expanded, registry, broken, overrides=(ENCODER,))[0].run()
        again = planted(score=head_score, jobs=1)
        two, _ = sweep(expanded, registry, again, overrides=(ENCODER,))
        assert two.run() == []
        assert two.progress.done == two.progress.total
        assert {recipe_hash(r) for r in (*broken.started, *again.started)} == {recipe_hash(r) for r in whole.started}
        assert len(broken.started) + len(again.started) == len(whole.started)
        shutil.rmtree(tmp_path / "s")


def test_cluster_jobs_tune_the_head_once(grid: Make, planted: Any, registry: Registry) -> None:
    """Jobs are separate processes that share only the sweep's folder."""
    workers = planted(score=head_score, jobs=1)
    expanded = grid(TUNED, (ENCODER,))
    write_marker(expanded)
    jobs = [sweep(expanded, registry, workers, overrides=(ENCODER,))[0] for _ in expanded.studies]
    with ThreadPoolExecutor(len(jobs)) as pool:
        assert [*pool.map(lambda job, study: job.run_one(study), jobs, expanded.studies)] == [[], []]
    assert sum(map(in_head, workers.started)) == HEAD_TRIALS
    assert len({recipe.train.head_learning_rate for recipe in workers.started if not in_head(recipe)}) == 1


def test_a_part_of_a_sweep_shares_the_head_of_the_whole(grid: Make, registry: Registry) -> None:
    """Axes other than model and task do not matter."""
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
def test_only_new_heads_without_a_given_rate_are_tuned(
    text: str, overrides: tuple[str, ...], number: int, grid: Make, registry: Registry
) -> None:
    assert len(find_heads(grid(text, overrides), registry, overrides)) == number


def test_the_plan_includes_trials_of_the_head(grid: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftkit.sweep.sweep_plan._CostEstimator._estimate_run", lambda self, recipe: (2.0, 1.0))
    expanded = estimate_sweep(grid(TUNED, (ENCODER,)), registry, (ENCODER,), trial=False)
    assert [(each.label.startswith("head of"), each.trials) for each in expanded.studies] == [
        (True, HEAD_TRIALS),
        (False, METHOD_TRIALS),
        (False, METHOD_TRIALS),
    ]
    assert expanded.runs == 4
    assert expanded.gmacs == 2.0 * (HEAD_TRIALS + 2 * METHOD_TRIALS + 4)


def test_a_failed_head_tuning_fails_its_studies_only(grid: Make, planted: Any, registry: Registry) -> None:
    text = TUNED.replace("[tune]", 'model = ["pocket-encoder", "pocket-t5"]\n[tune]')
    workers = planted(fails=in_head)
    one, _ = sweep(grid(text), registry, workers)
    failures = one.run()
    assert one.progress.done == one.progress.total
    assert [failure.last_lines[-1] for failure in failures if failure.label.startswith("lora")] == [
        "head of pocket-encoder · wordnet_topic could not be tuned"
    ]
    assert sum(recipe.model.name == "pocket-t5" for recipe in workers.started) == 2 * (METHOD_TRIALS + 2)


def test_an_incompatible_reference_method_is_rejected_before_any_run(
    grid: Make, planted: Any, registry: Registry
) -> None:
    expanded = grid(TUNED + '[tune.head]\nmethod = "adaption_prompt"\n', (ENCODER,))
    with pytest.raises(InputError, match=r"head of pocket-encoder · wordnet_topic.*adaption_prompt"):
        sweep(expanded, registry, planted(), overrides=(ENCODER,))


def test_a_head_rate_at_the_edge_is_reported(grid: Make, planted: Any, registry: Registry) -> None:
    workers = planted(score=lambda r: r.train.head_learning_rate if in_head(r) else best_at(1e-3)(r))
    expanded = grid(TUNED, (ENCODER,))
    one, _ = sweep(expanded, registry, workers, overrides=(ENCODER,))
    one.run()
    assert one.at_edge["head of pocket-encoder · wordnet_topic"] == (
        "train.head_learning_rate at its high end (3.162)",
    )
    record: Mapping[str, Any] = json.loads(
        next((expanded.folder / "trials").glob("head-*/tuning.json")).read_text(encoding="utf-8")
    )
    assert record["at_edge"] == [{"key": "train.head_learning_rate", "end": "high", "value": 3.162}]


def test_head_only_is_tuned_with_the_head(grid: Make, planted: Any, registry: Registry) -> None:
    text = '[axes]\nmethod = ["lora", "head_only"]\nseed = [1, 2]\n[tune]\ntrials = 3\n'
    workers = planted(score=head_score)
    expanded = grid(text, (ENCODER,))
    one, _ = sweep(expanded, registry, workers, overrides=(ENCODER,))
    assert one.run() == []
    assert len(workers.started) == one.progress.total == one.progress.done == HEAD_TRIALS + METHOD_TRIALS + 2 + 2
    lora, head_only = (read_tuning(expanded, study) for study in expanded.studies)
    assert lora is not None
    assert head_only is not None
    assert (head_only["trials"], head_only["gmacs"], head_only["settings"], head_only["tried"]) == (0, 0.0, {}, [])
    assert head_only["design"] == lora["design"], "both record the same design"
    assert head_only["head"] == lora["head"]


def test_a_methods_search_space_may_not_have_the_head_rate(written: Any, registry: Registry, grid: Make) -> None:
    space = '[tune.space.lora]\n"train.head_learning_rate" = { low = 1e-4, high = 1e-2, log = true }\n'
    with pytest.raises(InputError, match=r"tune\.space\.lora: train\.head_learning_rate is tuned once for all methods"):
        heads_and_spaces(grid(TUNED + space, (ENCODER,)))


def heads_and_spaces(expanded: Grid) -> None:
    assert expanded.config.tune is not None
    for study in expanded.studies:
        search_space_of(study, expanded.config.tune)
