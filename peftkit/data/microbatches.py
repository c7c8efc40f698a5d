"""Splits the rows of a batch into microbatches of similar lengths, where that saves more padding than a pass costs."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn

from peftkit.components.types import Row
from peftkit.data.dataloader import TrainRows
from peftkit.models import BoundObjective
from peftkit.models.batches.collated_batch import CollatedBatch, with_tensors
from peftkit.models.batches.padding import padded_lengths
from peftkit.models.heads.logits_to_keep import find_output_layer
from peftkit.models.heads.token_losses import tolerance
from peftkit.recipe import Recipe

log = logging.getLogger(__name__)
MODULE_SECONDS = 5e-5
"""About what a module costs in a forward and backward pass, however short the texts are."""
UPDATE_SECONDS = 1.5e-9
"""About how long it takes to add a gradient to that of an earlier microbatch, per number."""
MACS_PER_SECOND = 2e10
"""About the multiply-accumulates that a CPU core computes per second."""


@dataclass(frozen=True)
class PassCosts:
    """What a pass costs, in tokens of the source."""

    overhead: float
    """The costs that do not depend on the tokens."""
    weights: Mapping[str, float]
    """The costs of a token of other sides, by the name of their tensor."""


@dataclass(frozen=True)
class BatchSplitter:
    """Collates the rows of a batch, in one or several parts of similar lengths.

    Args:
        objective: The objective.
        costs: What a pass costs; None to collate all rows together.
    """

    objective: BoundObjective
    costs: PassCosts | None = None

    def collate(self, rows: Sequence[Row]) -> list[CollatedBatch]:
        """Return the parts of a batch, each padded to its longest row; together they have all rows.

        Args:
            rows: The rows.
        """
        whole = self.objective.collate_and_count(rows)
        if self.costs is None:
            return [whole]
        groups = group_similar_lengths(self._shapes(whole, self.costs), self.costs.overhead)
        if len(groups) == 1:
            return [whole]
        return [self.objective.collate_and_count([rows[i] for i in group]) for group in groups]

    def _shapes(self, batch: CollatedBatch, costs: PassCosts) -> list[tuple[float, ...]]:
        """Return the number of texts of each row, and the cost of its longest text on each side."""
        sides = padded_lengths(batch, self.objective.family.pad_to_multiple_of)
        texts_per_row = [max(1, number) for number in batch.choices] or [1] * len(batch.lengths)
        texts = zip(
            *([costs.weights.get(key, 1.0) * n for n in lengths] for key, lengths in sides.items()), strict=True
        )
        rows = [[*islice(texts, number)] for number in texts_per_row]
        return [(len(row), *map(max, zip(*row, strict=True))) for row in rows]


def group_similar_lengths(shapes: Sequence[tuple[float, ...]], overhead: float) -> list[list[int]]:
    """Find the groups of rows that cost least, where a group costs an overhead and its padded lengths.

    Args:
        shapes: The number of texts of each row, followed by its lengths, one on each side.
        overhead: What a group costs beside its lengths.

    Returns:
        The indices of the rows of each group, in ascending order; the groups by their lengths.
    """
    order = sorted(range(len(shapes)), key=lambda i: (sum(shapes[i][1:]), shapes[i]))
    least, starts = [0.0], [0]
    for end in range(1, len(order) + 1):
        texts, longest, cost, first = 0.0, (0.0,) * (len(shapes[0]) - 1), math.inf, 0
        for start in reversed(range(end)):
            number, *lengths = shapes[order[start]]
            texts, longest = texts + number, tuple(map(max, longest, lengths))
            if (total := least[start] + overhead + texts * sum(longest)) <= cost:  # if equal, fewer groups
                cost, first = total, start
        least.append(cost)
        starts.append(first)
    groups, end = [], len(order)
    while end:
        groups.append(sorted(order[starts[end] : end]))
        end = starts[end]
    return groups[::-1]


def make_splitter(recipe: Recipe, objective: BoundObjective, model: nn.Module, processes: int) -> BatchSplitter:
    """Return the splitter of a run, for a model that a split does not change.

    Args:
        recipe: The recipe.
        objective: The objective.
        model: The model with the method applied; its weights are not read.
        processes: The number of processes; several of them must have as many microbatches each.
    """
    if not recipe.train.split_batches or _why_not(recipe, objective, processes):
        return BatchSplitter(objective)
    return BatchSplitter(objective, pass_costs(model, all_logits=objective.family.computes_all_logits(model)))


def _why_not(recipe: Recipe, objective: BoundObjective, processes: int) -> str:
    """Return why a recipe's batches cannot be split; empty if they can."""
    if processes > 1 or recipe.train.deepspeed.used or recipe.train.fsdp:
        return "all processes must have as many microbatches"
    if objective.component.compares_rows:
        return "the loss compares the rows of a step, so that each further microbatch would be computed twice"
    if recipe.model.quantization:
        return "the costs of quantized weights are not known"
    return recipe.method.microbatch_dependence


def pass_costs(model: nn.Module, *, all_logits: bool) -> PassCosts:
    """Estimate what a pass of a model costs on a CPU, from its modules and the sizes of its weights.

    Args:
        model: The model; its weights are not read.
        all_logits: Whether the logits of all positions are computed; those of targets cost as much in any split.
    """
    layer = find_output_layer(model)
    head = 0 if layer is None else sum(_matrix_sizes(layer))
    macs = max(1, sum(_matrix_sizes(model)) - head)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    is_encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    macs_per_token = macs / 2 if is_encoder_decoder else macs
    weights = {}
    if all_logits:
        weights["decoder_input_ids" if is_encoder_decoder else "input_ids"] = 1 + head / macs_per_token
    passes = 2 + min(1.0, trained / macs)
    overhead = MODULE_SECONDS * sum(1 for _ in model.modules()) + UPDATE_SECONDS * trained
    return PassCosts(overhead * MACS_PER_SECOND / (passes * macs_per_token), weights)


def _matrix_sizes(model: nn.Module) -> Iterator[int]:
    """Yield the sizes of the matrices that every token is multiplied with."""
    for module in model.modules():
        if not isinstance(module, nn.Embedding):
            yield from (p.numel() for p in module.parameters(recurse=False) if p.ndim > 1)


def exact_splitter(
    recipe: Recipe, objective: BoundObjective, model: nn.Module, accelerator: Accelerator, rows: TrainRows
) -> BatchSplitter:
    """Return the splitter of a run; it does not split where that would change the loss or the device is no CPU.

    Args:
        recipe: The recipe.
        objective: The objective.
        model: The model with the method applied.
        accelerator: The Accelerator of the run.
        rows: The training rows.
    """
    if not recipe.train.split_batches:
        return BatchSplitter(objective)
    reason = _why_not(recipe, objective, accelerator.num_processes)
    if accelerator.device.type != "cpu":
        reason = f"it is for CPUs, and the device is {accelerator.device.type}"
    if not reason and not _losses_add_up(objective, model, _shortest_and_longest_row(rows)):
        reason = "the losses of two rows do not add up to that of their batch"
    if reason:
        log.warning("train.split_batches has no effect: %s", reason)
        return BatchSplitter(objective)
    return make_splitter(recipe, objective, model, accelerator.num_processes)


def _shortest_and_longest_row(rows: TrainRows) -> list[Row]:
    if isinstance(rows, Dataset):
        lengths = rows["length"][:]
        return [rows[lengths.index(find(lengths))] for find in (min, max)]
    return [*islice(iter(rows), 2)]


def _losses_add_up(objective: BoundObjective, model: nn.Module, rows: Sequence[Row]) -> bool:
    """Whether rows have the same loss in separate batches as in one batch; dropout is off."""
    device = next(model.parameters()).device
    was_training = model.training

    def loss(part: Sequence[Row]) -> Any:
        return objective.loss(model, with_tensors(objective.collate_and_count(part).to(device), sums)).item()

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        model.eval()
        try:
            sums = objective.statistics(model, [objective.collate_and_count(rows).to(device)])
            together, apart = loss(rows), sum(loss([row]) for row in rows)
        finally:
            model.train(was_training)
    return math.isclose(together, apart, rel_tol=10 * tolerance(model, device), abs_tol=1e-5)
