"""The table ``[run]`` of a recipe: name, seeds and output folder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from peftkit.recipe.tables.config_table import ConfigTable


class RunConfig(ConfigTable):
    """The run's name, seeds and output folder."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """The prefix of the run directory's name."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Seed of dropout and of the training sample; the default of `init_seed` and `order_seed`."""
    init_seed: int | None = Field(default=None, ge=0, lt=2**32)
    """Seed of new weights: those of the method and of a new head. Defaults to `seed`."""
    order_seed: int | None = Field(default=None, ge=0, lt=2**32)
    """Seed of the order of the training rows. Defaults to `seed`."""
    resample_train: Literal["bootstrap", "subset"] | None = None
    """Draw the training rows by `seed`, the same for every method: `"bootstrap"` draws as many as there are, with
    replacement; `"subset"` draws a share of them without. Defaults to all rows."""
    subset_fraction: float | None = Field(default=None, gt=0, lt=1)
    """The share of the training rows that `resample_train = "subset"` draws. Defaults to 0.5."""
    output: str = Field(default="runs", min_length=1)
    """The folder of the run directories."""

    @property
    def effective_init_seed(self) -> int:
        """The seed of new weights."""
        return self.seed if self.init_seed is None else self.init_seed

    @property
    def effective_order_seed(self) -> int:
        """The seed of the order of the training rows."""
        return self.seed if self.order_seed is None else self.order_seed
