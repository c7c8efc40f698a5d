"""Counts the steps of a run in its order without running them, on a model without the recipe's weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, count, islice, pairwise
from typing import NamedTuple, TypeVar

import torch
from datasets import Dataset
from torch import Tensor, nn

from peftkit.analysis.dry_run import apply_recipe_method
from peftkit.components.types import Row
from peftkit.data.cacheable_layers import with_frozen_layers
from peftkit.data.dataloader import StreamingRows, TrainRows, row_order
from peftkit.data.microbatches import BatchSplitter
from peftkit.data.pipeline import PreparedData, prepare_data
from peftkit.data.token_batches import divide_rows
from peftkit.distributed.accelerator import make_accelerator, shutdown
from peftkit.errors import InputError
from peftkit.macs.interpolated_counts import StepMacs
from peftkit.macs.mac_counter import MacCounter
from peftkit.macs.shadow_models import VALUE_ERRORS
from peftkit.models import BoundObjective
from peftkit.models.batches.collated_batch import CollatedBatch, with_tensors
from peftkit.models.batches.in_batch_negatives import describe_processes
from peftkit.models.batches.padding import max_lengths
from peftkit.models.frozen_outputs import FROZEN_OUTPUTS
from peftkit.models.load_base_model import init_random_base
from peftkit.recipe import Recipe
from peftkit.train.budget import Progress, budget_used
from peftkit.train.build_mac_counter import make_mac_counter

Microbatch = dict[str, Tensor]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Result = TypeVar("Result")
COUNTED_EPOCHS = 3
"""Epochs that are counted step by step; steps of later epochs are assumed to cost the same on average."""
MIN_STEPS, MAX_STEPS = 2000, 10_000
"""Minimum and maximum number of steps that are counted one by one."""
SAMPLE_ROWS = 10_000
"""Training rows that are fetched from a hub data set that has not been downloaded."""
MAX_RANDOM_PARAMETERS = 1_000_000_000
"""The largest model, in parameters, that is filled with random weights for a method that needs weights."""
BATCHES_READ = 64
"""Batches whose rows are read at a time."""


class ScheduledStep(NamedTuple):
    """A step of a run, whatever its method is."""

    completed_epochs: int
    samples: int
    input_tokens: int
    target_tokens: int
    shapes: tuple[int, ...]
    """The shape of each of its microbatches, as an index of the schedule's ``microbatches``."""


class StepSchedule:
    """The steps of a run in their order, read as far as they are asked for, and kept without their rows.

    Args:
        recipe: The recipe.
        rows: Its training rows.
        splitter: Collates its batches.
        batch: Rows per step.
    """

    def __init__(self, recipe: Recipe, rows: TrainRows, splitter: BatchSplitter, batch: int) -> None:
        self.microbatches: list[Microbatch] = []
        """The first microbatch of each shape."""
        self._objective = splitter.objective
        self._source = _microbatches_by_step(recipe, rows, splitter, batch)
        self._steps: list[ScheduledStep] = []
        self._indices: dict[Shapes, int] = {}

    def __iter__(self) -> Iterator[ScheduledStep]:
        for index in count():
            if index == len(self._steps) and not self._read():
                return
            yield self._steps[index]

    def _read(self) -> bool:
        """Read another step; returns whether there is one."""
        for epoch, samples, microbatches in self._source:
            tokens = [_count_tokens(each, self._objective) for each in microbatches]
            inputs, targets = (sum(column) for column in zip(*tokens, strict=True))
            self._steps.append(ScheduledStep(epoch, samples, inputs, targets, tuple(map(self._index, microbatches))))
            return True
        return False

    def _index(self, microbatch: Microbatch) -> int:
        shapes = tuple((key, tuple(value.shape)) for key, value in microbatch.items())
        if shapes not in self._indices:
            self._indices[shapes] = len(self.microbatches)
            self.microbatches.append(microbatch)
        return self._indices[shapes]


@dataclass(frozen=True)
class SimulatedRun:
    """The cost of each step of a run, in its order."""

    progress: list[Progress] = field(default_factory=list)
    """Progress after each step, without time and energy."""
    macs: list[int] = field(default_factory=list)
    """Forward and backward multiply-accumulates of each step."""
    before: int = 0
    """Multiply-accumulates of passes before training."""
    microbatches: dict[int, Microbatch] = field(default_factory=dict)
    """The first microbatch of each shape that occurs, in the order of the steps."""

    def gmacs(self, steps: int | None) -> float | None:
        """Billions of multiply-accumulates of a number of steps, and of what comes before them; None if unknown."""
        return None if steps is None else (self.before + sum_macs(self.macs, steps)) / 1e9

    @property
    def mean_macs(self) -> float:
        """Multiply-accumulates of a step."""
        return sum(self.macs) / len(self.macs)

    @property
    def largest_microbatches(self) -> Sequence[Microbatch]:
        """The microbatches in which a tensor is largest."""
        largest: dict[str, Microbatch] = {}
        for microbatch in self.microbatches.values():
            for key, value in microbatch.items():
                if key not in largest or value.numel() > largest[key][key].numel():
                    largest[key] = microbatch
        return [*{id(each): each for each in largest.values()}.values()]


@dataclass(frozen=True)
class SimulatedStep:
    """A step whose cost is counted without running it."""

    progress: Progress
    """Progress after the step, without time and energy."""
    step_macs: StepMacs
    microbatches: list[Microbatch]


def prepare_training_rows(recipe: Recipe, objective: BoundObjective) -> tuple[Recipe, PreparedData]:
    """Tokenize the training rows of a recipe, or the first ``SAMPLE_ROWS`` of a hub data set that is not downloaded.

    Args:
        recipe: The recipe.
        objective: The objective.

    Returns:
        The recipe, with a smaller task if rows are sampled, and its training rows.

    Raises:
        RunError: The data cannot be read.
        InputError: A row is invalid.
    """
    sampled = recipe.task.subset_for_estimate(SAMPLE_ROWS)
    if sampled:
        recipe = recipe.model_copy(update={"task": sampled[0]})
    accelerator = make_accelerator(cpu=True)
    try:
        data = prepare_data(recipe, objective, accelerator, only_train=True)
    finally:
        shutdown(accelerator)
    return recipe, replace(data, split_sizes={"train": sampled[1]}) if sampled else data


def on_random_weights(recipe: Recipe, simulate: Callable[[str], Result]) -> Result:
    """Simulate a run on a model without values, or on random weights if the method needs weights.

    Args:
        recipe: The recipe.
        simulate: Simulates it on a model on this device.

    Raises:
        InputError: The model is too large for random weights.
    """
    try:
        return simulate("meta")
    except VALUE_ERRORS as error:
        size = sum(p.numel() for p in init_random_base(recipe, "meta").model.parameters())
        if size > MAX_RANDOM_PARAMETERS:
            raise InputError(
                f"{recipe.method.name!r} needs weights to be counted, and a model with {size:,} parameters is too "
                "large to fill with random ones"
            ) from error
        return simulate("cpu")


def make_random_model(
    recipe: Recipe, data: PreparedData, batch: int, device: str
) -> tuple[nn.Module, BoundObjective, MacCounter]:
    """Apply the recipe's method to a model with random weights, and make its MAC counter.

    Args:
        recipe: The recipe.
        data: Its training rows.
        batch: Rows per step.
        device: The device; ``meta`` for a model without values.

    Returns:
        The model, the objective, which knows the layers whose outputs the recipe caches, and the counter.
    """
    base = init_random_base(recipe, device)
    model = apply_recipe_method(recipe, base, data, batch)
    objective = with_frozen_layers(recipe, base.objective, model, data.train)
    return model, objective, make_mac_counter(recipe, objective, model, data.train)


def simulate_run(
    recipe: Recipe, steps_per_epoch: int | None, schedule: StepSchedule, mac_counter: MacCounter, before: int = 0
) -> SimulatedRun:
    """Count the steps until the budget is used up, without its limits of time and energy.

    Each shape is counted once, whatever number of steps has it.

    Args:
        recipe: The recipe.
        steps_per_epoch: Steps per epoch; None for streamed rows.
        schedule: Its steps.
        mac_counter: Counts the model with the method applied.
        before: Multiply-accumulates of passes before training.
    """
    unknown = ("seconds", "wall_seconds", "joules", *(() if steps_per_epoch else ("epochs",)))
    budget = recipe.train.budget.model_copy(update=dict.fromkeys(unknown))
    min_steps = min(MIN_STEPS, steps_per_epoch or MIN_STEPS)
    limited = any(limit is not None for _, limit in budget)
    max_steps = min_steps
    if limited:
        max_steps = min(MAX_STEPS, max(MIN_STEPS, COUNTED_EPOCHS * steps_per_epoch)) if steps_per_epoch else MAX_STEPS

    def simulate() -> SimulatedRun:
        simulated, known = SimulatedRun(before=before), dict[int, StepMacs]()
        progress = Progress(steps_per_epoch=steps_per_epoch, macs=before)
        for step in islice(schedule, max_steps):
            tokens = step.input_tokens, step.target_tokens
            for shape in step.shapes:
                if shape not in known:
                    simulated.microbatches[shape] = schedule.microbatches[shape]
                    known[shape] = mac_counter.count(schedule.microbatches[shape])
            step_macs = _sum_counts([known[shape] for shape in step.shapes])
            progress = _advance(progress, step.samples, tokens, step_macs, step.completed_epochs)
            simulated.macs.append(step_macs.forward_macs + step_macs.backward_macs)
            simulated.progress.append(progress)
            if progress.step >= min_steps and (not limited or budget_used(budget, progress) >= 1):
                break
        return simulated

    simulated = simulate()
    return simulated if mac_counter.regular else simulate()  # interpolated counts were others; now all are counted


def simulate_steps(
    recipe: Recipe, data: PreparedData, splitter: BatchSplitter, mac_counter: MacCounter, batch: int, progress: Progress
) -> Iterator[SimulatedStep]:
    """Count the steps of a run one after the other, without running them.

    Args:
        recipe: The recipe.
        data: Its training rows.
        splitter: Collates the batches of the run.
        mac_counter: Counts the model with the method applied.
        batch: Rows per step.
        progress: The progress before the first step.

    Yields:
        The cost of each step.
    """
    for epoch, samples, microbatches in _microbatches_by_step(recipe, data.train, splitter, batch):
        step_macs = _sum_counts([*map(mac_counter.count, microbatches)])
        tokens = [_count_tokens(each, splitter.objective) for each in microbatches]
        inputs, targets = (sum(column) for column in zip(*tokens, strict=True))
        progress = _advance(progress, samples, (inputs, targets), step_macs, epoch)
        yield SimulatedStep(progress, step_macs, microbatches)


def predict_steps(recipe: Recipe, simulated: SimulatedRun, seconds: float | None) -> int | None:
    """The number of steps until the first limit of the budget; None if it cannot be predicted.

    Args:
        recipe: The recipe.
        simulated: Its first steps.
        seconds: Of a step with mean compute; None if that was not measured.
    """
    budget, mean = recipe.train.budget, simulated.mean_macs
    if budget.joules is not None or budget.wall_seconds is not None:
        return None
    if budget.seconds is not None and seconds is None:
        return None
    if budget.epochs is not None and simulated.progress[0].steps_per_epoch is None:
        return None
    used_share = 0.0
    for each in simulated.progress:
        timed = budget.seconds is not None
        progress = replace(each, seconds=(seconds or 0.0) * each.macs / mean) if timed else each
        used_share = budget_used(budget, progress)
        if used_share >= 1:
            return progress.step
    # Later steps are assumed to use as much of the budget as the counted ones.
    start = Progress(macs=simulated.before, seconds=(seconds or 0.0) * simulated.before / mean)
    share_before = budget_used(budget, start) if used_share else 0.0
    left, used_by_steps = 1 - share_before, used_share - share_before
    return math.ceil(len(simulated.progress) * left / used_by_steps - 1e-9) if used_by_steps else None


def sum_macs(macs: Sequence[int], steps: int) -> float:
    """Multiply-accumulates of a number of steps; those that were not counted cost the mean.

    Args:
        macs: Multiply-accumulates of the first steps.
        steps: The number of steps.
    """
    return sum(macs[:steps]) + sum(macs) / len(macs) * max(0, steps - len(macs))


def _count_tokens(microbatch: Microbatch, objective: BoundObjective) -> tuple[int, int]:
    """Return the numbers of input tokens and of targets."""
    return int(microbatch["input_tokens"]), int(objective.num_targets(microbatch))


def _sum_counts(counts: Sequence[StepMacs]) -> StepMacs:
    return StepMacs(*(sum(each) for each in zip(*counts, strict=True)))


def _advance(progress: Progress, samples: int, tokens: tuple[int, int], step_macs: StepMacs, epoch: int) -> Progress:
    """Return the progress after another step, with these numbers of rows, and of input and target tokens."""
    return replace(
        progress,
        step=progress.step + 1,
        samples=progress.samples + samples,
        input_tokens=progress.input_tokens + tokens[0],
        target_tokens=progress.target_tokens + tokens[1],
        macs=progress.macs + step_macs.forward_macs + step_macs.backward_macs,
        completed_epochs=epoch,
    )


def _microbatches_by_step(
    recipe: Recipe, rows: TrainRows, splitter: BatchSplitter, batch: int
) -> Iterator[tuple[int, int, list[Microbatch]]]:
    """Yield the microbatches of each step, with the number of completed epochs and of its rows."""
    train, family = recipe.train, splitter.objective.family
    known: set[bytes] = set()
    for epoch in count():
        batches = (
            _batches_in_memory(rows, recipe, batch, epoch)
            if isinstance(rows, Dataset)
            else _streamed_batches(rows, batch, epoch)
        )
        batch_rows: list[Row] | None = None
        for batch_rows in batches:
            number = batch // (1 if train.tokens_per_batch else train.batch_size)
            parts = [splitter.collate(part) for part in divide_rows(batch_rows, number)]
            microbatches: list[Microbatch] = [part for batch_parts in parts for part in batch_parts]
            if splitter.costs is None:
                lengths = max_lengths(microbatches)
                microbatches = [family.pad_to(microbatch, lengths) for microbatch in microbatches]
            if splitter.objective.component.compares_rows and len(microbatches) > 1:
                microbatches = describe_processes(microbatches, number // train.gradient_accumulation_steps)
            yield (
                epoch,
                len(batch_rows),
                [_with_known_outputs(each, splitter.objective, known) for each in microbatches],
            )
            known.update(key for each in microbatches if isinstance(each, CollatedBatch) for key in each.text_keys)
        if batch_rows is None:  # fewer rows than one batch
            return


def _with_known_outputs(microbatch: Microbatch, objective: BoundObjective, known: set[bytes]) -> Microbatch:
    """Return a microbatch with outputs of frozen layers, without values, if those of all its texts are known."""
    frozen = objective.frozen
    keys = microbatch.text_keys if isinstance(microbatch, CollatedBatch) else ()
    if frozen is None or not keys or not known.issuperset(keys):
        return microbatch
    shape = (*microbatch["input_ids"].shape, frozen.width)
    return with_tensors(microbatch, {FROZEN_OUTPUTS: torch.empty(shape, dtype=frozen.dtype, device="meta")})


def _batches_in_memory(rows: Dataset, recipe: Recipe, batch: int, epoch: int) -> Iterator[list[Row]]:
    order = row_order(recipe, rows, batch)
    order.set_epoch(epoch)
    steps = iter(order.steps())
    for read_steps in iter(lambda: [*islice(steps, BATCHES_READ)], []):
        columns = rows[[index for step in read_steps for index in step]]
        read: list[Row] = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        bounds = accumulate(map(len, read_steps), initial=0)
        yield from (read[start:end] for start, end in pairwise(bounds))


def _streamed_batches(rows: StreamingRows, batch: int, epoch: int) -> Iterator[list[Row]]:
    rows.set_epoch(epoch)
    iterator = iter(rows)
    for batch_rows in iter(lambda: [*islice(iterator, batch)], []):
        if len(batch_rows) == batch:
            yield batch_rows
