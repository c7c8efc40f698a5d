"""What an optimizer step passes through the model, forward and backward, and in how many parts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from peftkit.errors import RunError
from peftkit.recipe import Recipe
from peftkit.runner.engines import Engine
from peftkit.runner.forms import Form
from peftkit.runner.memory import halving, ran_out


class Passes:
    """The passes of one step after the other."""

    def __init__(self, recipe: Recipe, model: nn.Module, form: Form, engine: Engine, accelerator: Accelerator) -> None:
        """``model`` is the bare one, which the recipe's method knows, and the engine's is what passes go through."""
        self.recipe, self.module, self.form = recipe, model, form
        self.engine, self.accelerator = engine, accelerator
        self.rows = recipe.train.batch_size
        """How many rows at most go through together; fewer from where memory ran out."""
        self.parts: list[dict[str, Tensor]] = []
        """What went through in the last step."""
        self.region: Callable[[str], AbstractContextManager[Any]] = lambda name: nullcontext()
        """What is entered around ``forward``, ``backward`` and ``optimizer``, for a profile."""

    def gradients(self, micro_batches: list[dict[str, Tensor]], targets: int, step: int) -> Tensor:
        """Adds up the gradients of a step, in smaller passes from where memory runs out; returns the summed loss.

        Args:
            micro_batches: this process's, padded to the step's lengths.
            targets: how many tokens or labels are learnt from, on all processes.
            step: its number, from 1.

        Raises:
            RunError: memory runs out with a single row, or where other processes wait for this one.
        """
        train = self.recipe.train
        if self.accelerator.num_processes > 1 or train.deepspeed.used:
            try:
                return self._made(micro_batches, targets, step)
            except RuntimeError as error:
                if not ran_out(error):
                    raise
                raise RunError(
                    f"out of memory at step {step} with train.batch_size = {train.batch_size}; with "
                    f"{max(1, train.batch_size // 2)}, and train.gradient_accumulation_steps = "
                    f"{2 * train.gradient_accumulation_steps}, a step is of the same rows"
                ) from error

        def attempt(rows: int) -> Tensor:
            if rows < self.rows:
                self.engine.zero_grad()
                self.rows = rows
            return self._made(micro_batches, targets, step)

        return halving(attempt, self.rows)

    def _made(self, micro_batches: list[dict[str, Tensor]], targets: int, step: int) -> Tensor:
        accelerator, seed = self.accelerator, self.recipe.run.seed
        # Dropout of a step depends on nothing that went before, so that a resumed run can repeat it.
        torch.manual_seed((seed * 1_000_003 + step) * 4099 + accelerator.process_index)
        loss = torch.zeros((), device=accelerator.device)
        parts = [part for batch in micro_batches for part in self.form.parts(batch, self.rows)]
        self.parts = parts
        for number, batch in enumerate(parts, 1):
            last = number == len(parts)
            with self.engine.passing(last=last):
                with self.region("forward"):
                    summed = self.form.loss(self.engine.model, batch)
                    # Processes' gradients are averaged: times their number over the global count is the mean of all.
                    trained = summed * accelerator.num_processes / targets
                    own = self.recipe.method.penalty(self.module, batch)
                    if own is not None:  # a mean as a rule: passes weigh in it as they do in the loss
                        trained = trained + own * (self.form.targets(batch) * accelerator.num_processes / targets)
                with self.region("backward"):
                    self.engine.backward(trained, last=last)
            loss += summed.detach()
        return loss
