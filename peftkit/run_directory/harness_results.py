"""Reads and writes results of lm-evaluation-harness, which are added to a run after it has finished.

``harness/TASK.json`` has the values of a task and how it was evaluated, ``harness/TASK.jsonl`` the scores per example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftkit.json_files import read_json_lines
from peftkit.run_directory.run_directory import RunDirectory

FOLDER = "harness"


def write_harness_result(
    directory: RunDirectory, name: str, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write the result of a task; an old one is replaced.

    Args:
        directory: The run directory.
        name: The name of the task.
        result: Its values and settings.
        rows: A row for each example.

    Raises:
        RunError: A file cannot be written.
    """
    directory.write_lines(f"{FOLDER}/{name}.jsonl", rows)
    directory.write_json(f"{FOLDER}/{name}.json", result)


def harness_names(path: Path) -> list[str]:
    """Return the names of the tasks that a run has results of.

    Args:
        path: The run directory.
    """
    return sorted(file.stem for file in (path / FOLDER).glob("*.json"))


def read_harness_result(path: Path, name: str) -> dict[str, Any]:
    """Read the values of a task and how it was evaluated.

    Args:
        path: The run directory.
        name: The name of the task.

    Raises:
        InputError: The file is missing, damaged or of a newer format.
    """
    return RunDirectory(path).read_json(f"{FOLDER}/{name}.json")


def read_harness_rows(path: Path, name: str) -> list[dict[str, Any]]:
    """Read the scores of each example of a task.

    Args:
        path: The run directory.
        name: The name of the task.

    Raises:
        InputError: The file is missing or damaged.
    """
    return read_json_lines(path / FOLDER / f"{name}.jsonl")
