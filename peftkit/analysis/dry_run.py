"""Run training steps of a recipe without evaluating or writing anything, to measure them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from peftkit.components import StepResult, StepStats, TrainContext
from peftkit.components.callback import TrainerCallback
from peftkit.data.cacheable_layers import with_frozen_layers
from peftkit.data.dataloader import effective_batch_size, first_batches
from peftkit.data.pipeline import PreparedData, prepare_data
from peftkit.distributed.accelerator import assert_same_weights, init_accelerator, shutdown
from peftkit.models.load_base_model import LoadedBase, apply_method, init_random_base
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.recipe.tables.train_config import BudgetConfig
from peftkit.train.budget import planned_steps_of_run
from peftkit.train.build_mac_counter import make_mac_counter
from peftkit.train.steps.parallel_strategies import accelerator_options
from peftkit.train.stop_signals import InterruptHandler
from peftkit.train.trainer import Trainer


class StepLog(TrainerCallback):
    """Keeps the statistics of every step."""

    def __init__(self) -> None:
        self.stats: list[StepStats] = []

    def on_step_end(self, context: TrainContext, step: StepResult) -> None:
        self.stats.append(step.stats)


@contextmanager
def dry_run(recipe: Recipe, registry: Registry, steps: int, callbacks: Sequence[TrainerCallback]) -> Iterator[Trainer]:
    """Set up the training of a recipe with random weights, which do not affect how long a step takes.

    Only the config, tokenizer and data are downloaded. Nothing is evaluated or written.

    Args:
        recipe: The recipe.
        registry: The installed components.
        steps: The number of steps, instead of the recipe's budget.
        callbacks: The callbacks, from the innermost to the outermost.

    Yields:
        The trainer, whose ``train`` takes the steps.

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
        data = prepare_data(recipe, base.objective, accelerator, only_train=True)
        model = apply_recipe_method(recipe, base, data, effective_batch_size(recipe, accelerator.num_processes))
        assert_same_weights(model)
        objective = with_frozen_layers(recipe, base.objective, model, data.train, processes=accelerator.num_processes)
        counter = make_mac_counter(recipe, objective, model, data.train)
        train = recipe.train.model_copy(update={"budget": BudgetConfig(steps=steps)})
        recipe = recipe.model_copy(update={"train": train})
        with InterruptHandler() as interrupts:
            trainer = Trainer(recipe, model, objective, data, accelerator, counter, callbacks, interrupts)
            yield trainer
    finally:
        if trainer is not None:
            trainer.release()
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
    steps = planned_steps_of_run(recipe, data, batch)
    return apply_method(
        recipe, base, steps, partial(first_batches, recipe, data.train, base.objective, base.model, batch)
    )
