"""An optimizer step: its batches, their gradients over microbatches, clipping, and the update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from peftkit.components import StepStats
from peftkit.errors import RunError
from peftkit.models import BoundObjective
from peftkit.models.batches.collated_batch import CollatedBatch, keys_of, num_rows, with_tensors
from peftkit.models.batches.known_padding import KnownPadding
from peftkit.models.batches.padding import max_lengths
from peftkit.oom import is_oom, retry_with_half_batch
from peftkit.recipe import Recipe
from peftkit.train.steps.activation_offloading import ActivationOffloading
from peftkit.train.steps.compiled_layers import Gradients, make_compiled_layers
from peftkit.train.steps.embedding_gradients import added_embedding_gradients, applies
from peftkit.train.steps.fast_dropout import fast_dropout
from peftkit.train.steps.frozen_cache import FrozenCache
from peftkit.train.steps.gradient_cache import GradientCache
from peftkit.train.steps.parallel_strategies import Strategy

TEXTS = ("input_ids", "decoder_input_ids")
"""Tensors of a batch that hold the tokens the model reads."""
MICROBATCH_SEED = 2_147_483_629
"""The distance of the seeds of a step's microbatches, a prime."""


class StepInputs(NamedTuple):
    """The inputs of a step, as all processes agreed on them."""

    batches: list[dict[str, Tensor]]
    """The batches of this process, tensors of shape (rows, length), padded to the same lengths on all processes; or
    their parts, each padded to its own."""
    stats: StepStats
    """Rows and tokens over all processes; no time or compute yet."""
    interrupted: bool
    """Whether any process received a signal to stop."""


class TrainStep:
    """Prepares the batches of optimizer steps, computes their gradients and updates the parameters.

    Args:
        recipe: The recipe of the run.
        objective: The objective of the run.
        strategy: Holds the wrapped model, which the batches go through.
        profile_region: Returns a context manager around ``forward``, ``backward`` and ``optimizer``.
        splits: Whether batches come in parts of similar lengths, on one process. They are not padded any further.
    """

    def __init__(
        self,
        recipe: Recipe,
        objective: BoundObjective,
        strategy: Strategy,
        profile_region: Callable[[str], AbstractContextManager[Any]],
        *,
        splits: bool = False,
    ) -> None:
        self.recipe, self.objective, self.strategy, self.profile_region = recipe, objective, strategy, profile_region
        self.module, self.accelerator, self.splits = strategy.module, strategy.accelerator, splits
        self.microbatch_size = recipe.train.tokens_per_batch or recipe.train.batch_size
        """Maximum rows per forward pass, or tokens with ``train.tokens_per_batch``; reduced when memory runs out."""
        self.known_padding = KnownPadding()
        self.frozen_cache: FrozenCache | None = None
        """The outputs of frozen layers; None if they are not kept."""
        self.compiled = make_compiled_layers(recipe, self.module, self.accelerator.num_processes)
        """The compiled layers; None if the recipe does not ask for them."""
        self.microbatches: list[dict[str, Tensor]] = []
        """The microbatches of the last step."""
        compares = objective.component.compares_rows
        self.gradient_cache = GradientCache(objective, self.accelerator) if compares else None
        """Compares the rows of a step; None if the loss of a row depends on no other."""

    def agree_on_inputs(self, batches: list[CollatedBatch], *, interrupted: bool) -> StepInputs:
        """Pad the batches of all processes to common lengths, so that compute does not depend on their number.

        Several processes wait for each other and for their devices here; a single one does not wait.

        Args:
            batches: The batches of this process or their parts, tensors of shape (rows, length).
            interrupted: Whether this process received a signal to stop.
        """
        family = self.objective.family
        lengths = max_lengths(batches)
        counts = [batch.counts for batch in batches if batch.counts is not None]
        sums = [
            sum(each.targets for each in counts),
            sum(each.input_tokens for each in counts),
            sum(each.tokens for each in counts),
            sum(len(batch["input_ids"]) for batch in batches),
            sum(map(num_rows, batches)),
            int(interrupted),
        ]
        by_process = self._gather([*sums, *lengths.values()])
        targets, inputs, unpadded, texts, samples, signals = (sum(column) for column in by_process[: len(sums)])
        common = dict(zip(lengths, map(max, by_process[len(sums) :]), strict=True))
        padded = texts * (common["input_ids"] + common.get("decoder_input_ids", 0))
        if self.splits:
            padded = sum(each[key].numel() for each in batches for key in TEXTS if key in each)
        stats = StepStats(samples, inputs, targets, seconds=0.0, padding_tokens=padded - unpadded)
        inputs_of_step = [batch if self.splits else family.pad_to(batch, common) for batch in batches]
        return StepInputs(inputs_of_step, stats, bool(signals))

    def _gather(self, numbers: list[int]) -> list[tuple[int, ...]]:
        """Return each of these numbers from all processes."""
        if self.accelerator.num_processes == 1:
            return [(number,) for number in numbers]
        gathered = self.accelerator.gather(torch.tensor([numbers], device=self.accelerator.device)).tolist()
        return [*zip(*gathered, strict=True)]

    def accumulate(self, batches: list[dict[str, Tensor]], targets: int, step: int) -> Tensor:
        """Accumulate the gradients of a step, with smaller microbatches if memory runs out.

        Args:
            batches: The batches of this process, tensors of shape (rows, length), padded to the step's lengths.
            targets: The number of target tokens or labels, over all processes.
            step: The number of the step, from 1.

        Returns:
            The loss, summed over this process's targets, a scalar.

        Raises:
            RunError: Memory runs out with a single row, or in a run whose processes would wait for this one.
        """
        train = self.recipe.train
        if self.frozen_cache is not None:
            batches = [self.frozen_cache.attach(batch, keys_of(batch)) for batch in batches]
        if self.accelerator.num_processes > 1 or train.deepspeed.used:
            try:
                return self._accumulate(batches, targets, step)
            except RuntimeError as error:
                if not is_oom(error):
                    raise
                more = f"train.gradient_accumulation_steps = {2 * train.gradient_accumulation_steps}"
                size, remedy = f"train.tokens_per_batch = {train.tokens_per_batch}", f"set {more}"
                if train.tokens_per_batch is None:
                    size = f"train.batch_size = {train.batch_size}"
                    remedy = f"set train.batch_size = {max(1, train.batch_size // 2)} and {more}"
                raise RunError(
                    f"out of memory at step {step} with {size}; for the same steps with less memory, {remedy}"
                ) from error

        def attempt(microbatch_size: int) -> Tensor:
            if microbatch_size < self.microbatch_size:
                self.strategy.zero_grad()
                self.microbatch_size = microbatch_size
            return self._accumulate(batches, targets, step)

        return retry_with_half_batch(attempt, self.microbatch_size)

    def _accumulate(self, batches: list[dict[str, Tensor]], targets: int, step: int) -> Tensor:
        total_loss = torch.zeros((), device=self.accelerator.device)
        self.microbatches = self._with_statistics([part for batch in batches for part in self._microbatches(batch)])
        if self.compiled is not None:
            self.compiled.check(lambda: self._gradients_of(self.microbatches[0], targets, step))
        self._seed_dropout(step)
        if self.gradient_cache is not None:
            self.gradient_cache.fill(self.microbatches, partial(self._outputs, step=step))
        for number, microbatch in enumerate(self.microbatches, 1):
            if self.gradient_cache is not None:  # both passes of a microbatch have the same dropout
                self._seed_dropout(step, number - 1)
            compiled = nullcontext() if self.compiled is None else self.compiled.active()
            with compiled:
                last = number == len(self.microbatches)
                with self._storing(microbatch, step):
                    total_loss += self._backpropagate(microbatch, targets, last=last)
        return total_loss

    def _with_statistics(self, microbatches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Add the sums over the rows of all microbatches and processes that the losses depend on."""
        sums = self.objective.statistics(self.module, microbatches)
        if not sums:
            return microbatches
        sums = {name: self.accelerator.reduce(value, "sum") for name, value in sums.items()}
        return [with_tensors(microbatch, sums) for microbatch in microbatches]

    def _outputs(self, microbatch: dict[str, Tensor], number: int, *, step: int) -> Tensor:
        """Return the outputs of a microbatch that are compared, of shape (texts, features)."""
        self._seed_dropout(step, number)
        compiled = nullcontext() if self.compiled is None else self.compiled.active()
        dropout = fast_dropout() if self.recipe.train.fast_dropout else nullcontext()
        with compiled, dropout, self.profile_region("forward"), self.known_padding.for_batch(microbatch):
            return self.objective.outputs(self.strategy.model, microbatch)

    def _seed_dropout(self, step: int, microbatch: int = 0) -> None:
        """Seed dropout for a step, so that a resumed run repeats it."""
        seed = (self.recipe.run.seed * 1_000_003 + step) * 4099 + self.accelerator.process_index
        torch.manual_seed(seed + microbatch * MICROBATCH_SEED)

    def _gradients_of(self, microbatch: dict[str, Tensor], targets: int, step: int) -> tuple[Tensor, Gradients]:
        """Return the loss of a microbatch and its gradients, which are cleared."""
        self._seed_dropout(step)
        loss = self._backpropagate(microbatch, targets, last=True)
        gradients = [None if p.grad is None else p.grad.clone() for p in self.strategy.trained]
        self.strategy.zero_grad()
        return loss, gradients

    def _backpropagate(self, microbatch: dict[str, Tensor], targets: int, *, last: bool) -> Tensor:
        """Accumulate the gradients of a microbatch; return its loss, summed over its targets."""
        accelerator = self.accelerator
        dropout = fast_dropout() if self.recipe.train.fast_dropout else nullcontext()
        adds = applies(self.recipe.train, accelerator.device, accelerator.num_processes)
        embeddings = added_embedding_gradients() if adds else nullcontext()
        with self.strategy.microbatch_context(last=last), embeddings, dropout:
            with self.profile_region("forward"):
                offloads = self.recipe.train.activation_offloading
                offloading = ActivationOffloading(self.module) if offloads else nullcontext()
                with self.known_padding.for_batch(microbatch), offloading:
                    compute_loss = self.objective.loss if self.gradient_cache is None else self.gradient_cache.loss
                    summed_loss = compute_loss(self.strategy.model, microbatch)
                # Gradients are averaged over processes, so this is the mean over the targets of all processes.
                loss = summed_loss * accelerator.num_processes / targets
                auxiliary = self.recipe.method.auxiliary_loss(self.module, microbatch)
                if auxiliary is not None:  # usually a mean: weight microbatches by targets, as in the loss
                    weight = self.objective.num_targets(microbatch) * accelerator.num_processes / targets
                    loss = loss + auxiliary * weight
            with self.profile_region("backward"):
                self.strategy.backward(loss, last=last)
        return summed_loss.detach()

    @property
    def microbatches_to_count(self) -> list[dict[str, Tensor]]:
        """The microbatches of the last step, with what was computed for them beside their own passes."""
        if self.gradient_cache is None:
            return self.microbatches
        return self.gradient_cache.described(self.microbatches)

    def _storing(self, microbatch: dict[str, Tensor], step: int) -> AbstractContextManager[None]:
        """Return a context that stores what the frozen layers compute, if it is kept."""
        if self.frozen_cache is None:
            return nullcontext()
        return self.frozen_cache.storing(self.module, microbatch, keys_of(microbatch), step)

    def _microbatches(self, batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Split a batch into microbatches that fit the maximum."""
        size, tokens = self.microbatch_size, self.recipe.train.tokens_per_batch
        if tokens is not None:
            rows = num_rows(batch)
            positions = sum(batch[key].numel() for key in TEXTS if key in batch)
            size = rows if size >= tokens else max(1, size * rows // positions)
        return self.objective.microbatches(batch, size)

    def update(self, step: int) -> None:
        """Clip the gradients, take the optimizer's step, and clear the gradients.

        Args:
            step: The number of the step, from 1.

        Raises:
            RunError: No trained parameter has a gradient.
        """
        if step == 2:  # at step 1 one factor of a low-rank update is zero, and so is the gradient of the other
            self.strategy.check_gradients()
        with self.profile_region("optimizer"):
            self.recipe.method.after_backward(self.module, step)
            self.strategy.clip()
            self.recipe.method.before_step(self.module, step)
            self.strategy.step()
            self.recipe.method.after_step(self.module, step)
            self.strategy.zero_grad()
