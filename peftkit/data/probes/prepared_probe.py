"""Loads and tokenizes the rows of probes, by the objectives of their own tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from peftkit.components.types import SkippedRow
from peftkit.data.evaluation_sets import (
    check_truncated_targets,
    load_set_examples,
    skipped_rows_of,
    tokenize_evaluated,
    with_tokenizable_set,
)
from peftkit.data.row_hashes import digest_examples
from peftkit.data.tokenized_split import TokenizedSplit
from peftkit.models import BoundObjective
from peftkit.models.load_base_model import bind_objective
from peftkit.recipe import Recipe
from peftkit.recipe.probes.probe_tasks import RecipeProbe


@dataclass(frozen=True)
class PreparedProbe:
    """The rows of a probe, and how a model is measured on them."""

    probe: RecipeProbe
    objective: BoundObjective
    """The objective of the probe's task, which may differ from the one that is trained."""
    curve: TokenizedSplit
    """The rows for evaluations along the curve."""
    whole: TokenizedSplit
    """The rows for the base model and the selected checkpoint."""
    size: int
    """The number of rows that the data have."""

    @property
    def name(self) -> str:
        """The name of the probe."""
        return self.probe.name

    @property
    def recipe(self) -> Recipe:
        """The recipe by which the rows are evaluated."""
        return self.probe.recipe

    @property
    def digest(self) -> str:
        """Digest of the whole rows."""
        return digest_examples(self.whole.examples)

    @property
    def truncated(self) -> dict[str, int]:
        """Number of truncated ``sources`` and ``targets``."""
        return self.whole.statistics.count_truncated(self.objective.family)

    def skipped_rows(self) -> Iterator[SkippedRow]:
        """Yields the invalid rows that were left out, under the name of the probe."""
        return (replace(row, split=self.name) for row in skipped_rows_of(self.probe.task))


def prepare_probes(recipe: Recipe, objective: BoundObjective) -> tuple[PreparedProbe, ...]:
    """Loads and tokenizes the rows of a recipe's probes.

    Args:
        recipe: The recipe.
        objective: The objective of the run, with the model family.

    Raises:
        InputError: A row is invalid, or a target is too long.
        RunError: A probe has no rows.
    """
    return tuple(_prepare(probe, objective, f"probe[{index}]") for index, probe in enumerate(recipe.probes))


def _prepare(probe: RecipeProbe, trained: BoundObjective, key: str) -> PreparedProbe:
    family, context = trained.family, trained.context
    objective = bind_objective(probe.recipe, context.model_kind, family.config, context.tokenizer)
    objective = objective.with_task(probe.task.task)
    version = with_tokenizable_set(objective, probe.task)
    examples = load_set_examples(version, version.task)
    locate = partial(version.task.describe_row, version.split)
    splits = tokenize_evaluated(probe.recipe, objective, probe.name, examples, version.examples, locate)
    check_truncated_targets(probe.recipe, objective.family, {probe.name: splits[1].statistics}, key)
    return PreparedProbe(replace(probe, task=version), objective, *splits, len(examples))
