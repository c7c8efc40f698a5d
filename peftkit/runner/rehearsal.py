"""Steps of a recipe that are neither evaluated nor written: for what can be measured of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from pydantic import PrivateAttr

from peftkit.components import Meter, StepRecord
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.runner.batches import effective_batch, first_batches
from peftkit.runner.budget import planned_steps
from peftkit.runner.console import Display
from peftkit.runner.data import Data, prepare
from peftkit.runner.models import Base, apply_method, blank_base
from peftkit.runner.signals import Signals
from peftkit.runner.training import Training
from peftkit.runner.world import close_world, open_world, quiet_libraries, same_weights


class Records(Meter):
    """Keeps the record of every step."""

    name: Literal["records"] = "records"

    _records: list[StepRecord] = PrivateAttr(default_factory=list)

    def step(self, record: StepRecord) -> None:
        """Keeps it."""
        self._records.append(record)

    def read(self) -> dict[str, float]:
        """Nothing."""
        return {}

    @property
    def records(self) -> list[StepRecord]:
        """All so far, as they came."""
        return self._records


@dataclass(frozen=True)
class Rehearsal:
    """A run before its first step, with weights of chance: how long a step takes does not depend on them."""

    training: Training
    records: list[StepRecord] = field(default_factory=list)

    def steps(self, number: int) -> list[StepRecord]:
        """Makes so many optimizer steps, and returns their records."""
        before = len(self.records)
        self.training.practise(number)
        return self.records[before:]


@contextmanager
def rehearsal(recipe: Recipe, registry: Registry) -> Iterator[Rehearsal]:
    """Sets up what a run of the recipe would train; nothing is downloaded but config, tokenizer and data.

    Raises:
        RunError: the processes, the config or the data are not what training needs.
        InputError: a row of the data is wrong.
    """
    quiet_libraries("warning")
    recipe = recipe.model_copy(update={"track": recipe.track.model_copy(update={"wandb": "off", "tensorboard": False})})
    accelerator = open_world(recipe, registry)
    training: Training | None = None
    try:
        base = blank_base(recipe, accelerator.device)
        data = prepare(recipe, base.form, accelerator, only_train=True)
        model = applied(recipe, base, data, effective_batch(recipe, accelerator.num_processes))
        same_weights(model)
        kept, display = Records(), Display(recipe, main=False)
        with Signals() as signals:
            training = Training(recipe, model, base.form, data, (kept,), accelerator, None, display, signals)
            yield Rehearsal(training, kept.records)
    finally:
        if training is not None:
            training.engine.release()
        close_world(accelerator)


def applied(recipe: Recipe, base: Base, data: Data, batch: int) -> Any:
    """The base model with the recipe's method, as a run would have it."""
    steps = planned_steps(recipe.train.budget, effective_batch=batch, steps_per_epoch=data.steps_per_epoch(batch))
    return apply_method(recipe, base, steps, partial(first_batches, recipe, data.train, base.form, base.model, batch))
