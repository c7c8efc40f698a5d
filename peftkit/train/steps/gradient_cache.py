"""Losses that compare all rows of a step, over its microbatches and processes (GradCache, Gao et al., 2021).

The outputs of all microbatches are computed without gradients first, and their losses are compared. The gradients of
the outputs are then passed on through each microbatch, which is computed once more with gradients. A process with a
single microbatch computes it once. Gradients are those of one pass over all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from peftkit.models import BoundObjective
from peftkit.models.batches.collated_batch import CHOICES, choices_per_row
from peftkit.models.batches.in_batch_negatives import describe_step

ComputeOutputs = Callable[[dict[str, Tensor], int], Tensor]
"""Computes the outputs of a microbatch, given its number, of shape (texts, features)."""


class GradientCache:
    """The outputs of a step's rows, and the gradients of its loss with respect to them.

    Args:
        objective: The objective, which compares rows.
        accelerator: The Accelerator of the run.
    """

    def __init__(self, objective: BoundObjective, accelerator: Accelerator) -> None:
        self.objective, self.accelerator = objective, accelerator
        self._compared: list[tuple[Tensor, Tensor]] = []
        self._step: Mapping[str, Tensor] = {}
        self._first_row = 0

    def fill(self, microbatches: Sequence[dict[str, Tensor]], compute: ComputeOutputs) -> None:
        """Compute the outputs of microbatches without gradients, and compare them; nothing if there is only one.

        Args:
            microbatches: The microbatches of this process; their texts are tensors of shape (texts, length).
            compute: Computes the outputs of one. ``loss`` must find the same dropout.
        """
        self._compared.clear()
        if len(microbatches) > 1:
            with torch.no_grad():
                outputs = [compute(microbatch, number) for number, microbatch in enumerate(microbatches)]
            self._compared = self._compare(outputs, microbatches)

    def loss(self, model: nn.Module, microbatch: dict[str, Tensor]) -> Tensor:
        """Return a scalar with the gradient of the step's loss that goes through a microbatch.

        Its value is the loss of this process for the first microbatch, and 0 for the others.

        Args:
            model: The model, as it is wrapped for training.
            microbatch: The next microbatch; its texts are tensors of shape (texts, length).

        Returns:
            A scalar.
        """
        outputs = self.objective.outputs(model, microbatch)
        compared = self._compared or self._compare([outputs.detach()], [microbatch])
        loss, gradient = compared[0]
        self._compared = compared[1:]
        passed_on = (outputs * gradient).sum()
        return passed_on - passed_on.detach() + loss

    def described(self, microbatches: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Return the microbatches of the last step with what was computed for them, to be counted.

        Args:
            microbatches: The microbatches; their texts are tensors of shape (texts, length).
        """
        if len(microbatches) == 1 and self.accelerator.num_processes == 1:
            return [*microbatches]
        return describe_step(microbatches, self._step, self._first_row)

    def _compare(
        self, outputs: Sequence[Tensor], microbatches: Sequence[Mapping[str, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Compare the outputs of all processes.

        Args:
            outputs: Those of each microbatch of this process, of shape (texts, features).
            microbatches: The microbatches; their texts are tensors of shape (texts, length).

        Returns:
            For each microbatch, a part of the loss of this process, and the gradient of its outputs.
        """
        local = torch.cat([*outputs])
        labels = torch.cat([microbatch["labels"] for microbatch in microbatches])
        choices = [number for microbatch in microbatches for number in choices_per_row(microbatch)]
        everyone, first_text = self._gather(local, labels, choices)
        everyone.requires_grad_()
        rows = range(self._first_row, self._first_row + len(choices))
        component, context = self.objective.component, self.objective.context
        with torch.enable_grad():
            loss = component.loss_of_outputs(everyone, self._step, context, rows)
            (gradient,) = torch.autograd.grad(loss, everyone)
        # Each process compares its own rows with all others, so the outputs of a row have gradients on every process.
        gradient = self.accelerator.reduce(gradient, "sum")[first_text : first_text + len(local)]
        parts = gradient.split([len(each) for each in outputs])
        total, nothing = loss.detach(), torch.zeros_like(loss)
        return [(nothing if number else total, part) for number, part in enumerate(parts)]

    def _gather(self, local: Tensor, labels: Tensor, choices: list[int]) -> tuple[Tensor, int]:
        """Return the outputs of all processes, of shape (texts, features), and how many are before this process's."""
        if self.accelerator.num_processes == 1:
            self._step, self._first_row = {"labels": labels, CHOICES: torch.tensor(choices)}, 0
            return local.clone(), 0
        rank = self.accelerator.process_index
        gathered = gather_object([(labels.tolist(), choices, len(local))])
        texts = [number for _, _, number in gathered]
        every_choice = [number for _, each, _ in gathered for number in each]
        every_label = [label for each, _, _ in gathered for label in each]
        self._step = {
            "labels": torch.tensor(every_label, dtype=labels.dtype, device=labels.device),
            CHOICES: torch.tensor(every_choice),
        }
        self._first_row = sum(len(each) for _, each, _ in gathered[:rank])
        padded = local.new_zeros(max(texts), local.shape[1])
        padded[: len(local)] = local
        parts = self.accelerator.gather(padded).split(max(texts))
        everyone = torch.cat([part[:number] for part, number in zip(parts, texts, strict=True)])
        return everyone, sum(texts[:rank])
