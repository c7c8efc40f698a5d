"""Finds the run that is to go on, and makes sure that it is the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from peftkit.errors import InputError, PeftkitError, RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe, load_recipe

LATEST = ""
"""As the run to resume: the newest of the recipe's name that has the same recipe."""


def find(recipe: Recipe, registry: Registry, asked: str) -> Path | None:
    """The run directory to go on in.

    Args:
        recipe: what is run.
        registry: the installed components.
        asked: a run directory, or ``LATEST``.

    Returns:
        The folder; None where ``LATEST`` finds none, so that a new run is to begin.

    Raises:
        InputError: the run directory is none, or one of another recipe.
    """
    if asked != LATEST:
        path = Path(asked)
        if not (path / "recipe.toml").is_file():
            raise InputError(f"{asked!r} is no run directory: it has no recipe.toml")
        different = list(_differences(recipe, load_recipe(path / "recipe.toml", registry)))
        if different:
            raise InputError(
                f"{asked!r} is a run of another recipe, they differ in {', '.join(different)}; resume it with "
                f"{path / 'recipe.toml'}, or run the new one without --resume"
            )
        return path
    there = sorted(Path(recipe.run.output).glob(f"{recipe.run.name}-*"), reverse=True)
    text = dump_recipe(recipe)
    for path in there:  # what is written alike need not be read, of which there may be thousands
        with suppress(OSError, UnicodeDecodeError):
            if (path / "recipe.toml").read_text(encoding="utf-8") == text:
                return path
    for path in there:
        try:
            if recipe == load_recipe(path / "recipe.toml", registry):
                return path
        except PeftkitError:  # killed before it was written, or of another time
            continue
    return None


def lock(path: Path) -> FileLock:
    """Keeps other processes out of a run directory until it is released, or this process ends.

    Raises:
        RunError: another process writes there.
    """
    held = FileLock(path / ".lock")
    try:
        held.acquire(blocking=False)
    except Timeout as error:
        raise RunError(f"{path} is being written by another process; wait until it ends, or stop it") from error
    return held


def by_main(accelerator: Accelerator, do: Callable[[], Any]) -> Any:
    """What the main process's call gives, on every process; its error ends all of them alike."""
    told: list[Any] = [None, None, 0]
    raised: PeftkitError | None = None
    if accelerator.is_main_process:
        try:
            told[0] = do()
        except PeftkitError as error:
            raised, told[1:] = error, [str(error), error.exit_code]
    if accelerator.num_processes > 1:
        broadcast_object_list(told)
    if told[1] is not None:
        if raised is None:
            raised = PeftkitError(told[1])
            raised.exit_code = told[2]
        raise raised
    return told[0]


def _differences(new: Recipe, old: Recipe) -> Iterator[str]:
    def compare(one: Any, other: Any, path: str) -> Iterator[str]:
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            for key in {**one, **other}:
                yield from compare(one.get(key), other.get(key), f"{path}.{key}" if path else key)
        elif one != other:
            yield path

    yield from compare(new.model_dump(mode="json"), old.model_dump(mode="json"), "")
