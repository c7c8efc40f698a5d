"""Runs that share loaded inputs compute what runs in processes of their own do."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import PeftkitError, RunInterrupted
from peftkit.plugins import Registry, load_registry
from peftkit.recipe import Recipe, dump_recipe, load_recipe
from peftkit.run_directory import RunDirectory
from peftkit.sweep.process_executor import Workers
from peftkit.sweep.scheduler import find_run
from peftkit.sweep.warm_worker import WarmWorker
from tests.conftest import exhaustive_unless_quick

REUSED = "reused_evaluation_seconds"
WAITED = ("wall_seconds", "wall_seconds_before_run", "wall_seconds_before_training")
MEASURED = (
    *("cost", "seconds", "evaluation_seconds", REUSED, "counting_seconds", *WAITED, "finished", "file_digests"),
)
"""Keys whose values differ between two runs of a recipe in processes of their own."""

Make = Callable[..., Recipe]


@pytest.fixture
def make(models: dict[str, Path], registry: Registry, tmp_path: Path) -> Make:
    from tests.tiny_runs import small_task

    base, task = tmp_path / "base.toml", small_task(tmp_path / "task")
    base.write_text(
        '[method]\nname = "lora"\n[train]\nbatch_size = 8\nlearning_rate = 1e-2\nbudget = { steps = 3 }\n'
        '[evaluate]\nevery = "50%"\ntrain_examples = 4\n[track]\nto = []\n'
    )

    def make_recipe(name: str, *overrides: str, kind: str = "encoder-decoder") -> Recipe:
        defaults = (f'model.name="{models[kind]}"', task, f'run.output="{tmp_path / name}"')
        return load_recipe(base, registry, [*defaults, *overrides])

    return make_recipe


@pytest.fixture(scope="module")
def warm() -> Iterator[Workers]:
    workers = Workers(1)
    with workers.handle_signals():
        yield workers


@pytest.fixture(scope="module")
def cold() -> Workers:
    return Workers(1, warm=False)


def run(workers: Workers, recipe: Recipe) -> tuple[int, Path]:
    """Runs a recipe; returns the exit code and its output folder."""
    folder = Path(recipe.run.output)
    folder.mkdir(exist_ok=True)
    (folder / "asked.toml").write_text(dump_recipe(recipe))
    return workers.run(folder / "asked.toml", None, folder / "log.txt").code, folder


def unmeasured(value: Any) -> Any:
    """Leaves out what is measured by a clock or depends on it."""
    if isinstance(value, dict):
        cost = (
            {"cost": {k: v for k, v in value["cost"].items() if "ops" in k or "macs" in k}} if "cost" in value else {}
        )
        return {key: unmeasured(inner) for key, inner in value.items() if key not in MEASURED} | cost
    return [*map(unmeasured, value)] if isinstance(value, list) else value


def results(recipe: Recipe) -> dict[str, Any]:
    """Everything that a run computed: summary, curve, predictions, baselines, inputs and weights."""
    done = find_run(recipe)
    assert done is not None, (Path(recipe.run.output) / "log.txt").read_text()
    assert done.finished, (Path(recipe.run.output) / "log.txt").read_text()
    files: dict[str, Any] = {}
    for file in sorted(each for each in done.path.rglob("*") if each.is_file()):
        name = str(file.relative_to(done.path))
        if file.name in ("recipe.toml", "README.md", ".lock", "state.json"):  # with names of folders, and seconds
            continue
        if file.suffix == ".json":
            content = unmeasured(json.loads(file.read_text()))
            files[name] = content["inputs"] if name == "environment.json" else content
        elif file.suffix == ".jsonl":
            files[name] = [unmeasured(json.loads(line)) for line in file.read_text().splitlines()]
        else:
            files[name] = file.read_bytes()
    return files


def started(monkeypatch: pytest.MonkeyPatch) -> list[WarmWorker]:
    """Returns a list that gets the workers that are started from now on."""
    workers: list[WarmWorker] = []

    class Recorded(WarmWorker):
        def __init__(self, context: Any) -> None:
            super().__init__(context)
            workers.append(self)

    monkeypatch.setattr("peftkit.sweep.process_executor.WarmWorker", Recorded)
    return workers


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder", "encoder"])
def test_later_runs_equal_those_of_fresh_processes(
    make: Make, warm: Workers, cold: Workers, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = started(monkeypatch)
    # Whether the evaluation before training is that of an earlier run; a new head depends on the seed.
    variants = [("full", 0, False), ("lora", 0, True), ("lora", 1, kind != "encoder"), ("layer_norm", 1, True)]
    for number, (method, seed, reused) in enumerate(variants):
        overrides = (f'method.name="{method}"', f"run.seed={seed}")
        warmed, fresh = (make(f"{name}{number}", *overrides, kind=kind) for name in ("warm", "cold"))
        assert (run(warm, warmed)[0], run(cold, fresh)[0]) == (0, 0)
        assert results(warmed) == results(fresh)
        first, *others = RunDirectory(find_run(warmed).path).evaluations()  # type: ignore[union-attr]
        assert (REUSED in first) == reused
        assert not any(REUSED in each for each in others)
    assert len(workers) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", map(exhaustive_unless_quick, load_registry().all("method")))
def test_every_method_runs_as_in_a_fresh_process(make: Make, warm: Workers, cold: Workers, method: str) -> None:
    try:
        warmed, fresh = (make(name, f'method.name="{method}"') for name in ("warm", "cold"))
    except PeftkitError as error:
        pytest.skip(f"needs options, or another model: {error}")
    codes = run(warm, warmed)[0], run(cold, fresh)[0]
    assert codes[0] == codes[1]
    if codes[0] == 0:
        assert results(warmed) == results(fresh)


@pytest.mark.slow
def test_runs_after_one_that_ended_badly_are_not_affected(make: Make, warm: Workers, cold: Workers) -> None:
    diverging = make("diverging", "train.learning_rate=1e30", 'train.optimizer="sgd"', "train.max_grad_norm=0.0")
    failing = make("failing", 'method={name="lora", target_modules=["nothing"]}')
    interrupted = make("interrupted", "train.budget={steps=100000}", 'evaluate.every="100%"')
    assert [run(warm, each)[0] != 0 for each in (diverging, failing)] == [True, True]
    timer = threading.Thread(target=_interrupt, args=(warm, interrupted))
    timer.start()
    assert run(warm, interrupted)[0] == 128 + signal.SIGTERM
    timer.join()
    warmed, fresh = make("warmed"), make("fresh")
    assert (run(warm, warmed)[0], run(cold, fresh)[0]) == (0, 0)
    assert results(warmed) == results(fresh)


def _interrupt(workers: Workers, recipe: Recipe) -> None:
    limit = time.monotonic() + 300
    while not [*Path(recipe.run.output).glob("*/evaluations.jsonl")] and time.monotonic() < limit:
        time.sleep(0.1)
    workers._terminate_all()


@pytest.mark.slow
def test_a_stopped_sweep_saves_the_run_and_ends_the_worker(make: Make) -> None:
    recipe, workers = make("stopped", "train.budget={steps=100000}", 'evaluate.every="100%"'), Workers(1)

    def stop() -> None:
        limit = time.monotonic() + 300
        while not [*Path(recipe.run.output).glob("*/evaluations.jsonl")] and time.monotonic() < limit:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    with workers.handle_signals():
        timer = threading.Thread(target=stop)
        timer.start()
        with pytest.raises(RunInterrupted):
            run(workers, recipe)
        timer.join()
    done = find_run(recipe)
    assert done is not None
    assert done.summary()["status"] == "interrupted"
    assert workers._idle == []


@pytest.mark.slow
def test_a_changed_file_is_read_again(make: Make, warm: Workers, tmp_path: Path) -> None:
    first, second = make("first"), make("second")
    assert run(warm, first)[0] == 0
    file = tmp_path / "task" / "dev.jsonl"
    file.write_text(file.read_text().replace("thing 1 ", "other 1 "))
    assert run(warm, second)[0] == 0
    before, after = (RunDirectory(find_run(each).path).environment()["inputs"] for each in (first, second))  # type: ignore[union-attr]
    assert before["the rows of dev"] != after["the rows of dev"]


@pytest.mark.slow
def test_what_cannot_be_loaded_is_reported_by_the_run(make: Make, warm: Workers, tmp_path: Path) -> None:
    recipe = make("wrong")
    (tmp_path / "task" / "dev.jsonl").unlink()
    code, folder = run(warm, recipe)
    assert code == 2
    assert "dev" in (folder / "log.txt").read_text()


def test_settings_of_training_share_inputs_and_others_do_not(make: Make) -> None:
    from peftkit.evaluate.shared_inputs import input_settings

    recipe = make("one")
    same = ("train.learning_rate=0.5", "run.seed=3", "evaluate.at_start=false", 'method.name="full"')
    other = ("train.batch_size=4", "train.max_source_length=9", "evaluate.dev_examples=3", "model.dtype='bfloat16'")
    assert input_settings(make("two", *same)) == input_settings(recipe)
    for each in (*other, 'run.resample_train="bootstrap"', "task.max_rows=7"):
        assert input_settings(make("two", each)) != input_settings(recipe), each


def test_only_what_draws_no_random_numbers_is_shared(make: Make) -> None:
    from peftkit.evaluate.shared_inputs import SharedInputs, load_shared_inputs

    decoder, encoder = (load_shared_inputs(make("one", kind=kind)) for kind in ("encoder-decoder", "encoder"))
    assert decoder.base is not None
    assert encoder.base is None  # its new head depends on the seed
    assert encoder.data is not None
    other = make("one", "train.max_source_length=9")
    assert decoder.for_recipe(other) == SharedInputs()
