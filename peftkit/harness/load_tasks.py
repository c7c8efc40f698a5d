"""Loads tasks of lm-evaluation-harness (Gao et al., 2024), with one error for what goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peftkit.errors import InputError, did_you_mean, summarize_error

MISSING = "lm-evaluation-harness is not installed: pip install 'peftkit[harness]'"


def check_installed() -> None:
    """Check that the library is installed.

    Raises:
        InputError: It is not.
    """
    if find_spec("lm_eval") is None:
        raise InputError(MISSING)


def harness_version() -> str:
    """Return the version of the library."""
    return version("lm_eval")


def load_harness_tasks(names: Sequence[str], include_path: str | None = None) -> Mapping[str, Any]:
    """Load tasks, those of groups and tags included.

    Args:
        names: Names of tasks, groups or tags, or paths of YAML files.
        include_path: A folder of YAML files with further tasks.

    Returns:
        The tasks of the library by name.

    Raises:
        InputError: The library is not installed, there is no such folder or task, or a task cannot be loaded.
    """
    check_installed()
    if include_path is not None and not Path(include_path).is_dir():
        raise InputError(f"{include_path}: no such folder of harness tasks")
    with quiet_harness():
        from lm_eval.tasks import TaskManager

        # To scan the library's own tasks takes ten seconds.
        manager = TaskManager(include_path=include_path, include_defaults=False)
        if not all(name in manager.all_tasks or Path(name).is_file() for name in names):
            manager = TaskManager(include_path=include_path)
        for name in names:
            if name not in manager.all_tasks and not Path(name).is_file():
                raise InputError(f"lm-evaluation-harness has no task {name!r}{did_you_mean(name, manager.all_tasks)}")
        try:
            tasks: Mapping[str, Any] = manager.load([*names])["tasks"]
        except Exception as error:  # of a task's own code, of its data, of its file
            raise InputError(
                f"the harness tasks {', '.join(names)} cannot be loaded: {summarize_error(error)}"
            ) from error
    return tasks


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Show errors of the library only."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
