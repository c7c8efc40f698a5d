"""Reads what serving runs takes, as ``peftkit bench`` measured it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from peftkit.compare.input.fairness import describe_differences, flatten
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.errors import InputError
from peftkit.run_directory import RunDirectory

FILE = "serving.json"
CONDITIONS = ("prompt_tokens", "new_tokens", "python", "packages", "hardware")
"""What must be the same for times to be compared."""
KEYS = {
    "first_token_seconds": "first token (s)",
    "seconds": "a text (s)",
    "tokens_per_second": "tokens/s",
    "texts_per_second": "texts/s",
}
"""The columns of measurements."""


def serving_of(runs: Iterable[LoadedRun]) -> dict[str, float]:
    """Return what serving a method takes: means over its runs for single prompts, merged where that is possible.

    Args:
        runs: The runs of the method.

    Returns:
        The numbers by column; empty unless all runs were measured.
    """
    rows = [_single_prompt(_read(run)) for run in runs]
    if not rows or not all(rows):
        return {}
    means = {
        column: sum(row[key]["median"] for row in rows) / len(rows)
        for key, column in KEYS.items()
        if all(key in row for row in rows)
    }
    peaks = [row["peak_device_bytes"] or row["peak_host_bytes"] for row in rows]
    return means | {"serving memory (GiB)": sum(peaks) / len(peaks) / 2**30}


def describe_serving(runs: Iterable[LoadedRun]) -> Iterator[str]:
    """Say what the numbers of a table are, and whether they were measured under the same conditions.

    Args:
        runs: All runs of a table.
    """
    measured = [result for run in runs if (result := _read(run))]
    if not measured:
        return
    differences = describe_differences([flatten({key: each.get(key) for key in CONDITIONS}) for each in measured])
    first = measured[0]
    request = f"{first['prompt_tokens']} tokens in" + (f", {first['new_tokens']} out" if first["new_tokens"] else "")
    if differences:
        yield f"serving was measured differently, so its columns are not comparable: {'; '.join(differences[:3])}"
    else:
        yield f"serving: of single prompts, {request}, merged where the method can be (peftkit bench)"


def _read(run: LoadedRun) -> Mapping[str, Any]:
    """Read the measurement of a run; empty if there is none."""
    with suppress(InputError):
        return RunDirectory(run.path).read_json(FILE)
    return {}


def _single_prompt(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the measurement of the smallest batch, merged if there is one; empty without any."""
    rows: Sequence[Mapping[str, Any]] = result.get("measurements", ())
    best = [row for row in rows if row["batch_size"] == 1]
    return max(best, key=lambda row: row["merged"], default={})
