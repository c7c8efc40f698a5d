"""The tables ``[evaluate]`` and ``[[evaluate.set]]`` of a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from peftkit.recipe.tables.config_table import ConfigTable
from peftkit.recipe.tables.generation import GenerationKeys
from peftkit.recipe.tables.intervals import parse_interval


class EvaluationSet(ConfigTable):
    """Rows that are evaluated beside dev and test, and select neither the checkpoint nor settings."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,49}$")
    """The name of the set in results, such as `mismatched`."""
    split: str | None = None
    """The split to evaluate, by its name in the data. Defaults to test, or to all rows of a file."""
    path: str | None = None
    """A file, a folder or a hub dataset with the columns of the task. Defaults to the task's data."""
    task: dict[str, Any] = Field(default_factory=dict)
    """Options in which the task of the set differs from the recipe's; with `name`, another task of the same kind."""
    examples: int | None = Field(default=None, gt=0)
    """Rows evaluated along the curve, sampled like those of test. Defaults to all."""
    at_end_only: bool = False
    """Evaluate only the selected checkpoint, at the end, instead of along the curve."""

    @model_validator(mode="after")
    def _check_data(self) -> EvaluationSet:
        if self.split is None and self.path is None and not self.task:
            raise PydanticCustomError("no_data", "needs a split, a path or a task whose rows are evaluated")
        if self.path is not None and "path" in self.task:
            raise PydanticCustomError("two_paths", "has two paths, path and task.path; keep one")
        return self


class EvaluateConfig(GenerationKeys):
    """Evaluation during and after training."""

    every: str = "10%"
    """`"100 steps"`, `"0.5 epochs"`, a share of the budget such as `"10%"`, or `"20 log"`: 20 evaluations, evenly
    spaced on a logarithmic scale from a thousandth of the budget to all of it."""
    at_start: bool = True
    """Also evaluate before training."""
    batch_size: int = Field(default=32, gt=0)
    """Examples per process and batch."""
    train_examples: int = Field(default=256, ge=0)
    """Training rows evaluated along the curve, the same for every seed without `run.resample_train`; 0 for none."""
    dev_examples: int | None = Field(default=None, gt=0)
    """Dev rows evaluated along the curve, which select the checkpoint: a sample stratified by answer, the same for
    every seed. Defaults to all."""
    test_examples: int | None = Field(default=None, gt=0)
    """Test rows evaluated along the curve, sampled like dev rows. Defaults to all."""
    full_splits: bool = True
    """Evaluate the selected checkpoint once on all dev and test rows, where `dev_examples` or `test_examples` limits
    the evaluations along the curve; false reports its scores on these rows, which is faster and less certain."""
    selection_metric: str | None = None
    """The value whose best dev score selects the checkpoint: `"loss"` or a metric's value; defaults to the task's."""
    scoring: Literal["sum", "norm"] = "sum"
    """Rank candidates by the sum of their token log-likelihoods, or by the mean per token (`"norm"`)."""
    candidate_end: bool = True
    """Whether a candidate's log-likelihood includes the end of text; it does not in lm-evaluation-harness (`false`)."""
    set: tuple[EvaluationSet, ...] = ()
    """Further sets of rows to evaluate, each under `[[evaluate.set]]`."""

    @field_validator("every")
    @classmethod
    def _check_interval(cls, value: str) -> str:
        parse_interval(value)
        return value
