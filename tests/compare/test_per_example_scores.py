"""Scores per example: at every evaluation of a run that stores them, at the selected one of older runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from peftkit import Example, Metric
from peftkit.compare.comparison import compare
from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.load_runs import LoadedRun, find_runs
from peftkit.compare.learning_curves import learning_curve
from peftkit.compare.per_example_scores import _registry, read_example_scores, read_group_scores
from peftkit.errors import InputError
from peftkit.plugins import Entry, Registry
from peftkit.run_directory import RunDirectory
from tests.compare.conftest import Plant

LABELS = ["no", "yes", "maybe"]


def predictions(right: list[bool], groups: list[str] | None = None, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "index": i,
            "group": groups[i] if groups else "",
            "target": "yes",
            "loss": 0.5 + i / 1000,
            "tokens": 1 + i % 3,
            "prediction": "yes" if each else LABELS[2 * (i % 2)],
            "prediction_norm": "yes",
            "candidates": LABELS,
            "scores": {"accuracy": float(each)},
            **more,
        }
        for i, each in enumerate(right)
    ]


def read(path: Path) -> LoadedRun:
    [run] = find_runs([path])[0]
    return run


def store(path: Path, groups: list[str] | None = None, whole: list[bool] | None = None) -> dict[int, list[bool]]:
    """Converts a planted run to format 2; returns which examples are right at each step."""
    run = RunDirectory(path)
    run.truncate_examples([])
    rows = run.evaluations()
    right = {row["step"]: [i < round(row["test"]["accuracy"] * 200) for i in range(200)] for row in rows}
    for step, each in right.items():
        lines = predictions(each, groups)
        run.add_examples(step, {"dev": lines[:50], "test": lines}, whole=False)
    if whole is not None:
        summary = run.summary()
        del summary["format"]
        summary["selected"]["test"] = {"accuracy": sum(whole) / len(whole)}
        run.write_json("summary.json", summary)
        lines = predictions(whole)
        run.add_examples(summary["selected"]["step"], {"dev": lines, "test": lines}, whole=True)
    run.merge_examples()
    return right


def test_every_evaluation_has_per_example_scores(plant: Plant) -> None:
    path = plant("lora", 1, [0.1, 0.3, 0.6, 0.5])
    right = store(path)
    run = read(path)
    for step, each in right.items():
        scores = read_example_scores(run, "accuracy", "test", step)
        assert scores is not None
        assert scores.values.tolist() == [float(one) for one in each]
        assert scores.index == tuple(range(200))
        dev = read_example_scores(run, "accuracy", "dev", step)
        assert dev is not None
        assert dev.values.tolist() == scores.values.tolist()[:50]
    selected, at_step = read_example_scores(run, "accuracy"), read_example_scores(run, "accuracy", "test", 2)
    assert selected is not None
    assert at_step is not None
    assert selected.values.tolist() == at_step.values.tolist()
    with pytest.raises(InputError, match="no evaluation at step 9; evaluated steps are 0, 1, 2, 3"):
        read_example_scores(run, "accuracy", "test", 9)
    assert read_example_scores(run, "bleu", "test", 1) is None


def test_selected_scores_are_those_of_whole_splits(plant: Plant) -> None:
    path = plant("lora", 1, [0.1, 0.6])
    right = store(path, whole=[True] * 300 + [False] * 100)
    run = read(path)
    selected, along = read_example_scores(run, "accuracy"), read_example_scores(run, "accuracy", "test", 1)
    assert selected is not None
    assert along is not None
    assert (len(selected.values), selected.values.mean()) == (400, 0.75)
    assert along.values.tolist() == [float(one) for one in right[1]]
    [section] = group_runs([run])
    assert compare(section, budgets=[1.0]).examples == 400


def test_format_1_runs_have_scores_of_the_selected_checkpoint_only(plant: Plant) -> None:
    run = read(plant("lora", 1, [0.1, 0.6, 0.5]))
    selected = read_example_scores(run, "accuracy")
    assert selected is not None
    assert selected.values.mean() == 0.6
    assert read_example_scores(run, "accuracy", "test", 1) is not None
    with pytest.raises(InputError, match="for the selected checkpoint only"):
        read_example_scores(run, "accuracy", "test", 2)


def test_runs_of_both_formats_are_compared(plant: Plant) -> None:
    plant("full", 1, [0.1, 0.6])
    path = plant("lora", 1, [0.1, 0.5])
    store(path)
    [section] = group_runs(find_runs([path.parent])[0])
    comparison = compare(section)
    assert comparison.examples == 200
    assert [line.score for line in comparison.lines] == [0.6, 0.5]


def test_groups_are_resampled_together(plant: Plant) -> None:
    path = plant("lora", 1, [0.1, 0.5])
    widths = []
    for groups in (None, [f"passage {i // 10}" for i in range(200)]):
        store(path, groups)
        [section] = group_runs([read(path)])
        scored = read_group_scores(section, "accuracy")
        assert scored.groups == (None if groups is None else tuple(groups))
        [line] = compare(section).lines
        widths.append(line.high - line.low)  # type: ignore[operator]
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(10), rel=0.15)


def test_label_metrics_are_recomputed_at_every_step(plant: Plant) -> None:
    path = plant("lora", 1, [0.1, 0.5], tables={"metric": [{"name": "f1_macro"}], "task": {"name": "t"}})
    right = store(path)
    run = read(path)
    for step, each in right.items():
        scores = read_example_scores(run, "f1_macro", "test", step)
        assert scores is not None
        lines = predictions(each)
        expected_score = f1_score(
            [line["target"] for line in lines],
            [line["prediction"] for line in lines],
            labels=LABELS,
            average="macro",
            zero_division=0,
        )
        assert scores.values.mean() == pytest.approx(expected_score)


@given(st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.none()), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_evaluations_without_a_dev_score_are_not_on_the_curve(dev: list[float | None]) -> None:
    rows = [
        {"step": i, "cost": {"gmacs": float(i)}, "dev": {"accuracy": value}, "test": {"accuracy": float(i)}}
        for i, value in enumerate(dev)
    ]
    run = LoadedRun(Path("x"), {"selection_metric": "accuracy", "higher_is_better": True}, rows, {}, {})
    numbers = [i for i, value in enumerate(dev) if value is not None and np.isfinite(value)]
    if not numbers:
        with pytest.raises(InputError, match="no evaluation"):
            learning_curve(run, "gmacs", "accuracy")
        return
    costs, scores = learning_curve(run, "gmacs", "accuracy")
    assert costs.tolist() == [float(i) for i in range(numbers[0], len(dev))]
    for cost, score in zip(costs, scores, strict=True):
        before = [i for i in numbers if i <= cost]
        assert score == max(before, key=lambda i: (dev[i], -i))


def test_errors_name_the_damaged_file(plant: Plant) -> None:
    path = plant("lora", 1, [0.1, 0.5])
    (path / "examples.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"examples\.parquet: cannot be read"):
        read_example_scores(read(path), "accuracy")
    assert json.loads((path / "summary.json").read_text())["format"] == 1


class TagF1(Metric):
    """A metric of a plugin: F1 of the tags in texts such as `a,b`, pooled over all examples."""

    name: Literal["tag_f1"] = "tag_f1"

    kinds: ClassVar[tuple[str, ...]] = ("tagging",)

    def compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        pairs = [({*p.split(",")}, {*r[0].split(",")}) for p, r in zip(predictions, references, strict=True)]
        return {"tag_f1": 2 * sum(len(p & r) for p, r in pairs) / sum(len(p) + len(r) for p, r in pairs)}


class Demanding(TagF1):
    """The same, of examples with a weight."""

    name: Literal["demanding"] = "demanding"  # type: ignore[assignment]

    def compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        return {"demanding": sum(float(e.extra["weight"]) for e in examples)}


@pytest.mark.parametrize("candidates", [True, False])
@pytest.mark.parametrize("metric", [TagF1, Demanding])
def test_metrics_of_plugins_need_targets_and_candidates(
    metric: type[Metric], candidates: bool, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(metric.model_fields["name"].default)
    registry = Registry((Entry("metric", name, metric, "plugin", "1"),), (), {})
    monkeypatch.setattr("peftkit.compare.per_example_scores.load_registry", lambda: registry)
    _registry.cache_clear()
    path = plant("lora", 1, [0.5], tables={"metric": [{"name": name}], "task": {"name": "t"}})
    directory = RunDirectory(path)
    directory.truncate_examples([])
    lines: list[dict[str, Any]] = [
        {"index": i, "target": "a,b", "prediction": ("a", "a,b", "c")[i % 3], "loss": 1.0, "tokens": 2}
        for i in range(30)
    ]
    if candidates:
        lines = [line | {"candidates": ["a", "b", "c"]} for line in lines]
    directory.add_examples(0, {"test": lines}, whole=False)
    scores = read_example_scores(read(path), name, "test", 0)
    _registry.cache_clear()
    if metric is Demanding or not candidates:
        assert scores is None
    else:
        assert scores is not None
        assert scores.targets == ("a,b",) * 30
        assert scores.values.mean() == pytest.approx(2 * (10 + 20) / (30 * 2 + 40))
        assert len({*scores.values.round(9)}) == 3
