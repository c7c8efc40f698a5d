"""The base class of the tables of a recipe that name no component."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ConfigTable(BaseModel):
    """A table of the recipe: unknown keys are errors, values are not coerced, and instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
