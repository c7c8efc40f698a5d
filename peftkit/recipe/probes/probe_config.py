"""The table of a probe."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from peftkit.recipe.tables.config_table import ConfigTable


class ProbeConfig(ConfigTable):
    """Rows of another task that show what the model forgets: the base model is measured on them too."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,49}$")
    """The name of the probe in results, such as `wikitext`."""
    split: str | None = None
    """The split to evaluate, by its name in the data. Defaults to test, or to all rows of a file."""
    path: str | None = None
    """A file, a folder or a hub dataset with the rows of the probe."""
    task: dict[str, Any] = Field(default_factory=dict)
    """The task of the probe with its options, of any kind that the model can do without a new head; `plain_text` if it
    has no `name`."""
    metric: str | None = None
    """The value by which forgetting is measured: `"loss"` or a metric's value. Defaults to the one by which the task
    selects, such as `bits_per_byte` or `accuracy`."""
    examples: int | None = Field(default=None, gt=0)
    """Rows evaluated along the curve, a sample that is the same for every seed and method. Defaults to all."""
    max_source_length: int | None = Field(default=None, gt=0)
    """The largest number of tokens of a source, or of a block of a text. Defaults to `train.max_source_length`."""
    max_target_length: int | None = Field(default=None, gt=0)
    """The largest number of tokens of a target. Defaults to `train.max_target_length`."""

    @model_validator(mode="after")
    def _check_data(self) -> ProbeConfig:
        if self.path is None and not self.task:
            raise PydanticCustomError("no_data", "needs a path or a task whose rows are evaluated")
        if self.path is not None and "path" in self.task:
            raise PydanticCustomError("two_paths", "has two paths, path and task.path; keep one")
        return self
