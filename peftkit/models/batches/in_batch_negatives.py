"""What microbatches of a step need to be counted, if its rows are compared with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from peftkit.models.batches.collated_batch import CHOICES, num_rows, with_tensors

STEP_LABELS = "step_labels"
"""Key of a batch: the labels of all rows of the step, of shape (rows,) or (texts,)."""
STEP_CHOICES = "step_choices"
"""Key of a batch: how many texts each row of the step has, of shape (rows,)."""
STEP_ROWS = "step_rows"
"""Key of a batch: the first row of the process in the step, and the number of its rows."""
TWO_PASSES = "two_passes"
"""Key of a batch: there are several microbatches, so that each is computed without gradients first. A scalar."""


def describe_step(
    microbatches: Sequence[dict[str, Tensor]], step: Mapping[str, Tensor], first_row: int
) -> list[dict[str, Tensor]]:
    """Return the microbatches of a process with what is computed for them beside their own passes.

    Args:
        microbatches: The microbatches; their texts are tensors of shape (texts, length).
        step: The ``labels`` and ``choices`` of all rows of the step, of shape (rows,) or (texts,).
        first_row: The first row of the process in the step.

    Returns:
        The microbatches, with texts of shape (texts, length); the first one has what the comparison needs.
    """
    device = microbatches[0]["input_ids"].device
    passes = {TWO_PASSES: torch.ones((), device=device)} if len(microbatches) > 1 else {}
    rows = torch.tensor([first_row, sum(map(num_rows, microbatches))])
    comparison = {STEP_LABELS: step["labels"], STEP_CHOICES: step[CHOICES], STEP_ROWS: rows}
    return [
        with_tensors(each, {**passes, **({} if number else comparison)}) for number, each in enumerate(microbatches)
    ]


def describe_processes(microbatches: Sequence[dict[str, Tensor]], processes: int) -> list[dict[str, Tensor]]:
    """Return the microbatches of all processes as ``describe_step`` returns them for each.

    Args:
        microbatches: The microbatches of a step, those of a process at equal distances; their texts are tensors of
            shape (texts, length).
        processes: The number of processes.

    Returns:
        The microbatches, with texts of shape (texts, length), in the order of the processes.
    """
    groups = [microbatches[rank::processes] for rank in range(processes)]
    ordered = [each for group in groups for each in group]
    step = {key: torch.cat([each[key] for each in ordered]) for key in ("labels", CHOICES)}
    described, first_row = list[dict[str, Tensor]](), 0
    for group in groups:
        described += describe_step(group, step, first_row)
        first_row += sum(map(num_rows, group))
    return described
