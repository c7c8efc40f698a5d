"""Makes the MAC counter of a run from its recipe, objective and optimizer.

``macs.mac_counter`` does the counting, and ``meters.macs`` adds up the counts of all steps.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from peftkit.data.count_cache import count_cache
from peftkit.data.dataloader import TrainRows, shortest_and_longest_batch
from peftkit.macs.interpolated_counts import StepMacs
from peftkit.macs.mac_counter import MacCounter
from peftkit.models import BoundObjective
from peftkit.oom import is_oom
from peftkit.recipe import Recipe
from peftkit.train.optimizer import make_optimizer


class StepCounter(Protocol):
    """What the trainer needs of a MAC counter."""

    seconds: float
    """Seconds spent counting."""

    @property
    def optimizer_elementwise(self) -> int:
        """Operations of an optimizer update."""

    def count(self, batch: dict[str, Tensor]) -> StepMacs:
        """Count the passes of a microbatch, tensors of shape (rows, length)."""


def make_mac_counter(recipe: Recipe, objective: BoundObjective, model: nn.Module, rows: TrainRows) -> MacCounter:
    """Create the MAC counter of a run.

    The shortest and the longest batch are counted right away, because most lengths between two counts can be
    interpolated.

    Args:
        recipe: The recipe of the run.
        objective: The objective of the run.
        model: The model to count on: the trained one, or one with the same matrix products.
        rows: The training rows.
    """
    counter = create_mac_counter(recipe, objective, model, count_cache(recipe, objective, model))
    count_extremes(counter, shortest_and_longest_batch(recipe, rows, objective))
    return counter


def create_mac_counter(
    recipe: Recipe,
    objective: BoundObjective,
    model: nn.Module,
    known: MutableMapping[str, list[int]],
    *,
    optimizer: bool = True,
) -> MacCounter:
    """Create a MAC counter that has counted nothing but the optimizer's step.

    Args:
        recipe: The recipe of the run.
        objective: The objective of the run.
        model: The model to count on.
        known: Counts of an equal model, by name; new ones are added.
        optimizer: Whether to count the optimizer's step.
    """

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        # Steps compute sums over their rows in further passes, which are counted here.
        task_loss = objective.loss_to_count(model, objective.with_statistics(model, batch))
        # After the forward pass, because the auxiliary loss may use what the pass left in the model.
        auxiliary = recipe.method.auxiliary_loss(model, batch)
        return task_loss if auxiliary is None else task_loss + auxiliary

    has_all_weights = not (recipe.train.deepspeed.used or recipe.train.fsdp or recipe.model.quantization)
    make = partial(make_optimizer, recipe) if optimizer else None
    return MacCounter(model, loss, make, has_all_weights=has_all_weights, known=known)


def count_extremes(counter: MacCounter, batches: Iterable[dict[str, Tensor]]) -> None:
    """Count the batches with the shortest and the longest rows.

    Args:
        counter: The counter.
        batches: The batches, with tensors of shape (batch size, length).
    """
    for batch in batches:
        try:
            counter.count(batch)
        except RuntimeError as error:
            # On the model itself memory may run out. Training will then use smaller batches, which are counted there.
            if not is_oom(error):
                raise
