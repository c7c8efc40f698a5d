"""Recompute scores, losses, curves, the selection, digests and baselines from a run's files and data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.candidate_choice import argmax_candidate
from peftkit.components import Example
from peftkit.data.dataloader import effective_batch_size
from peftkit.data.pipeline import PreparedData
from peftkit.errors import InputError
from peftkit.evaluate.baselines import compute_baselines
from peftkit.evaluate.evaluator import compute_values, resolve_selection_metric
from peftkit.example_tables import NORM_SUFFIX
from peftkit.models.parameter_counts import folder_bytes
from peftkit.recipe import Recipe
from peftkit.recipe.recipe import LOSS
from peftkit.run_directory import RunDirectory
from peftkit.train.checkpoint_selection import is_better
from peftkit.verify.results import Check, NotRecomputable, cannot_check, check_value, check_values

SPLITS = ("dev", "test")
SINGLE_PRECISION = 1e-6
"""Relative tolerance of a mean of values in single precision, as in ``examples.parquet``."""
RANKED = {"candidates", "candidate_tokens", "log_likelihoods", f"prediction{NORM_SUFFIX}"}
"""Keys of predictions that were ranked by log-likelihoods."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class RecordedRun:
    """A finished run as recorded, and its data as they are read now."""

    path: Path
    recipe: Recipe
    summary: Mapping[str, Any]
    data: PreparedData | None = None
    """None if the data cannot be read."""
    unreadable_because: str = ""
    """Why the data cannot be read."""
    changed_splits: frozenset[str] = frozenset()
    """Splits whose rows have changed since the run."""
    changed_versions: tuple[str, ...] = ()
    """Descriptions of the libraries whose versions differ from those of the run."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits with predictions: dev, test and the evaluation sets."""
        return (*SPLITS, *(each.name for each in self.recipe.evaluate.set))

    @property
    def directory(self) -> RunDirectory:
        """The run directory."""
        return RunDirectory(self.path)

    def predictions(self, split: str) -> list[dict[str, Any]]:
        """Read the predictions of a split; numbers that JSON cannot represent are NaN."""
        rows = self.directory.predictions(split)
        for row in rows:
            if row.get(LOSS, 0.0) is None:
                row[LOSS] = math.nan
            if "log_likelihoods" in row:
                row["log_likelihoods"] = [math.nan if each is None else each for each in row["log_likelihoods"]]
        return rows

    def require(self, name: str) -> None:
        """Check that a file or folder of the run exists.

        Raises:
            NotRecomputable: It is missing.
        """
        if not (self.path / name).exists():
            raise NotRecomputable(f"{name} is missing")

    def require_rows(self, *splits: str) -> PreparedData:
        """Return the data if these splits have not changed since the run.

        Raises:
            NotRecomputable: The data cannot be read, or a split has changed.
        """
        if self.data is None:
            raise NotRecomputable(f"the rows cannot be read: {self.unreadable_because}")
        changed = [split for split in splits if split in self.changed_splits]
        if changed:
            raise NotRecomputable(f"the rows of {' and '.join(changed)} have changed since the run")
        return self.data

    def examples(self, split: str, rows: Sequence[Row]) -> list[Example] | None:
        """Return the example of each prediction.

        They come from the data, or from the predictions themselves if the data have changed.

        Args:
            split: ``dev`` or ``test``.
            rows: The predictions.

        Returns:
            One example per row; None if the rows do not contain them.

        Raises:
            InputError: The split has no row with such an index.
        """
        if self.data is not None and split not in self.changed_splits:
            known = {i: e for each in self.data.final_splits if each.name == split for i, e in _indexed_examples(each)}
            unknown = [row["index"] for row in rows if row["index"] not in known]
            if unknown:
                raise InputError(f"{split} has no evaluated row {unknown[0]}")
            return [known[row["index"]] for row in rows]
        if rows and "candidates" in rows[0]:
            return [Example(row.get("source", ""), row["target"], tuple(row["candidates"])) for row in rows]
        return None


def file_checks(path: Path, summary: Mapping[str, Any]) -> Iterator[Check]:
    """Check the digests of the recipe and the model's files, and the size of the latter.

    Args:
        path: The run directory.
        summary: Its summary.

    Yields:
        The checks.
    """
    stored, digests = summary.get("file_digests"), RunDirectory(path).file_digests()
    has_model = (path / "model").is_dir()
    if stored is None:
        yield cannot_check("files", "digests", "an older peftkit did not record it")
    else:
        stored_digests = {name: digest for name, digest in stored.items() if has_model or not name.startswith("model/")}
        yield from check_values("files", stored_digests, digests)
    if has_model:
        yield check_value("files", "model_bytes", summary.get("model_bytes"), folder_bytes(path / "model"))
    else:
        yield cannot_check("files", "model/", "model/ is missing")


def recipe_checks(run: RecordedRun) -> Iterator[Check]:
    """Check what the summary repeats from the recipe and the environment."""
    recipe, summary = run.recipe, run.summary
    processes = summary.get("processes", 1)
    recomputed: dict[str, Any] = {
        "name": recipe.run.name,
        "model": recipe.model.name,
        "task": recipe.task.name,
        "method": recipe.method.name,
        "seed": recipe.run.seed,
        "init_seed": recipe.run.effective_init_seed,
        "order_seed": recipe.run.effective_order_seed,
        "effective_batch": None if recipe.train.tokens_per_batch else effective_batch_size(recipe, processes),
    }
    dev = summary["selected"]["dev"]
    recomputed["selection_metric"], recomputed["higher_is_better"] = resolve_selection_metric(recipe, dev)
    recomputed["lower_is_better"] = sorted(value for value in dev if not recipe.higher_is_better(value))
    if (run.path / "environment.json").is_file():
        environment = run.directory.environment()
        recomputed |= {name: environment[name] for name in ("processes", "revisions") if name in environment}
    for name, value in recomputed.items():
        if name in summary:
            yield check_value("recipe", name, summary[name], value)


def row_checks(run: RecordedRun) -> Iterator[Check]:
    """Check what the summary records of the data's rows."""
    data, summary = run.require_rows(), run.summary
    train = data.split_sizes["train"]
    tokens = run.recipe.train.tokens_per_batch
    batch = 1 if tokens else effective_batch_size(run.recipe, summary.get("processes", 1))
    recomputed = {
        "rows": dict(data.split_sizes),
        "rows_digests": dict(data.digests),
        "rows_evaluated": data.num_evaluated_rows,
        "rows_dropped_per_epoch": None if train is None else train % batch,
        "rows_truncated": data.truncated,
        "train_overlap": data.train_overlap,
    }
    if "rows_skipped" in summary and train is not None:  # those of a stream are counted while it is read
        recomputed |= {"rows_skipped": data.num_skipped, "rows_ignored": data.num_ignored}
    for name, value in recomputed.items():
        if name in summary:
            yield from check_values("data", {name: summary[name]}, {name: value})
        else:
            yield cannot_check("data", name, "an older peftkit did not record it")


def changed_splits(summary: Mapping[str, Any], data: PreparedData) -> frozenset[str]:
    """Find the splits whose rows have changed since the run.

    Args:
        summary: The run's summary.
        data: The data as they are read now.

    Returns:
        The names of the splits.
    """
    digests = summary.get("rows_digests") or {}
    sizes = summary.get("rows") or {}
    return frozenset(
        split
        for split in data.digests
        if digests.get(split, data.digests[split]) != data.digests[split]
        or sizes.get(split, data.split_sizes.get(split)) != data.split_sizes.get(split)
    )


def baseline_checks(run: RecordedRun) -> Iterator[Check]:
    """Check the scores of the input-blind baselines."""
    stored = run.summary.get("baselines")
    if stored is None:
        raise NotRecomputable("an older peftkit did not record it")
    data = run.require_rows("train", *run.splits)
    recomputed = {name: values for name, values in compute_baselines(run.recipe, data).items() if name in stored}
    if "file_digests" not in run.summary and (constant := stored.get("constant")) != recomputed.get("constant"):
        # These runs used the most frequent answer instead of the best one.
        yield cannot_check("baselines", "constant", "an older peftkit chose the answer differently", constant)
        stored = {name: values for name, values in stored.items() if name != "constant"}
        recomputed = {name: values for name, values in recomputed.items() if name in stored}
    yield from check_values("baselines", stored, recomputed)


def selection_checks(run: RecordedRun) -> Iterator[Check]:
    """Check the selected evaluation, and what the summary repeats of it and of the last one."""
    run.require("evaluations.jsonl")
    summary, rows, selected = run.summary, run.directory.evaluations(), run.summary["selected"]
    metric, higher = resolve_selection_metric(run.recipe, selected["dev"])
    best: Row | None = None
    for row in rows:
        best_score = None if best is None else best["dev"][metric]
        if is_better(row["dev"][metric], best_score, higher_is_better=higher):
            best = row
    if best is None:
        raise InputError(f"{metric} on dev is not a number at any evaluation")
    yield check_value("selection", "step", selected["step"], best["step"])
    yield check_value("selection", "steps in order", [*map(_step_of, rows)], sorted({*map(_step_of, rows)}))
    yield from check_values("selection", selected["train"], best["train"], prefix="train ")
    splits = (*run.splits, *(each.name for each in run.recipe.probe))
    curve = {split: best[split] for split in splits if split in best}
    if "curve" in selected:
        yield from check_values("selection", selected["curve"], curve, prefix="curve ")
    if (rows_of := summary.get("rows_evaluated")) and rows_of["curve"].items() >= rows_of["selected"].items():
        for split in splits:
            yield from check_values("selection", selected[split], best[split], prefix=f"{split} ")
    last = {key: rows[-1].get(key) for key in summary.get("final", {})}
    yield from check_values("selection", summary.get("final", {}), last, prefix="final ")
    yield from check_values("selection", summary["cost"], rows[-1]["cost"], prefix="cost ")


def prediction_checks(run: RecordedRun, split: str) -> Iterator[Check]:
    """Recompute the selected checkpoint's loss and scores from ``predictions/``, and check that these are consistent.

    Args:
        run: The run.
        split: ``dev`` or ``test``.

    Yields:
        The checks.
    """
    run.require(f"predictions/{split}.jsonl")
    rows = run.predictions(split)
    what = f"selected {split}"
    examples = run.examples(split, rows)
    if examples is None:
        yield cannot_check(what, "scores", f"the answers are not stored, and {why_no_rows(run, split)}")
        stored = run.summary["selected"][split].get(LOSS)
        yield check_value(what, LOSS, stored, mean_loss(rows))
    else:
        objective = run.recipe.objective_for(run.summary["model_kind"])
        recomputed = compute_values(run.recipe, objective, examples, [dict(row) for row in rows])
        yield from check_values(what, run.summary["selected"][split], recomputed)
    if run.data is not None and split not in run.changed_splits and examples is not None:
        mismatches = sum(not _matches_example(row, example) for row, example in zip(rows, examples, strict=True))
        yield check_value(what, "rows that differ from the data", 0, mismatches)
        split_indices = {each.name: each.indices for each in run.data.final_splits}[split]
        row_indices = [row["index"] for row in rows]
        misplaced = abs(len(row_indices) - len(split_indices)) + sum(
            a != b for a, b in zip(row_indices, split_indices, strict=False)
        )
        yield check_value(what, "rows missing or out of order", 0, misplaced)
    if any(row.keys() >= RANKED for row in rows):
        mismatches = sum(not _is_consistent(row, run.recipe.evaluate.scoring) for row in rows)
        yield check_value(what, "rows whose prediction or loss does not follow from the log-likelihoods", 0, mismatches)


def mean_loss(rows: Sequence[Row]) -> float:
    """Return the loss per target token of predictions."""
    return float(sum(row[LOSS] for row in rows) / max(1, sum(row["tokens"] for row in rows)))


def _matches_example(row: Row, example: Example) -> bool:
    """Whether a prediction belongs to the example."""
    candidates = tuple(row.get("candidates", example.candidates))
    return (row["source"], row["target"], candidates) == (example.source, example.target, example.candidates)


def _is_consistent(row: Row, scoring: str) -> bool:
    """Whether a ranked row's predictions and loss follow from its candidates' log-likelihoods."""
    candidates, sums = row["candidates"], row["log_likelihoods"]
    norms = [s / max(n, 1) for s, n in zip(sums, row["candidate_tokens"], strict=True)]
    first, second = (sums, norms) if scoring == "sum" else (norms, sums)
    answer = candidates.index(row["target"])
    stored = (row["prediction"], row[f"prediction{NORM_SUFFIX}"], row["tokens"])
    follows = (
        argmax_candidate(candidates, first),
        argmax_candidate(candidates, second),
        row["candidate_tokens"][answer],
    )
    return stored == follows and not scores_differ({LOSS: row[LOSS]}, {LOSS: -sums[answer]})


def scores_differ(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Return whether values in single precision differ from others.

    Args:
        one: The values.
        other: The other values.
    """
    checks = check_values("", one, other, SINGLE_PRECISION)
    return any(check.status == "differs" for check in checks)


def why_no_rows(run: RecordedRun, split: str) -> str:
    """Return why the rows of a split are not known.

    Args:
        run: The run.
        split: The split.
    """
    return f"the rows of {split} {'have changed since the run' if run.data else 'cannot be read'}"


def _indexed_examples(split: Any) -> Iterator[tuple[int, Example]]:
    return zip(split.indices, split.examples, strict=True)


def _step_of(row: Row) -> int:
    return int(row["step"])
