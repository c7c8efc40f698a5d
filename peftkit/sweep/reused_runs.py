"""Check that finished runs, which a sweep reuses, read the same inputs as a new run would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

from peftkit.errors import InputError, comma_separated
from peftkit.plugins import Registry
from peftkit.recipe import Recipe

TUNED_KEYS = ("learning_rate", "head_learning_rate", "weight_decay", "budget")
"""Keys of ``train`` that differ between trials and do not affect the inputs."""


class ReuseCheck:
    """Compare finished runs with the current inputs of their recipes; runs with the same inputs share the digests."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._digests: dict[str, Mapping[str, str]] = {}
        self._lock = Lock()

    def check(self, path: Path, recipe: Recipe) -> None:
        """Check that the inputs of a finished run have not changed.

        Args:
            path: The run directory.
            recipe: The recipe that the sweep would run.

        Raises:
            InputError: The inputs have changed.
            PeftkitError: The inputs cannot be read.
        """
        from peftkit.data.input_digests import changed_inputs, recorded_input_digests  # imports torch

        recorded = recorded_input_digests(path)
        if recorded and (different := changed_inputs(recorded, self.inputs(path, recipe))):
            raise InputError(
                f"the inputs of the finished run {str(path)!r} have changed: {comma_separated(different)}; restore "
                "them, or delete the folder to run it again"
            )

    def inputs(self, path: Path, recipe: Recipe) -> Mapping[str, str]:
        """Return the digests of what a run of the recipe would read now, with the run directory's recorded hub commits.

        Args:
            path: The run directory.
            recipe: The recipe.

        Returns:
            Digests by input.
        """
        from peftkit.data.input_digests import compute_input_digests
        from peftkit.distributed.accelerator import make_accelerator, shutdown
        from peftkit.models.checkpoints.revisions import pin_revisions, resolve_revisions

        pinned_recipe = pin_revisions(recipe, resolve_revisions(recipe, path))
        with self._lock:
            key = json.dumps(_input_settings(pinned_recipe), sort_keys=True)
            if key not in self._digests:
                accelerator = make_accelerator(cpu=True)
                try:
                    self._digests[key] = compute_input_digests(pinned_recipe, self.registry, accelerator)
                finally:
                    shutdown(accelerator)
            return self._digests[key]


def _input_settings(recipe: Recipe) -> dict[str, object]:
    """The recipe settings that affect the inputs; seeds do so only if training rows are resampled."""
    tables = recipe.model_dump(mode="json")
    resampled = recipe.run.resample_train is not None
    seeds = {key: value for key, value in tables["run"].items() if resampled and key not in ("name", "output")}
    train = {key: value for key, value in tables["train"].items() if key not in TUNED_KEYS}
    parts = ("model", "task", "method", "metric", "evaluate")
    return {"run": seeds, "train": train, **{key: tables[key] for key in parts}}
