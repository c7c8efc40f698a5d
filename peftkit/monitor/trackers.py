"""Logs evaluations to Accelerate's trackers. One that fails or hangs is turned off with a warning."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from dotenv import dotenv_values

from peftkit.components.callback import EvaluationResult, TrainContext, TrainerCallback
from peftkit.recipe import Recipe

log = logging.getLogger(__name__)
TIMEOUT = 60.0
"""Seconds that a tracker may take for a call."""


def enabled_trackers(recipe: Recipe) -> list[str]:
    """Return Accelerate's names of the trackers that the recipe enables.

    Loads unset ``WANDB_*`` variables from ``.env`` in the working directory, and sets ``WANDB_MODE``, without which
    wandb prompts for an account in a terminal. ``WANDB_MODE=disabled`` is respected.
    """
    names = []
    for key, value in dotenv_values(".env").items():
        if key.startswith("WANDB_") and value:
            os.environ.setdefault(key, value)
    if "wandb" in recipe.track.to and os.environ.get("WANDB_MODE") != "disabled":
        os.environ["WANDB_MODE"] = recipe.track.wandb.mode
        os.environ.setdefault("WANDB_SILENT", "true")
        names.append("wandb")
    if "tensorboard" in recipe.track.to:
        names.append("tensorboard")
    return names


class RunTrackers(TrainerCallback):
    """The trackers of a run.

    Args:
        accelerator: The Accelerator of the run.
        recipe: The recipe of the run.
        run: The run directory.
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe, run: Path) -> None:
        self.accelerator = accelerator
        self.active = bool(enabled_trackers(recipe))
        if not self.active:
            return
        config = flatten(recipe.model_dump(mode="json"))
        tags = list(recipe.track.tags)
        options = {"name": run.name, "dir": str(run), "group": recipe.run.name, "tags": tags, "config": config}
        # A run of the caller's stays the active one; its session has read WANDB_MODE already.
        options |= {"reinit": "create_new", "mode": recipe.track.wandb.mode}
        accelerator.project_configuration.logging_dir = str(run)

        def start() -> None:
            accelerator.init_trackers(recipe.track.project, init_kwargs={"wandb": options})
            for tracker in accelerator.trackers:
                if tracker.name != "wandb":  # which would write it into the active run
                    tracker.store_init_configuration(config)

        self._try(start)

    def on_evaluate(self, context: TrainContext, evaluation: EvaluationResult) -> None:
        """Log the numbers of an evaluation."""
        if not self.active:
            return
        row = evaluation.row
        values = {k: v for k, v in flatten(row).items() if isinstance(v, int | float) and k != "step"}
        self._try(lambda: self.accelerator.log(values, step=int(row["step"])))

    def _try(self, function: Callable[[], None]) -> None:
        problem = with_timeout(function)
        if problem:
            self.active = False
            self.accelerator.trackers = []
            log.warning("trackers are turned off for the rest of the run: %s", problem)


def finish_trackers(accelerator: Accelerator) -> None:
    """Finish the trackers with a timeout, which Accelerate does not have."""
    for tracker in accelerator.trackers:
        problem = with_timeout(tracker.finish)
        if problem:
            log.warning("tracker %s did not finish: %s", tracker.name, problem)
    accelerator.trackers = []


def with_timeout(function: Callable[[], None]) -> str:
    """Call a function within ``TIMEOUT``; return its error as text, empty if there was none."""
    problem = [f"no response within {TIMEOUT:g} s"]

    def work() -> None:
        try:
            function()
            problem[0] = ""
        except Exception as error:  # whatever a tracker's client raises
            problem[0] = f"{type(error).__name__}: {error}"

    thread = threading.Thread(target=work, daemon=True, name="tracker")
    thread.start()
    thread.join(TIMEOUT)
    return problem[0]


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings: ``{"dev": {"loss": 1}}`` → ``{"dev/loss": 1}``.

    Args:
        value: The mapping; lists become text, and None is left out.
        prefix: The path of the mapping.
    """
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(inner, Mapping):
            flat |= flatten(inner, name)
        elif inner is not None:
            flat[name] = inner if isinstance(inner, int | float | str | bool) else str(inner)
    return flat
