"""An objective together with what its methods are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.components import Example, Objective, Task
from peftkit.components.family_services import ReferenceModel
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import Row
from peftkit.models.batches.collated_batch import CHOICES, BatchCounts, CollatedBatch, with_tensors
from peftkit.models.batches.in_batch_negatives import STEP_CHOICES, STEP_LABELS, STEP_ROWS, TWO_PASSES
from peftkit.models.batches.padding import split_batch
from peftkit.models.family import ModelFamily
from peftkit.models.frozen_outputs import FROZEN_OUTPUTS, FrozenLayers, identify_texts
from peftkit.models.reference_model import evaluation_mode
from peftkit.recipe.model_names import has_encoder_class


def transformers_class(objective: Objective, task: Task, family: type[ModelFamily], config: Mapping[str, Any]) -> str:
    """Return the name of the transformers class that loads a model for an objective.

    Args:
        objective: the objective.
        task: its task.
        family: the model's family.
        config: the model's ``config.json``.
    """
    head = objective.head(task)
    if head is None:
        return family.auto_class
    return "AutoModelForTextEncoding" if objective.encodes_texts and has_encoder_class(config) else head.auto_class


@dataclass(frozen=True)
class BoundObjective:
    """The objective of a run, with the family of its model.

    Attributes:
        component: the objective.
        family: the model family, with tokenizer and config.
        context: what the objective's methods are given.
        auto_class: name of the transformers class that loads the model.
        frozen: the frozen layers whose outputs batches may have; None if no batch has any.
        calibration: what the objective chose by dev, which predictions depend on; empty if nothing.
    """

    component: Objective
    family: ModelFamily
    context: ObjectiveContext
    auto_class: str
    frozen: FrozenLayers | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def task(self) -> Task:
        """The task."""
        return self.context.task

    def with_task(self, task: Task) -> BoundObjective:
        """Return the same objective for another version of the task."""
        return replace(self, context=replace(self.context, task=task))

    def with_calibration(self, calibration: Mapping[str, Any]) -> BoundObjective:
        """Return the same objective, whose predictions depend on what was chosen by dev."""
        return replace(self, calibration=calibration)

    def at_step(self, step: int) -> BoundObjective:
        """Return the same objective for a model after some optimizer steps, which samples depend on."""
        return replace(self, context=replace(self.context, step=step))

    def with_reference(self, reference: ReferenceModel) -> BoundObjective:
        """Return the same objective, which compares with a base model."""
        return replace(self, context=replace(self.context, reference_model=reference))

    @property
    def has_statistics(self) -> bool:
        """Whether the loss of a row depends on sums over all rows of a step."""
        return type(self.component).batch_statistics is not Objective.batch_statistics

    def statistics(self, model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the sums that losses depend on, without gradients and dropout.

        Args:
            model: the model, unwrapped.
            batches: the batches to sum over; their texts are tensors of shape (texts, length).

        Returns:
            Scalars, tensors of shape (), by name; none if the losses depend on none.
        """
        if not self.has_statistics:
            return {}
        with evaluation_mode(model):
            parts = [self.component.batch_statistics(model, batch, self.context) for batch in batches]
        return {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}

    def with_statistics(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a batch with its own sums, as if it had all rows of a step.

        Args:
            model: the model, unwrapped.
            batch: the batch; its texts are tensors of shape (texts, length).

        Returns:
            The batch, whose texts have the shape (texts, length).
        """
        return with_tensors(batch, self.statistics(model, [batch])) if self.has_statistics else batch

    def tokenize(self, examples: Sequence[Example], *, training: bool) -> Sequence[Row]:
        """Tokenize examples.

        Args:
            examples: the examples.
            training: whether the rows are trained on, instead of evaluated.

        Raises:
            RowError: an example is not valid or does not fit the length limits.
        """
        return self.component.tokenize(examples, self.context, training=training)

    def collate(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Build the padded tensors of a training batch."""
        return self.component.collate(rows, self.context)

    def collate_and_count(self, rows: Sequence[Row]) -> CollatedBatch:
        """Build the padded tensors of a training batch, and count what is in them while they are on the host."""
        batch = self.collate(rows)
        counts = BatchCounts(
            targets=int(self.num_targets(batch)),
            input_tokens=int(batch["input_tokens"]),
            tokens=int(self.family.num_tokens(batch)),
        )
        choices = batch[CHOICES].tolist() if CHOICES in batch else []
        text_keys = identify_texts(batch) if self.frozen is not None else ()
        return CollatedBatch(batch, batch["attention_mask"].sum(-1).tolist(), choices, counts, text_keys)

    def microbatches(self, batch: Mapping[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
        """Split a batch into microbatches whose losses add up to the loss of the whole.

        Args:
            batch: a collated batch; its tensors have shape (rows, …) or (texts, …), or are scalars.
            size: maximum number of rows of a microbatch.

        Returns:
            The microbatches, with tensors of shape (at most size, …) or (their texts, …).
        """
        return split_batch(batch, size)

    def num_targets(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the number of targets that the loss of a batch is summed over; a scalar."""
        return self.component.num_targets(batch, self.context)

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss, summed over the targets of a batch.

        Args:
            model: the model.
            batch: a collated batch; its texts are tensors of shape (rows, length). Frozen layers whose outputs it has
                are not computed.

        Returns:
            A scalar.
        """
        if self.frozen is not None and FROZEN_OUTPUTS in batch:
            return self.frozen.loss_from_outputs(self.loss, model, batch)
        return self.component.loss(model, batch, self.context)

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return what the loss of an objective compares that compares rows.

        Args:
            model: the model.
            batch: a collated batch; its texts are tensors of shape (texts, length).

        Returns:
            The outputs, of shape (texts, width).
        """
        if self.frozen is not None and FROZEN_OUTPUTS in batch:
            return self.frozen.loss_from_outputs(self.outputs, model, batch)
        return self.component.outputs(model, batch, self.context)

    def loss_to_count(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Compute everything that a step computes for a microbatch, so that it can be counted.

        Args:
            model: the model.
            batch: a microbatch, with what ``describe_step`` adds if rows are compared with those of other microbatches
                or processes; its texts are tensors of shape (texts, length).

        Returns:
            The loss, or another scalar that depends on as much.
        """
        if not self.component.compares_rows or not ({TWO_PASSES, STEP_ROWS} & batch.keys()):
            return self.loss(model, batch)
        if TWO_PASSES in batch:
            with torch.no_grad():
                self.outputs(model, batch)
        outputs = self.outputs(model, batch)
        loss = (outputs * torch.zeros_like(outputs)).sum()
        if STEP_ROWS in batch:
            step = {"labels": batch[STEP_LABELS], CHOICES: batch[STEP_CHOICES]}
            everyone = outputs.new_zeros(int(batch[STEP_CHOICES].sum()), outputs.shape[1]).requires_grad_()
            first, number = batch[STEP_ROWS].tolist()
            loss = loss + self.component.loss_of_outputs(everyone, step, self.context, range(first, first + number))
        return loss

    def for_evaluation(self, device: torch.device) -> ObjectiveContext:
        """Return the context of a new evaluation on a device."""
        return self.context.for_evaluation(device)
