"""Sends the curve to Accelerate's trackers. One that fails or hangs is dropped with a warning: it never ends a run."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from dotenv import dotenv_values

from peftkit.recipe import Recipe

log = logging.getLogger(__name__)
PATIENCE = 60.0
"""Seconds that a tracker may take for one thing."""


def trackers(recipe: Recipe) -> list[str]:
    """The names of the trackers that the recipe asks for, as Accelerate calls them.

    Reads wandb's variables from ``.env`` in the working folder, those that are set already apart, and sets
    ``WANDB_MODE``: without it wandb asks at a terminal for an account. ``WANDB_MODE=disabled`` is honoured.
    """
    wanted = []
    found = {key: value for key, value in dotenv_values(".env").items() if key.startswith("WANDB_") and value}
    os.environ.update({key: value for key, value in found.items() if value and key not in os.environ})
    if recipe.track.wandb != "off" and os.environ.get("WANDB_MODE") != "disabled":
        os.environ["WANDB_MODE"] = recipe.track.wandb
        os.environ.setdefault("WANDB_SILENT", "true")
        wanted.append("wandb")
    if recipe.track.tensorboard:
        wanted.append("tensorboard")
    return wanted


class Tracking:
    """The trackers of one run."""

    def __init__(self, accelerator: Accelerator, recipe: Recipe, run: Path) -> None:
        self.accelerator = accelerator
        self.active = bool(trackers(recipe))
        if not self.active:
            return
        config = flat(recipe.model_dump(mode="json"))
        tags = list(recipe.track.tags)
        options = {"wandb": {"name": run.name, "dir": str(run), "group": recipe.run.name, "tags": tags}}
        accelerator.project_configuration.logging_dir = str(run)
        self._try(lambda: accelerator.init_trackers(recipe.track.project, config=config, init_kwargs=options))

    def log(self, row: Mapping[str, Any]) -> None:
        """One evaluation's numbers."""
        if not self.active:
            return
        values = {k: v for k, v in flat(row).items() if isinstance(v, int | float) and k != "step"}
        self._try(lambda: self.accelerator.log(values, step=int(row["step"])))

    def _try(self, do: Callable[[], None]) -> None:
        problem = attempt(do)
        if problem:
            self.active = False
            self.accelerator.trackers = []
            log.warning("tracking is off from here on: %s", problem)


def finish(accelerator: Accelerator) -> None:
    """Ends the trackers, which may send what is left, before Accelerate would do so without a limit in time."""
    for tracker in accelerator.trackers:
        problem = attempt(tracker.finish)
        if problem:
            log.warning("the tracker %s has not ended: %s", tracker.name, problem)
    accelerator.trackers = []


def attempt(do: Callable[[], None]) -> str:
    """Does it within ``PATIENCE``; returns what went wrong, or nothing."""
    problem = [f"no answer within {PATIENCE:g} s"]

    def work() -> None:
        try:
            do()
            problem[0] = ""
        except Exception as error:  # whatever a tracker's client raises
            problem[0] = f"{type(error).__name__}: {error}"

    thread = threading.Thread(target=work, daemon=True, name="tracker")
    thread.start()
    thread.join(PATIENCE)
    return problem[0]


def flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """``{"dev": {"loss": 1}}`` → ``{"dev/loss": 1}``; lists become text, nothing is left out but None."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{above}/{key}" if above else str(key)
        if isinstance(inner, Mapping):
            found |= flat(inner, name)
        elif inner is not None:
            found[name] = inner if isinstance(inner, int | float | str | bool) else str(inner)
    return found
