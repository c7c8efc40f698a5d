"""Selection of the checkpoint on dev."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.errors import RunError
from peftkit.evaluate.evaluator import evaluate
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.testing.processes import run_processes
from peftkit.train.checkpoint_selection import is_better
from peftkit.train.run import run
from tests.tiny_runs import Make

VALUES = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.none())


@given(st.lists(VALUES, max_size=9), st.booleans())
def test_the_first_best_finite_value_is_selected(values: list[float | None], higher: bool) -> None:
    selected: int | None = None
    for i, value in enumerate(values):
        if is_better(value, None if selected is None else values[selected], higher_is_better=higher):
            selected = i
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if not numbers:
        assert selected is None
    else:
        assert selected == values.index(max(numbers) if higher else min(numbers))


Spoil = Callable[[Callable[[int, str], float | None]], None]


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Spoil:
    """Replaces the accuracy of the n-th evaluation of a split if the function returns a value."""

    def replace_accuracy(value: Callable[[int, str], float | None]) -> None:
        turns: Counter[str] = Counter()

        def other(model: Any, split: Any, *rest: Any, **more: Any) -> Any:
            result = evaluate(model, split, *rest, **more)
            accuracy = value(turns[split.name], split.name)
            turns[split.name] += 1
            return result if accuracy is None else replace(result, values={**result.values, "accuracy": accuracy})

        monkeypatch.setattr("peftkit.train.evaluation.evaluate", other)

    return replace_accuracy


def test_the_first_finite_value_is_selected(make: Make, registry: Registry, spoil: Spoil) -> None:
    spoil(lambda turn, split: [math.nan, math.inf, 0.1][turn] if split == "dev" else None)
    path = run(make("decoder", "method.name=lora"), registry)
    assert path is not None
    summary = RunDirectory(path).summary()
    assert (summary["selected"]["step"], summary["selected"]["dev"]["accuracy"]) == (6, 0.1)
    assert [row["dev"]["accuracy"] for row in RunDirectory(path).evaluations()] == [None, None, 0.1]


def test_a_run_without_a_finite_value_on_dev_is_an_error(
    make: Make, registry: Registry, spoil: Spoil, tmp_path: Path
) -> None:
    spoil(lambda turn, split: math.nan if split == "dev" else None)
    with pytest.raises(RunError, match="accuracy on dev was not finite in any of the 3 evaluations"):
        run(make("decoder", "method.name=lora"), registry)
    [path] = (tmp_path / "runs").iterdir()
    assert RunDirectory(path).summary()["status"] == "failed"
    assert len(RunDirectory(path).evaluations()) == 3


PARTS = ("method.name=lora", "evaluate.dev_examples=6", "evaluate.test_examples=5", "evaluate.batch_size=4")


@pytest.mark.slow
def test_the_selected_checkpoint_is_evaluated_on_whole_splits(make: Make, registry: Registry, spoil: Spoil) -> None:
    """Selects the first, a middle and the last evaluation; full-split values are those of its weights."""
    whole = run(make("decoder", "method.name=lora", "evaluate.batch_size=4"), registry)
    assert whole is not None
    expected = {row["step"]: row for row in RunDirectory(whole).evaluations()}
    for place, step in enumerate((0, 3, 6)):
        spoil(lambda turn, split, place=place: (1.0 if turn == place else 0.5) if split == "dev" and turn < 3 else None)  # type: ignore[misc]
        path = run(make("decoder", *PARTS), registry)
        assert path is not None
        directory = RunDirectory(path)
        summary, selected = directory.summary(), directory.summary()["selected"]
        assert selected["step"] == step
        assert selected["dev"] == expected[step]["dev"]
        assert selected["test"] == expected[step]["test"]
        row = next(row for row in directory.evaluations() if row["step"] == step)
        assert selected["curve"] == {split: row[split] for split in ("dev", "test")}
        assert selected["curve"]["test"] != selected["test"]
        assert [len(directory.predictions(split)) for split in ("dev", "test")] == [12, 12]
        assert summary["rows_evaluated"] == {
            "curve": {"train": 6, "dev": 6, "test": 5},
            "selected": {"dev": 12, "test": 12},
        }
        assert summary["evaluation_seconds"] > sum(row["evaluation_seconds"] for row in directory.evaluations())
        table = directory.examples()
        assert table is not None
        rows = table.to_pylist()
        assert Counter((r["step"], r["split"], r["full_split"]) for r in rows) == {
            **{(each, "dev", False): 6 for each in (0, 3, 6)},
            **{(each, "test", False): 5 for each in (0, 3, 6)},
            (step, "dev", True): 12,
            (step, "test", True): 12,
        }
        losses = {r["index"]: r["loss"] for r in rows if r["split"] == "test" and r["full_split"]}
        assert losses == {line["index"]: pytest.approx(line["loss"]) for line in directory.predictions("test")}


def test_without_whole_splits_the_samples_are_reported(make: Make, registry: Registry) -> None:
    path = run(make("decoder", *PARTS, "evaluate.full_splits=false"), registry)
    assert path is not None
    summary = RunDirectory(path).summary()
    assert summary["rows_evaluated"]["selected"] == {"dev": 6, "test": 5}
    assert summary["selected"]["test"] == summary["selected"]["curve"]["test"]
    assert len(RunDirectory(path).predictions("test")) == 5
    assert not (path / "selected").exists()


def test_a_run_killed_in_its_last_evaluation_resumes_with_it(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make("encoder-decoder", *PARTS, "train.checkpoint.every=50%")
    whole = run(recipe, registry)
    assert whole is not None
    evaluations = 0

    def dies(model: Any, split: Any, *rest: Any, **more: Any) -> Any:
        nonlocal evaluations
        evaluations += 1
        if len(split.rows) == 12 and split.name == "test":
            raise MemoryError("killed")
        return evaluate(model, split, *rest, **more)

    monkeypatch.setattr("peftkit.train.evaluation.evaluate", dies)
    with pytest.raises(MemoryError):
        run(recipe, registry)
    assert evaluations == 3 * 3 + 2
    monkeypatch.setattr("peftkit.train.evaluation.evaluate", evaluate)
    path = max((p for p in whole.parent.iterdir() if p != whole), key=lambda p: p.stat().st_mtime)
    assert run(recipe, registry, resume=str(path)) == path
    one, other = RunDirectory(path), RunDirectory(whole)
    assert one.summary()["resumed_after_steps"] == [6]
    assert one.summary()["selected"] == other.summary()["selected"]
    for name in ("examples.parquet", "predictions/dev.jsonl", "predictions/test.jsonl"):
        assert (path / name).read_bytes() == (whole / name).read_bytes()


def test_selection_does_not_depend_on_test_scores(make: Make, registry: Registry, spoil: Spoil) -> None:
    steps = set()
    for best in range(3):  # the best evaluation on test
        spoil(lambda turn, split, best=best: [0.2, 0.9, 0.4][turn] if split == "dev" else float(turn == best))  # type: ignore[misc]
        path = run(make("decoder", "method.name=lora"), registry)
        assert path is not None
        steps.add(RunDirectory(path).summary()["selected"]["step"])
    assert steps == {3}


@pytest.mark.slow
def test_two_processes_report_the_same_as_one(make: Make, registry: Registry, tmp_path: Path) -> None:
    """Every process restores the selected weights, also after resuming at the end."""
    parts = [option for option in PARTS if option != "method.name=lora"] + ["method.name=quiet"]
    options = (*parts, "train.optimizer=SGD", "train.learning_rate=5", "train.checkpoint.every=50%")
    one = make("encoder-decoder", *options, f"run.output={tmp_path / 'one'}")
    two = make("encoder-decoder", *options, "train.batch_size=4", f"run.output={tmp_path / 'two'}")
    run_processes(one, registry)
    run_processes(two, registry, 2)
    (first,), (second,) = (tmp_path / "one").iterdir(), (tmp_path / "two").iterdir()
    (second / "summary.json").unlink()
    run_processes(two, registry, 2, resume=str(second))
    summaries = [RunDirectory(path).summary() for path in (first, second)]
    assert summaries[1]["processes"] == 2
    assert summaries[1]["resumed_after_steps"] == [6]
    assert summaries[0]["selected"]["step"] == summaries[1]["selected"]["step"]
    for split in ("dev", "test"):
        expected, actual = (summary["selected"][split] for summary in summaries)
        assert actual == pytest.approx(expected, abs=1e-4)
        lines = [RunDirectory(path).predictions(split) for path in (first, second)]
        assert [line["index"] for line in lines[1]] == [line["index"] for line in lines[0]] == list(range(12))
        pairs = zip(*lines, strict=True)
        assert all(other["loss"] == pytest.approx(line["loss"], abs=1e-3) for line, other in pairs)
