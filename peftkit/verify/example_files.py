"""Recompute evaluations from their results per example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.evaluate.evaluator import TEACHER_FORCED, compute_values
from peftkit.example_tables import NORM_SUFFIX, select_rows, to_prediction_rows
from peftkit.recipe.recipe import LOSS
from peftkit.verify.results import Check, NotRecomputable, cannot_check, check_value
from peftkit.verify.stored_files import (
    SINGLE_PRECISION,
    RecordedRun,
    Row,
    mean_loss,
    scores_differ,
    why_no_rows,
)

if TYPE_CHECKING:
    import pyarrow as pa


def example_checks(run: RecordedRun) -> Iterator[Check]:
    """Recompute each evaluation of the curve, and the selected one, from ``examples.parquet``."""
    table = run.directory.examples()
    if table is None:
        raise NotRecomputable("per-example results are not stored")
    run.require("evaluations.jsonl")
    for row in run.directory.evaluations():
        yield cannot_check("curve", f"step {row['step']} train", "per-example results of training rows are not stored")
        for split in [each for each in run.splits if each in row]:  # without sets at the end only
            part = filter_table(table, row["step"], split, whole=False)
            yield from check_evaluation(run, part, split, f"step {row['step']} {split} ", row[split], "curve")
    step = run.summary["selected"]["step"]
    for split in run.splits:
        whole = filter_table(table, step, split, whole=True)
        part = whole if len(whole) else filter_table(table, step, split, whole=False)
        yield from check_evaluation(run, part, split, f"selected {split} ", run.summary["selected"][split], "curve")
        if (run.path / "predictions" / f"{split}.jsonl").is_file():
            mismatches = _count_mismatches(to_prediction_rows(part), run.predictions(split))
            yield check_value(
                "curve", f"selected {split} rows that differ from predictions/{split}.jsonl", 0, mismatches
            )


def check_evaluation(
    run: RecordedRun, part: pa.Table, split: str, prefix: str, stored: Mapping[str, Any], what: str
) -> Iterator[Check]:
    """Check the values of one evaluation on one split.

    Args:
        run: The run.
        part: The rows of the evaluation.
        split: The split.
        prefix: Text in front of each name.
        stored: The values in the run directory.
        what: The group of the values.

    Yields:
        The checks.
    """
    rows = to_prediction_rows(part)
    if not rows:
        yield cannot_check(what, f"{prefix}values", "per-example results are not stored")
        return
    objective = run.recipe.objective_for(run.summary["model_kind"])
    scores = rows[0].get("scores") or {}
    recomputed = {LOSS: mean_loss(rows)} | {key: sum(row["scores"][key] for row in rows) / len(rows) for key in scores}
    examples = run.examples(split, rows) if "prediction" in rows[0] else None
    if examples is not None:
        rescored = [{**row, "scores": {}} for row in rows]
        recipe = run.recipe.model_copy(update={"metric": [m for m in run.recipe.metric if m.input != TEACHER_FORCED]})
        recomputed = compute_values(recipe, objective, examples, rescored)
        mismatches = sum(
            scores_differ(row.get("scores") or {}, new["scores"]) for row, new in zip(rows, rescored, strict=True)
        )
        yield check_value(what, f"{prefix}rows whose scores do not follow from their predictions", 0, mismatches)
    for key, value in stored.items():
        if key in recomputed:
            yield check_value(what, f"{prefix}{key}", value, recomputed[key], SINGLE_PRECISION)
        else:
            texts = "generated texts" if objective.generates else "predictions without `candidates`"
            reason = f"{texts} are stored for the selected evaluation only"
            if examples is None and "prediction" in rows[0]:
                reason = why_no_rows(run, split)
            if any(key in metric.value_names for metric in run.recipe.metric if metric.input == TEACHER_FORCED):
                reason = "teacher-forced texts are stored for the selected evaluation only"
            yield cannot_check(what, f"{prefix}{key}", reason, value)


def filter_table(table: pa.Table, step: int, split: str, *, whole: bool) -> pa.Table:
    """Select the rows of one evaluation of one split.

    Args:
        table: The rows of all evaluations.
        step: Optimizer steps before it.
        split: The split.
        whole: Whether it is the evaluation of the full split at the end.
    """
    return select_rows(select_rows(select_rows(table, "step", step), "split", split), "full_split", whole)


def _count_mismatches(rows: Sequence[Row], predicted: Sequence[Row]) -> int:
    """Count the rows of a table that differ from those of a predictions file."""
    texts = [key for key in ("target", "prediction", f"prediction{NORM_SUFFIX}") if rows and key in rows[0]]
    mismatches = abs(len(rows) - len(predicted))
    for one, other in zip(rows, predicted, strict=False):
        exact = all(one[key] == other[key] for key in ("index", "tokens", *texts))
        close = not scores_differ({LOSS: one[LOSS]}, {LOSS: other[LOSS]})
        close = close and not scores_differ(one.get("scores") or {}, other.get("scores") or {})
        mismatches += not (exact and close)
    return mismatches
