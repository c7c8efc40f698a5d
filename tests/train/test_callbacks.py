"""Callbacks of plugins, as a recipe lists them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal

import pytest

from peftkit import Callback, EvaluationResult, StepResult, TrainContext
from peftkit.errors import RecipeError, RunError
from peftkit.plugins import Entry, Registry
from peftkit.recipe import Recipe, dump_recipe, load_recipe
from peftkit.run_directory import RunDirectory
from peftkit.testing import check_callback
from peftkit.testing.processes import run_processes
from peftkit.train.run import run
from tests.tiny_runs import Make
from tests.train.test_trainer import rows_of

events: list[str] = []


class Recorder(Callback):
    """Records its events."""

    name: Literal["recorder"] = "recorder"

    def on_train_start(self, context: TrainContext) -> None:
        events.append(f"train start {context.step}")

    def on_step_start(self, context: TrainContext) -> None:
        events.append(f"step start {context.step}")

    def on_step_end(self, context: TrainContext, step: StepResult) -> None:
        assert step.stats.samples == 8
        assert step.stats.forward_macs > 0
        assert step.learning_rate == 1e-2
        assert not step.skipped
        assert 0 < step.loss < 20
        events.append(f"step end {context.step} {context.samples} {context.budget_used:.2f}")

    def on_evaluate(self, context: TrainContext, evaluation: EvaluationResult) -> None:
        assert evaluation.score == evaluation.row["dev"]["accuracy"]
        assert (evaluation.metric, evaluation.higher_is_better) == ("accuracy", True)
        events.append(f"evaluate {context.step} {evaluation.is_best}")

    def on_save(self, context: TrainContext) -> None:
        assert context.folder is not None
        assert (context.folder / "checkpoints" / f"step-{context.step:08}").is_dir()
        events.append(f"save {context.step}")

    def on_train_end(self, context: TrainContext) -> None:
        events.append(f"train end {context.epoch}")


class Stopper(Callback):
    """Ends training after a step, if the process has a rank of its own."""

    name: Literal["stopper"] = "stopper"
    after: int = 3
    """The step."""
    other_process: bool = False
    """Whether only processes without the run directory ask for it."""
    _steps: int = 0

    def on_step_end(self, context: TrainContext, step: StepResult) -> None:
        self._steps += 1
        if self._steps == self.after and (context.folder is None) == self.other_process:
            context.stop(f"step {context.step} is enough")


class Slow(Callback):
    """Takes long."""

    name: Literal["slow"] = "slow"

    def on_step_start(self, context: TrainContext) -> None:
        time.sleep(0.5)

    def on_step_end(self, context: TrainContext, step: StepResult) -> None:
        time.sleep(0.5)

    def on_evaluate(self, context: TrainContext, evaluation: EvaluationResult) -> None:
        time.sleep(0.5)


class Failing(Callback):
    """Fails."""

    name: Literal["failing"] = "failing"
    at: str = "on_evaluate"
    """Where."""
    _state: Any = None

    def on_evaluate(self, context: TrainContext, evaluation: EvaluationResult) -> None:
        if self.at == "on_evaluate":
            raise ValueError("no such value")

    def on_step_end(self, context: TrainContext, step: StepResult) -> None:
        if self.at == "state_dict":
            self._state = object()


class Forgetful(Callback):
    """Ends training after three steps, but does not save how many it has seen."""

    name: Literal["forgetful"] = "forgetful"
    _steps: int = 0

    def on_step_end(self, context: TrainContext, step: StepResult) -> None:
        self._steps += 1
        if self._steps == 3:
            context.stop("three steps")

    def state_dict(self) -> dict[str, Any]:
        return {}


class Shrinking(Callback):
    """Halves the weights after the first step."""

    name: Literal["shrinking"] = "shrinking"

    def on_step_end(self, context: TrainContext, step: StepResult) -> None:
        if context.step == 1:
            for parameter in context.model.parameters():
                parameter.data.mul_(0.5)


@pytest.fixture
def with_callbacks(registry: Registry) -> Registry:
    classes = (Recorder, Stopper, Slow, Failing)
    entries = [Entry("callback", str(c.model_fields["name"].default), c, "tests", "0") for c in classes]
    return Registry((*registry.entries, *entries), registry.failures, registry.distributions)


@pytest.fixture
def make_with(make: Make, with_callbacks: Registry, tmp_path: Path) -> Any:
    """Returns a function that makes a small recipe with callbacks, given as TOML."""

    def make_recipe(callbacks: str, *overrides: str) -> Recipe:
        path = tmp_path / "with_callbacks.toml"
        text = dump_recipe(make("decoder", "evaluate.every=2 steps", *overrides))
        path.write_text(text.replace("callback = []", f"callback = [{callbacks}]"), encoding="utf-8")
        return load_recipe(path, with_callbacks)

    return make_recipe


def only(recipe: Recipe) -> Path:
    [path] = Path(recipe.run.output).iterdir()
    return path


def test_events_come_in_order(make_with: Any, with_callbacks: Registry) -> None:
    events.clear()
    path = run(
        make_with('{name = "recorder"}', "train.budget.steps=3", "train.checkpoint.every=2 steps"), with_callbacks
    )
    assert path is not None
    assert [event.removesuffix(" True").removesuffix(" False") for event in events] == [
        "train start 0",
        "evaluate 0",
        *("step start 0", "step end 1 8 0.33"),
        *("step start 1", "step end 2 16 0.67", "save 2", "evaluate 2"),
        *("step start 2", "step end 3 24 1.00", "evaluate 3"),
        "train end 0.5",
    ]
    assert events[1] == "evaluate 0 True"
    assert RunDirectory(path).summary()["stopped_early"] is None


def test_a_callback_ends_training_after_an_evaluation_of_the_last_step(
    make_with: Any, with_callbacks: Registry
) -> None:
    recipe = make_with('{name = "stopper"}')
    path = run(recipe, with_callbacks)
    assert path is not None
    rows, summary = RunDirectory(path).evaluations(), RunDirectory(path).summary()
    assert [row["step"] for row in rows] == [0, 2, 3]
    assert summary["status"] == "done"
    assert (summary["steps"], summary["final"]["step"]) == (3, 3)
    assert summary["stopped_early"] == {"callback": "stopper", "reason": "step 3 is enough"}
    again = run(recipe, with_callbacks)  # the recipe's own callback has no state
    assert again is not None
    assert rows_of(again) == rows_of(path)


@pytest.mark.slow
def test_all_processes_stop_when_one_asks(make_with: Any, with_callbacks: Registry) -> None:
    recipe = make_with('{name = "stopper", other_process = true}', "train.batch_size=4")
    run_processes(recipe, with_callbacks, 2)
    summary = RunDirectory(only(recipe)).summary()
    assert (summary["steps"], summary["stopped_early"]["callback"]) == (3, "stopper")


def test_the_time_of_callbacks_is_not_training_time(make_with: Any, with_callbacks: Registry) -> None:
    path = run(make_with('{name = "slow"}', "train.budget.steps=2"), with_callbacks)
    assert path is not None
    summary = RunDirectory(path).summary()
    cost = summary["cost"]
    measured = cost["train_seconds"] + cost["data_wait_seconds"] + summary["evaluation_seconds"]
    assert measured + summary["counting_seconds"] < 2


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (
            "on_evaluate",
            r"the callback 'failing' failed in on_evaluate \(test_callbacks\.py, line \d+\): ValueError: no",
        ),
        ("state_dict", "the state of the callback 'failing' cannot be saved as JSON: Object of type object"),
    ],
)
def test_errors_of_a_callback_name_it(at: str, message: str, make_with: Any, with_callbacks: Registry) -> None:
    recipe = make_with(f'{{name = "failing", at = "{at}"}}', "train.checkpoint.every=1 steps")
    with pytest.raises(RunError, match=message):
        run(recipe, with_callbacks)
    assert RunDirectory(only(recipe)).summary()["status"] == "failed"


def test_the_options_of_callbacks_are_checked(make_with: Any, with_callbacks: Registry) -> None:
    assert make_with('{name = "stopper", after = 5}').callback == (Stopper(after=5),)
    for text, message in {
        '{name = "stoper"}': r"callback\[0\]\.name: no callback is called 'stoper' .did you mean 'stopper'",
        '{name = "stopper", after = "5"}': r"callback\[0\]\.after: must be a whole number, not '5'",
        '{name = "stopper", step = 5}': r"callback\[0\]\.step: unknown key; 'stopper' takes after, other_process",
        '{name = "slow"}, {name = "slow"}': r"callback\[1\]\.name: 'slow' is listed twice; keep one",
        '"slow"': r"callback\[0\]: must be a table: \[\[callback\]\] and below it name = \"slow\"",
    }.items():
        with pytest.raises(RecipeError, match=message):
            make_with(text)


def test_a_killed_run_resumes_with_the_state_of_its_callbacks(make_with: Any, with_callbacks: Registry) -> None:
    recipe = make_with('{name = "stopper", after = 5}', "train.checkpoint.every=1 steps", "train.checkpoint.keep=9")
    path = run(recipe, with_callbacks)
    assert path is not None
    state = json.loads((path / "checkpoints" / "step-00000002" / "state.json").read_text())["state"]
    assert state["callbacks"] == {"stopper": {"_steps": 2}}


@pytest.mark.slow
def test_the_conformance_check_finds_state_that_is_not_saved(tmp_path: Path) -> None:
    check_callback(Stopper(), tmp_path / "saved")
    with pytest.raises(AssertionError, match="results differ after resuming"):
        check_callback(Forgetful(), tmp_path / "lost")


@pytest.mark.slow
def test_the_conformance_check_finds_changes_of_training(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="evaluations differ from those of a run without the callback"):
        check_callback(Shrinking(), tmp_path / "refused")
    check_callback(Shrinking(), tmp_path / "allowed", changes_training=True)
