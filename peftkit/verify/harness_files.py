"""Recomputes results of lm-evaluation-harness, which were added to a run, from their scores per example."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from peftkit.run_directory import RunDirectory
from peftkit.run_directory.harness_results import read_harness_result, read_harness_rows
from peftkit.verify.results import Check, cannot_check, check_value


def harness_checks(path: Path, name: str) -> Iterator[Check]:
    """Recompute the values of a task.

    Args:
        path: The run directory.
        name: The name of the task.

    Yields:
        The checks.

    Raises:
        InputError: A file is missing or damaged.
    """
    what, result, rows = f"harness {name}", read_harness_result(path, name), read_harness_rows(path, name)
    yield check_value(what, "task", result["task"], name)
    yield check_value(what, "num_examples", result["num_examples"], len(rows))
    if "file_digests" in result:
        digests = RunDirectory(path).file_digests()
        yield check_value(
            what, "digests of the model", result["file_digests"], digests, reason="it has other files now"
        )
    else:
        yield cannot_check(what, "digests of the model", "an older peftkit did not record them")
    indices = [row["index"] for row in rows]
    yield check_value(what, "rows in order, each once", indices, sorted({*indices}))
    for value, stored in result["values"].items():
        scores = [row["scores"][value] for row in rows if value in row["scores"]]
        if scores:
            yield check_value(what, value, stored, sum(scores) / len(rows), reason="it is not the mean of its rows")
        else:
            yield cannot_check(what, value, "it is not a mean over examples", stored)
    unknown = sorted({score for row in rows for score in row["scores"]} - {*result["values"]})
    yield check_value(what, "scores of rows without a value", unknown, [])
