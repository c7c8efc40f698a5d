"""Finds the run to resume, and checks that its recipe and inputs are the same; versions of libraries may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peftkit.argument_names import format_argument
from peftkit.data.input_digests import Inputs, changed_inputs
from peftkit.errors import InputError, PeftkitError, comma_separated
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe, load_recipe
from peftkit.run_directory import RunDirectory

LATEST = ""
"""Stands for the newest run with the recipe's name and content."""
LIBRARIES = ("peftkit", "torch", "transformers", "peft", "tokenizers", "datasets", "accelerate")
"""Libraries whose versions may change before a run is resumed; a change is shown and recorded."""


def find_run_to_resume(recipe: Recipe, registry: Registry, requested: str) -> Path | None:
    """Find the run directory to resume.

    Args:
        recipe: The recipe to run.
        registry: The installed components.
        requested: A run directory, or ``LATEST``.

    Returns:
        The run directory; None if there is no run to resume for ``LATEST``.

    Raises:
        InputError: The path is not a run directory, or its run has another recipe.
    """
    if requested != LATEST:
        path = Path(requested)
        if not (path / "recipe.toml").is_file():
            raise InputError(f"{requested!r} is not a run directory: it has no recipe.toml")
        different = list(_different_keys(recipe, load_recipe(path / "recipe.toml", registry)))
        if different:
            raise InputError(
                f"{requested!r} is a run of another recipe, which differs in {', '.join(different)}; to resume it, "
                f"run: {RunDirectory(path).resume_command}; to start a new run, leave out {format_argument('resume')}"
            )
        return path
    runs = sorted(Path(recipe.run.output).glob(f"{recipe.run.name}-*"), reverse=True)
    text = dump_recipe(recipe)
    for path in runs:  # comparing texts is much faster than parsing recipes, of which there may be thousands
        with suppress(OSError, UnicodeDecodeError):
            if (path / "recipe.toml").read_text(encoding="utf-8") == text:
                return path
    for path in runs:
        try:
            if recipe == load_recipe(path / "recipe.toml", registry):
                return path
        except PeftkitError:  # killed before the recipe was written, or written by another version
            continue
    return None


def check_inputs(path: Path, began: Inputs, now: Inputs) -> None:
    """Check that a run is resumed with the inputs it was started with.

    Args:
        path: The run directory.
        began: Digests from the run's checkpoint.
        now: Digests of the current inputs.

    Raises:
        InputError: An input has changed.
    """
    if different := changed_inputs(began, now):
        raise InputError(
            f"{str(path)!r} was started with different inputs: {comma_separated(different)}; restore them to resume "
            f"it, or start a new run without {format_argument('resume')}"
        )


def changed_versions(began: Mapping[str, str]) -> list[str]:
    """List the libraries whose versions have changed since a run was started.

    Args:
        began: Versions by name, from the run's ``environment.json``.

    Returns:
        Name, current version and original version of each changed library.
    """
    installed = {name: version(name) for name in LIBRARIES if name in began}
    changed = [name for name in installed if installed[name] != began[name]]
    return [f"{name} {installed[name]} (started with {began[name]})" for name in changed]


def _different_keys(new: Recipe, old: Recipe) -> Iterator[str]:
    """Yield the dotted keys in which two recipes differ."""

    def compare(new_value: Any, old_value: Any, path: str) -> Iterator[str]:
        if isinstance(new_value, Mapping) and isinstance(old_value, Mapping):
            for key in {**new_value, **old_value}:
                yield from compare(new_value.get(key), old_value.get(key), f"{path}.{key}" if path else key)
        elif new_value != old_value:
            yield path

    yield from compare(new.model_dump(mode="json"), old.model_dump(mode="json"), "")
