"""Runs that a sweep finds finished count only if they read what a run would read now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

from peftkit.errors import InputError, listed
from peftkit.plugins import Registry
from peftkit.recipe import Recipe

RATES = ("learning_rate", "head_learning_rate", "weight_decay", "budget")
"""Keys of ``train`` that trials differ in, and on which no input depends."""


class Reused:
    """Compares finished runs with the inputs of their recipes; runs of like recipes share what is read."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._read: dict[str, Mapping[str, str]] = {}
        self._guard = Lock()

    def check(self, path: Path, recipe: Recipe) -> None:
        """Refuses a finished run whose inputs have changed since.

        Args:
            path: the run directory.
            recipe: what the sweep asks for.

        Raises:
            InputError: they have changed.
            PeftkitError: they cannot be read.
        """
        from peftkit.runner.inputs import changed_inputs, recorded_inputs  # imports torch

        began = recorded_inputs(path)
        if began and (different := changed_inputs(began, self.inputs(path, recipe))):
            raise InputError(
                f"{str(path)!r} was finished with other inputs, they differ in {listed(different)}; restore them, or "
                "remove that folder to run it anew"
            )

    def inputs(self, path: Path, recipe: Recipe) -> Mapping[str, str]:
        """The digests of what a run of the recipe would read now, with the commits that a run directory keeps to."""
        from peftkit.runner.inputs import read_inputs
        from peftkit.runner.revisions import pinned, resolve_revisions
        from peftkit.runner.world import close_world, make_accelerator

        kept = pinned(recipe, resolve_revisions(recipe, path))
        with self._guard:
            key = json.dumps(_read_by(kept), sort_keys=True)
            if key not in self._read:
                accelerator = make_accelerator(cpu=True)
                try:
                    self._read[key] = read_inputs(kept, self.registry, accelerator)
                finally:
                    close_world(accelerator)
            return self._read[key]


def _read_by(recipe: Recipe) -> dict[str, object]:
    """What of a recipe decides the inputs: seeds and rates do so only where rows are drawn by a seed."""
    tables = recipe.model_dump(mode="json")
    drawn = recipe.run.resample_train is not None
    seeds = {key: value for key, value in tables["run"].items() if drawn and key not in ("name", "output")}
    train = {key: value for key, value in tables["train"].items() if key not in RATES}
    parts = ("model", "task", "method", "metric", "evaluate")
    return {"run": seeds, "train": train, **{key: tables[key] for key in parts}}
