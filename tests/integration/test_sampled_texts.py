"""Runs that sample several texts for each row: what they record, and what changes no sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import RecipeError
from peftkit.inference.finished_run import load_finished_run
from peftkit.inference.predict import predict
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.testing.processes import run_processes
from peftkit.testing.run_checks import check_resume_after
from peftkit.train.run import run
from peftkit.verify import verify_run
from tests.tiny_runs import ColourText, Make, save_without_dropout

METRICS = (
    'metric=[{name="exact_match"}, {name="extracted_match", pattern="[a-z]+", equality="text"}, '
    '{name="pass_at_k", k=[1, 3], pattern="[a-z]+", equality="text"}]'
)
SAMPLED = (
    *("task.name=colour_text", "train.budget.steps=2", "evaluate.every=1 steps", "evaluate.max_new_tokens=5"),
    *("evaluate.temperature=1.0", "evaluate.top_p=0.9", "evaluate.num_return_sequences=3", METRICS),
    *("evaluate.train_examples=0", "evaluate.dev_examples=6", "evaluate.test_examples=6"),
)


def predictions(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    return RunDirectory(path).predictions("test")


def samples(path: Path | None) -> list[list[str]]:
    return [row["samples"] for row in predictions(path)]


def test_samples_are_stored_scored_and_reproduced(make: Make, registry: Registry) -> None:
    recipe = make("decoder", *SAMPLED)
    assert [metric.name for metric in recipe.metric][-1] == "unextractable"
    path = run(recipe, registry)
    assert path is not None
    stored, summary = predictions(path), RunDirectory(path).summary()
    assert all(row["prediction"] == row["samples"][0] and len(row["samples"]) == 3 for row in stored)
    assert len({text for row in stored for text in row["samples"]}) > len(stored)
    right = [sum(text == row["target"] for text in row["samples"]) / 3 for row in stored]
    values = summary["selected"]["test"]
    assert values["exact_match"] == pytest.approx(sum(right) / len(right))
    assert values["pass@1"] == pytest.approx(values["extracted_match"])
    assert values["pass@1"] <= values["pass@3"] <= 3 * values["pass@1"]
    assert summary["companions"] == {value: ["unextractable"] for value in ("extracted_match", "pass@1", "pass@3")}
    tokens = [row["generated_tokens"] for row in RunDirectory(path).evaluations()]
    assert all(6 * 3 <= number <= 6 * 3 * 5 for each in tokens for number in each.values())
    assert {*tokens[0]} == {"dev", "test"}

    prompts = [json.dumps({"source": row["source"]}) for row in reversed(stored)]
    for batch in (1, 4):  # another order and another batch size
        again = predict(load_finished_run(path, registry), prompts, batch)
        assert [row["samples"] for row in again] == samples(path)[::-1]
    checks = verify_run(path, registry).checks
    assert {check.status for check in checks if check.group in ("model", "selected test", "curve")} <= {
        "agrees",
        "not recomputable",
    }
    assert samples(run(recipe, registry)) == samples(path)
    assert samples(run(make("decoder", *SAMPLED, "run.seed=7", "run.init_seed=0"), registry)) != samples(path)


@pytest.mark.slow
def test_two_processes_and_a_resumed_run_sample_the_same(
    make: Make, models: dict[str, Path], registry: Registry, tmp_path: Path
) -> None:
    folder = save_without_dropout(models, tmp_path / "plain")
    options = (*SAMPLED, f"model.name={folder.as_posix()}", "train.batch_size=8", "train.optimizer=SGD")
    path = run(make("encoder-decoder", *options), registry)
    two = make("encoder-decoder", *options, "train.batch_size=4", f"run.output={(tmp_path / 'two').as_posix()}")
    run_processes(two, registry, 2)
    [other] = (tmp_path / "two").iterdir()
    assert samples(other) == samples(path)
    resumed = (f"run.output={(tmp_path / 'resumed').as_posix()}", "train.checkpoint={every = '1 steps', keep = 9}")
    recipe = make("encoder-decoder", *options, *resumed)
    run(recipe, registry)
    check_resume_after(1, recipe, registry)


def test_the_last_step_stands_beside_the_selected_one(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ColourText, "reports_last_step", True)
    options = (
        "task.name=colour_text",
        "train.budget.steps=2",
        "train.learning_rate=5",
        "evaluate.selection_metric=loss",
    )
    curve = ("evaluate.dev_examples=6", "evaluate.test_examples=6", "evaluate.max_new_tokens=3")
    for limits in ((), curve):
        path = run(make("decoder", *options, *limits), registry)
        assert path is not None
        summary = RunDirectory(path).summary()
        selected, last = summary["selected"], summary["last_step"]
        assert (selected["step"], last["step"]) == (0, 2)
        assert last["test"]["loss"] > selected["test"]["loss"]
        assert (last["test"] == summary["final"]["test"]) == (not limits)
    monkeypatch.setattr(ColourText, "reports_last_step", False)
    path = run(make("decoder", *options, *curve), registry)
    assert path is not None
    assert "last_step" not in RunDirectory(path).summary()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("evaluate.top_p=0.9",), r"evaluate: top_p needs sampling; set temperature, such as temperature = 1\.0"),
        (("evaluate.num_return_sequences=2",), "num_return_sequences needs sampling"),
        (("evaluate.temperature=1.0", "evaluate.num_beams=2"), "num_beams is for greedy search"),
        (("evaluate.temperature=-1.0",), "evaluate.temperature: must be"),
        (("task.name=colours", "evaluate.temperature=1.0"), "evaluate.temperature: has no effect, because 'label_ran"),
        (('metric=[{name="pass_at_k", k=2}, {name="exact_match"}]',), "k = 2 needs as many samples; set evaluate.num"),
        (
            ('metric=[{name="extracted_match"}, {name="unextractable", extract=["hash"]}, {name="exact_match"}]',),
            "'extracted_match' is shown with 'unextractable', which this recipe computes with other options",
        ),
    ],
)
def test_what_cannot_be_sampled_or_scored_is_rejected(options: tuple[str, ...], message: str, make: Make) -> None:
    with pytest.raises(RecipeError, match=message):
        make("decoder", "task.name=colour_text", *options)
