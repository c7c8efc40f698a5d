"""What the posterior is fitted to: scores of runs, numbers of examples, and tuning trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peftkit.compare import posterior_inputs
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun, read_run
from peftkit.compare.per_example_scores import ScoredExamples
from peftkit.compare.posterior_inputs import (
    default_margin,
    fit_posterior,
    is_proportion,
    read_tunings,
    recorded_num_examples,
    scores_by_seed,
)
from peftkit.compare.statistics import Posterior, TrialScores, Tuning
from tests.compare.conftest import Plant, with_values


def run_of(path: Path = Path("run"), *, recipe: dict[str, Any] | None = None, **more: Any) -> LoadedRun:
    """A run with an accuracy of 0.7 and a loss of 0.5, without files."""
    tuning = more.pop("tuning", None)
    summary = {
        "selection_metric": "accuracy",
        "higher_is_better": True,
        "selected": {"step": 1, "test": {"accuracy": 0.7, "loss": 0.5}},
        **more,
    }
    return LoadedRun(path, summary, [], recipe or {}, {}, tuning)


def group_of(**runs: list[LoadedRun]) -> RunGroup:
    return RunGroup("t", "m", {name: dict(enumerate(each)) for name, each in runs.items()}, {})


def scored_with(values: np.ndarray[Any, Any], number: int, **more: Any) -> ScoredExamples:
    return ScoredExamples({"a": {0: values}}, number, "", more.get("groups"))


def test_scores_are_by_method_and_seed() -> None:
    group = group_of(a=[run_of(), run_of(selected={"test": {"accuracy": 0.8}})], b=[run_of()])
    assert scores_by_seed(group, "accuracy") == {"a": {0: 0.7, 1: 0.8}, "b": {0: 0.7}}


def fit_arguments(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> dict[str, Any]:
    """The arguments that the posterior is fitted with."""
    given: dict[str, Any] = {}

    def fit(scores: Any, **keywords: Any) -> Posterior:
        given.update(keywords, scores=scores)
        return Posterior({}, (), np.zeros((0, 0)), {})

    monkeypatch.setattr(posterior_inputs, "fit", fit)
    fit_posterior(*arguments, **options)
    return given


def test_a_proportion_is_fitted_with_its_examples_or_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    group = group_of(a=[run_of(rows={"test": 300})])
    examples = scored_with(np.array([1.0, 0.0]), 2, groups=("g", "h"))
    given = fit_arguments(monkeypatch, group, "accuracy", examples, {"a": {0: 0.6}}, {})
    assert given == {
        "scores": examples.runs,
        "share": True,
        "higher_is_better": True,
        "groups": ("g", "h"),
        "means": {"a": {0: 0.6}},
        "rows": 0,
        "tunings": {},
    }
    given = fit_arguments(monkeypatch, group, "accuracy", scored_with(np.array([0.7]), 0), None, {})
    assert (given["rows"], given["means"]) == (300, {"a": {0: 0.7}})
    given = fit_arguments(monkeypatch, group, "loss", scored_with(np.array([0.5]), 0), None, {})
    assert (given["share"], given["higher_is_better"], given["rows"]) == (False, False, 0)


def test_missing_evidence_is_read_from_runs(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    group = group_of(a=[read_run(plant("a", 1, [0.2, 0.6], examples=5))])
    tunings = {"a": Tuning([TrialScores(0, np.ones(1))], 0)}
    monkeypatch.setattr(posterior_inputs, "read_tunings", lambda *_: tunings)
    given = fit_arguments(monkeypatch, group, "accuracy")
    assert given["scores"]["a"][0].tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert given["tunings"] == tunings
    assert fit_arguments(monkeypatch, group, "accuracy", tunings={})["tunings"] == {}


@pytest.mark.parametrize(
    ("metric", "scores", "proportion"),
    [
        ("accuracy", [0.0, 1.0], True),
        ("accuracy", [-0.01, 0.5], False),
        ("accuracy", [0.5, 1.01], False),
        ("loss", [0.5, 0.6], False),
        ("chrf++", [0.5, 0.6], False),
        ("matthews_correlation", [0.5, 0.6], False),
    ],
)
def test_proportions_are_within_zero_and_one(metric: str, scores: list[float], proportion: bool) -> None:
    assert is_proportion(run_of(), metric, {"a": {0: scores[0]}, "b": {0: scores[1]}}) == proportion


def test_the_default_margin_is_a_point_or_a_hundredth_of_the_lowest_score() -> None:
    assert default_margin(True, [0.2, 0.4]) == 0.01
    assert default_margin(False, [30.0, -20.0]) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("recorded", "number"),
    [
        ({}, 0),
        ({"rows": {"test": 30}}, 30),
        ({"rows": {"test": 30}, "recipe": {"evaluate": {"test_examples": 20}}}, 20),
        (
            {
                "rows": {"test": 30},
                "recipe": {"evaluate": {"test_examples": 20}},
                "rows_evaluated": {"selected": {"test": 10}},
            },
            10,
        ),
        ({"rows": {"test": 30}, "rows_evaluated": {"dev": 5}}, 30),
        ({"rows": {"train": 30}}, 0),
    ],
)
def test_the_number_of_test_examples_is_the_one_evaluated(recorded: dict[str, Any], number: int) -> None:
    run = run_of(**recorded)
    assert recorded_num_examples(run, "accuracy") == recorded_num_examples(run, "accuracy_norm") == number
    assert recorded_num_examples(run, "rougeL") == 0, "not a proportion of right answers"


def trial(rate: float, score: float | None, name: str = "gone", stage: str | None = "design") -> dict[str, Any]:
    return {"settings": {"rate": rate}, "score": score, "run": name, **({"stage": stage} if stage else {})}


def tuned(*tried: dict[str, Any], chosen: float = 1.0, path: Path = Path("run"), **more: Any) -> LoadedRun:
    return run_of(path, tuning={"settings": {"rate": chosen}, "tried": [*tried], **more})


def settings_of(run: LoadedRun, metric: str = "accuracy") -> tuple[list[tuple[int, list[float]]], int] | None:
    """The setting and the dev score of each trial, and the chosen setting; None without a tuning."""
    read = read_tunings(group_of(a=[run]), metric).get("a")
    return read and ([(each.setting, each.dev.tolist()) for each in read.trials], read.chosen)


def test_trials_of_equal_settings_have_one_number() -> None:
    run = tuned(trial(2.0, 0.5), trial(1.0, 0.6), trial(2.0, 0.7, stage=None), trial(3.0, 0.4))
    assert settings_of(run) == ([(0, [0.5]), (1, [0.6]), (0, [0.7]), (2, [0.4])], 1)


def test_trials_that_failed_or_had_the_final_budget_are_left_out() -> None:
    run = tuned(trial(2.0, None), trial(1.0, 0.6), trial(1.0, 0.9, stage="transfer"), trial(3.0, 0.0))
    assert settings_of(run) == ([(0, [0.6]), (1, [0.0])], 0)


@pytest.mark.parametrize(
    "run",
    [
        tuned(trial(2.0, 0.5)),
        tuned(trial(1.0, None)),
        run_of(tuning={"settings": {"rate": 1.0}}),
        run_of(tuning={"tried": [trial(1.0, 0.5)]}),
        run_of(),
    ],
)
def test_a_tuning_without_trials_of_the_chosen_settings_is_left_out(run: LoadedRun) -> None:
    assert settings_of(run) is None


def test_a_method_tuned_by_another_metric_is_left_out() -> None:
    assert settings_of(tuned(trial(1.0, 0.5)), "loss") is None


@pytest.fixture
def sweep(plant: Plant, tmp_path: Path) -> Path:
    """A sweep whose two trials, t1 and t2, have one and two of three answers right."""
    folder = tmp_path / "sweep"
    (folder / "lora" / "seeds").mkdir(parents=True)
    (folder / "sweep.json").write_text("{}")
    for right in (1, 2):
        path = plant("lora", right, [0.1, right / 3], examples=3)
        (path / "predictions" / "dev.jsonl").write_text((path / "predictions" / "test.jsonl").read_text())
        target = folder / "trials" / "lora" / str(right) / f"t{right}"
        target.parent.mkdir(parents=True)
        path.rename(target)
    return folder


def tuning_of_sweep(sweep: Path, *names: str, **more: Any) -> Tuning:
    tried = [trial(float(number), 0.5, name) for number, name in enumerate(names)]
    return read_tunings(group_of(a=[tuned(*tried, path=sweep / "lora" / "seeds", **more)]), "accuracy")["a"]


def test_trials_have_scores_per_example_of_dev_and_test(sweep: Path) -> None:
    tuning = tuning_of_sweep(sweep, "t2", "t1")
    assert tuning.chosen == 1
    assert [each.dev.tolist() for each in tuning.trials] == [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert [each.test.tolist() for each in tuning.trials if each.test is not None] == [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert [each.test for each in tuning_of_sweep(sweep, "t2", "t1", transfer={"x": 1}).trials] == [None, None]


@pytest.mark.parametrize("missing", ["trial", "sweep", "dev", "example", "summary"])
def test_scores_per_example_are_used_if_all_trials_have_the_same_examples(sweep: Path, missing: str) -> None:
    names, folder = ("t2", "t1"), sweep / "trials" / "lora" / "1" / "t1"
    if missing == "trial":
        names = ("t2", "t3")
    elif missing == "sweep":
        (sweep / "sweep.json").unlink()
    elif missing == "dev":
        (folder / "predictions" / "dev.jsonl").unlink()
    elif missing == "example":
        file = folder / "predictions" / "dev.jsonl"
        file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:2]))
    else:
        (folder / "summary.json").write_text("{}")
    tuning = tuning_of_sweep(sweep, *names)
    assert [each.dev.tolist() for each in tuning.trials] == [[0.5], [0.5]]
    assert all((each.test is None) == (missing not in ("dev", "example")) for each in tuning.trials)


def test_a_metric_without_scores_per_example_has_recorded_scores(sweep: Path) -> None:
    for number in (1, 2):
        folder = sweep / "trials" / "lora" / str(number) / f"t{number}"
        with_values(folder, [{"prediction": "yes"}] * 3, "bleu", 0.3)
    run = tuned(trial(1.0, 0.4, "t1"), trial(2.0, 0.3, "t2"), path=sweep / "lora")
    run = run_of(run.path, tuning=run.tuning, selection_metric="bleu")
    assert settings_of(run, "bleu") == ([(0, [0.4]), (1, [0.3])], 0)
    assert json.loads((sweep / "sweep.json").read_text()) == {}
