"""Run training steps of a recipe without evaluating or writing anything, to measure them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from pydantic import PrivateAttr

from peftkit.components import Meter, StepStats
from peftkit.data.dataloader import effective_batch_size, first_batches
from peftkit.data.pipeline import PreparedData, prepare_data
from peftkit.distributed.accelerator import assert_same_weights, init_accelerator, shutdown
from peftkit.models.load import LoadedBase, apply_method, init_random_base
from peftkit.monitor.console import ConsoleLogger
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.train.budget import planned_steps
from peftkit.train.stop_signals import InterruptHandler
from peftkit.train.strategies import accelerator_options
from peftkit.train.trainer import Trainer


class StepLog(Meter):
    """Keep the statistics of every step."""

    name: Literal["records"] = "records"

    _records: list[StepStats] = PrivateAttr(default_factory=list)

    def update(self, stats: StepStats) -> None:
        """Append the statistics of a step."""
        self._records.append(stats)

    def totals(self) -> dict[str, float]:
        """Return no totals."""
        return {}

    @property
    def records(self) -> list[StepStats]:
        """The statistics of all steps so far."""
        return self._records


@dataclass(frozen=True)
class DryRun:
    """A run before its first step, with random weights, which do not affect how long a step takes."""

    trainer: Trainer
    records: list[StepStats] = field(default_factory=list)
    """The statistics of all steps so far."""

    def run(self, number: int) -> list[StepStats]:
        """Run optimizer steps.

        Args:
            number: How many.

        Returns:
            Their statistics.
        """
        before = len(self.records)
        self.trainer.run_steps(number)
        return self.records[before:]


@contextmanager
def dry_run(recipe: Recipe, registry: Registry) -> Iterator[DryRun]:
    """Set up training of a recipe; only the config, tokenizer and data are downloaded.

    Args:
        recipe: The recipe.
        registry: The installed components.

    Yields:
        The dry run.

    Raises:
        RunError: The processes, config or data are not usable for training.
        InputError: A row is invalid.
    """
    quiet_libraries("warning")
    recipe = recipe.model_copy(update={"track": recipe.track.model_copy(update={"to": ()})})
    accelerator = init_accelerator(accelerator_options(recipe, registry))
    trainer: Trainer | None = None
    try:
        base = init_random_base(recipe, accelerator.device)
        data = prepare_data(recipe, base.family, accelerator, only_train=True)
        model = apply_recipe_method(recipe, base, data, effective_batch_size(recipe, accelerator.num_processes))
        assert_same_weights(model)
        log, display = StepLog(), ConsoleLogger(recipe, quiet=True)
        with InterruptHandler() as signals:
            trainer = Trainer(recipe, model, base.family, data, (log,), accelerator, None, display, signals)
            yield DryRun(trainer, log.records)
    finally:
        if trainer is not None:
            trainer.strategy.release()
        shutdown(accelerator)


def apply_recipe_method(recipe: Recipe, base: LoadedBase, data: PreparedData, batch: int) -> Any:
    """Apply the recipe's method to the base model, as a run would.

    Args:
        recipe: The recipe.
        base: The base model, which is modified in place.
        data: The training rows.
        batch: Rows per step.

    Returns:
        The model to train.
    """
    steps = planned_steps(recipe.train.budget, effective_batch=batch, steps_per_epoch=data.steps_per_epoch(batch))
    return apply_method(recipe, base, steps, partial(first_batches, recipe, data.train, base.family, base.model, batch))
