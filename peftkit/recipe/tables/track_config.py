"""The table ``[track]`` of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from peftkit.file_formats import DEFAULT_TRACKERS
from peftkit.recipe.tables.config_table import ConfigTable


class WandbConfig(ConfigTable):
    """Options of W&B."""

    mode: Literal["online", "offline"] = "offline"
    """offline writes into the run directory and needs no account."""


class TrackConfig(ConfigTable):
    """Experiment trackers that get the evaluations, besides the run directory."""

    to: tuple[Literal["wandb", "tensorboard"], ...] = DEFAULT_TRACKERS
    """The trackers; TensorBoard's event files are written into the run directory. `[]` for none."""
    project: str = Field(default="peftkit", min_length=1)
    """The project in the tracker."""
    tags: tuple[str, ...] = ()
    """Tags of the run in W&B."""
    wandb: WandbConfig = WandbConfig()
    """Options of W&B."""
