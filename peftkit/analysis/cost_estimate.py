"""Estimate the cost of a recipe before training, without the model's weights."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from statistics import median
from typing import Any

from datasets import Dataset
from torch import Tensor, nn

from peftkit.analysis.dry_run import StepLog, apply_recipe_method, dry_run
from peftkit.components.inputs import Row
from peftkit.data.batch_splitter import BatchSplitter, make_splitter
from peftkit.data.dataloader import StreamingRows, TrainRows, effective_batch_size
from peftkit.data.length_buckets import LengthBucketSampler
from peftkit.data.pipeline import PreparedData, prepare_data
from peftkit.distributed.accelerator import make_accelerator, shutdown
from peftkit.errors import InputError
from peftkit.macs.mac_counter import VALUE_ERRORS, MacCounter, StepMacs
from peftkit.models.load import count_parameters, init_random_base, load_objective
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.train.budget import Progress, budget_used
from peftkit.train.mac_counting import make_mac_counter
from peftkit.train.optim import is_fused

Microbatches = list[dict[str, Tensor]]
MAX_RANDOM_PARAMETERS = 1_000_000_000
"""The largest model, in parameters, that is filled with random weights for a method that needs weights."""
COUNTED_EPOCHS = 3
"""Epochs that are counted step by step; steps of later epochs are assumed to cost the same on average."""
MIN_STEPS, MAX_STEPS = 2000, 10_000
"""Minimum and maximum number of steps that are counted one by one."""
SAMPLE_ROWS = 10_000
"""Training rows that are fetched from a hub data set that has not been downloaded."""
WARMUP_STEPS, TIMED_STEPS = 2, 5
"""Warm-up steps and timed steps of a trial."""


@dataclass(frozen=True, repr=False)
class CostEstimate:
    """The estimated cost of one run. Sizes in bytes are per process, without the libraries' overhead."""

    name: str
    method: str
    model: str
    task: str
    trainable_parameters: int
    total_parameters: int
    effective_batch: int
    steps_per_epoch: int | None
    """None if the number of rows is unknown, as for streamed data."""
    steps: int | None
    """Of the whole run; None if energy, `wall_seconds`, untimed seconds or the end of a stream may end it."""
    gmacs_per_step: float
    """Mean over steps."""
    gmacs_per_epoch: float | None
    gmacs: float | None
    """Of the whole run."""
    optimizer_gops_per_step: float
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    """Activations and intermediate results that the largest step holds at a time."""
    checkpoint_bytes: int
    seconds_per_step: float | None = None
    """Measured on this machine; None without a trial."""
    seconds_per_epoch: float | None = None
    seconds: float | None = None

    @property
    def memory_bytes(self) -> int:
        """The estimated peak memory of training in bytes."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes + self.activation_bytes

    def __repr__(self) -> str:
        share = self.trainable_parameters / self.total_parameters
        memory = {
            "weights": self.weight_bytes,
            "gradients": self.gradient_bytes,
            "optimizer": self.optimizer_bytes,
            "activations": self.activation_bytes,
        }
        parts = ", ".join(f"{key} {format_bytes(value)}" for key, value in memory.items())
        rows = {
            "trainable": f"{self.trainable_parameters:,} of {self.total_parameters:,} parameters ({share:.2%})",
            "per step": f"{format_number(self.gmacs_per_step)} GMACs, {self.effective_batch} rows",
            "per epoch": _format_amount(self.steps_per_epoch, self.gmacs_per_epoch),
            "total": _format_amount(self.steps, self.gmacs),
            "memory": f"{format_bytes(self.memory_bytes)} ({parts})",
            "checkpoint": format_bytes(self.checkpoint_bytes),
        }
        if self.seconds_per_step is not None:
            times = {"per step": self.seconds_per_step, "per epoch": self.seconds_per_epoch, "total": self.seconds}
            rows["time here"] = ", ".join(f"{key} {value:,.3g} s" for key, value in times.items() if value is not None)
        head = f"{self.name}: {self.method} on {self.task} with {self.model}"
        return "\n".join([head, *(f"  {key:<11}{value}" for key, value in rows.items())])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def _format_amount(steps: int | None, gmacs: float | None) -> str:
    if steps is None or gmacs is None:
        return "unknown before the run"
    return f"{format_number(gmacs)} GMACs, {steps:,} steps"


def format_number(value: float) -> str:
    """Format a number with five digits, without an exponent for large ones."""
    return f"{float(f'{value:.5g}'):,.15g}"


def format_bytes(number: float) -> str:
    """Format a size in bytes: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:,.4g} GiB"


@dataclass(frozen=True)
class SimulatedSteps:
    """A model without the recipe's weights, and the cost of each step, in the order of the run."""

    model: nn.Module
    mac_counter: MacCounter
    progress: list[Progress]
    """Progress after each step, without time and energy."""
    macs: list[int]
    """Forward and backward multiply-accumulates of each step."""
    largest: dict[str, dict[str, Tensor]]
    """By the name of each tensor, the microbatch in which it is largest."""

    def note(self, microbatch: dict[str, Tensor]) -> None:
        """Keep a microbatch if one of its tensors is the largest so far."""
        for key, value in microbatch.items():
            if key not in self.largest or value.numel() > self.largest[key][key].numel():
                self.largest[key] = microbatch


@dataclass(frozen=True)
class SimulatedStep:
    """A step whose cost is counted without running it."""

    progress: Progress
    """Progress after the step, without time and energy."""
    step_macs: StepMacs
    microbatches: Microbatches


def estimate_cost(recipe: Recipe, registry: Registry, *, trial: bool = False) -> CostEstimate:
    """Count the steps of a run and, with ``trial``, time a few of them with random weights.

    Reads the model's config, and tokenizes the training rows for their lengths: all of them, or the first
    ``SAMPLE_ROWS`` of a hub data set that has not been downloaded.

    Args:
        recipe: The recipe.
        registry: The installed components.
        trial: Whether to run and time a few steps on this machine.

    Returns:
        The estimate.

    Raises:
        RunError: The config, tokenizer or data cannot be read, or the method cannot be applied without weights.
        InputError: A row is invalid, or the model is too large for a method that needs weights.
    """
    quiet_libraries("warning")
    _, objective = load_objective(recipe)
    sampled = recipe.task.subset_for_estimate(SAMPLE_ROWS)
    if sampled:
        recipe = recipe.model_copy(update={"task": sampled[0]})
    accelerator = make_accelerator(cpu=True)
    try:
        data = prepare_data(recipe, objective, accelerator, only_train=True)
    finally:
        shutdown(accelerator)
    if sampled:
        data = replace(data, split_sizes={"train": sampled[1]})
    batch = effective_batch_size(recipe, 1)
    try:
        simulated = _simulate_steps(recipe, data, batch, "meta")
    except VALUE_ERRORS as error:  # the method needs weights; random ones will do
        size = sum(p.numel() for p in init_random_base(recipe, "meta").model.parameters())
        if size > MAX_RANDOM_PARAMETERS:
            raise InputError(
                f"{recipe.method.name!r} needs weights to be counted, and a model with {size:,} parameters is too "
                "large to fill with random ones"
            ) from error
        simulated = _simulate_steps(recipe, data, batch, "cpu")
    model, mac_counter, macs = simulated.model, simulated.mac_counter, simulated.macs
    trainable, total = count_parameters(model)
    steps_per_epoch = data.steps_per_epoch(batch)
    mean = sum(macs) / len(macs)
    seconds = _time_steps(recipe, registry, mean) if trial else None
    steps = _predict_steps(recipe, simulated, seconds)
    gradient_bytes = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    timings: dict[str, Any] = {}
    if seconds is not None:
        timings = {
            "seconds_per_step": seconds,
            "seconds_per_epoch": None if steps_per_epoch is None else seconds * steps_per_epoch,
            "seconds": None if steps is None else seconds * steps,
        }
    return CostEstimate(
        name=recipe.run.name,
        method=recipe.method.name,
        model=recipe.model.name,
        task=recipe.task.name,
        trainable_parameters=trainable,
        total_parameters=total,
        effective_batch=batch,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        gmacs_per_step=mean / 1e9,
        gmacs_per_epoch=None if steps_per_epoch is None else _sum_macs(macs, steps_per_epoch) / 1e9,
        gmacs=None if steps is None else _sum_macs(macs, steps) / 1e9,
        optimizer_gops_per_step=mac_counter.optimizer_elementwise / 1e9,
        weight_bytes=_weight_bytes(recipe, model),
        gradient_bytes=gradient_bytes,
        optimizer_bytes=mac_counter.optimizer.state_bytes,
        activation_bytes=_activation_bytes(recipe, simulated, gradient_bytes),
        checkpoint_bytes=recipe.method.checkpoint_bytes(model),
        **timings,
    )


def _activation_bytes(recipe: Recipe, simulated: SimulatedSteps, gradient_bytes: int) -> int:
    """The most bytes that a step holds beside weights, gradients and the optimizer's state."""
    # Gradients of earlier microbatches are there while the last one is computed.
    several = recipe.train.gradient_accumulation_steps > 1 or recipe.train.split_batches
    number, counter = 2 if several else 1, simulated.mac_counter
    microbatches = {id(each): each for each in simulated.largest.values()}.values()
    largest = max(counter.step_bytes([microbatch] * number) for microbatch in microbatches)
    intermediate_bytes = 0 if is_fused(recipe.train) else counter.optimizer.intermediate_bytes
    return max(largest, gradient_bytes + intermediate_bytes) - gradient_bytes


def _simulate_steps(recipe: Recipe, data: PreparedData, batch: int, device: str) -> SimulatedSteps:
    """Count the steps until the budget is used up, without its limits of time and energy."""
    base = init_random_base(recipe, device)
    model = apply_recipe_method(recipe, base, data, batch)
    simulated = SimulatedSteps(model, make_mac_counter(recipe, base.objective, model, data.train), [], [], {})
    steps_per_epoch = data.steps_per_epoch(batch)
    unknown = ("seconds", "wall_seconds", "joules", *(() if steps_per_epoch else ("epochs",)))
    budget = recipe.train.budget.model_copy(update=dict.fromkeys(unknown))
    min_steps = min(MIN_STEPS, steps_per_epoch or MIN_STEPS)
    limited = any(limit is not None for _, limit in budget)
    max_steps = min_steps
    if limited:
        max_steps = min(MAX_STEPS, max(MIN_STEPS, COUNTED_EPOCHS * steps_per_epoch)) if steps_per_epoch else MAX_STEPS
    splitter = make_splitter(recipe, base.objective, model, 1)
    for counted in islice(simulate_steps(recipe, data, splitter, simulated.mac_counter, batch), max_steps):
        progress = counted.progress
        simulated.macs.append(counted.step_macs.forward_macs + counted.step_macs.backward_macs)
        simulated.progress.append(progress)
        for microbatch in counted.microbatches:
            simulated.note(microbatch)
        if progress.step >= min_steps and (not limited or budget_used(budget, progress) >= 1):
            break
    return simulated


def simulate_steps(
    recipe: Recipe, data: PreparedData, splitter: BatchSplitter, mac_counter: MacCounter, batch: int
) -> Iterator[SimulatedStep]:
    """Count the steps of a run one after the other, without running them.

    Args:
        recipe: The recipe.
        data: Its training rows.
        splitter: Collates the batches of the run.
        mac_counter: Counts the model with the method applied.
        batch: Rows per step.

    Yields:
        The cost of each step.
    """
    progress = Progress(steps_per_epoch=data.steps_per_epoch(batch))
    objective = splitter.objective
    for epoch, microbatches in _microbatches_by_step(recipe, data.train, splitter, batch):
        step_macs = StepMacs(*(sum(each) for each in zip(*map(mac_counter.count, microbatches), strict=True)))
        progress = replace(
            progress,
            step=progress.step + 1,
            samples=progress.samples + batch,
            input_tokens=progress.input_tokens + sum(int(m["input_tokens"]) for m in microbatches),
            target_tokens=progress.target_tokens + sum(int(objective.num_targets(m)) for m in microbatches),
            macs=progress.macs + step_macs.forward_macs + step_macs.backward_macs,
            completed_epochs=epoch,
        )
        yield SimulatedStep(progress, step_macs, microbatches)


def _microbatches_by_step(
    recipe: Recipe, rows: TrainRows, splitter: BatchSplitter, batch: int
) -> Iterator[tuple[int, Microbatches]]:
    """Yield the microbatches of each step, with the number of completed epochs."""
    size, family = recipe.train.batch_size, splitter.objective.family
    for epoch in count():
        batches = (
            _batches_in_memory(rows, recipe, batch, epoch)
            if isinstance(rows, Dataset)
            else _streamed_batches(rows, batch, epoch)
        )
        batch_rows: list[Row] | None = None
        for batch_rows in batches:
            parts = [splitter.collate(batch_rows[start : start + size]) for start in range(0, batch, size)]
            microbatches = [part for batch_parts in parts for part in batch_parts]
            max_lengths = family.max_lengths(microbatches)
            pads = splitter.costs is None
            yield epoch, [family.pad_to(each, max_lengths) if pads else each for each in microbatches]
        if batch_rows is None:  # fewer rows than one batch
            return


def _batches_in_memory(rows: Dataset, recipe: Recipe, batch: int, epoch: int) -> Iterator[list[Row]]:
    sampler = LengthBucketSampler(rows["length"][:], batch, recipe.run.effective_order_seed)
    sampler.set_epoch(epoch)
    indices = iter(sampler)
    for batch_indices in iter(lambda: [*islice(indices, batch)], []):
        columns = rows[batch_indices]
        yield [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]  # type: ignore[misc]


def _streamed_batches(rows: StreamingRows, batch: int, epoch: int) -> Iterator[list[Row]]:
    rows.set_epoch(epoch)
    iterator = iter(rows)
    for batch_rows in iter(lambda: [*islice(iterator, batch)], []):
        if len(batch_rows) == batch:
            yield batch_rows


def _predict_steps(recipe: Recipe, simulated: SimulatedSteps, seconds: float | None) -> int | None:
    """The number of steps until the first limit of the budget; None if it cannot be predicted.

    Args:
        recipe: The recipe.
        simulated: Its first steps.
        seconds: Of a step with mean compute.
    """
    budget, mean = recipe.train.budget, sum(simulated.macs) / len(simulated.macs)
    if budget.joules is not None or budget.wall_seconds is not None:
        return None
    if budget.seconds is not None and seconds is None:
        return None
    if budget.epochs is not None and simulated.progress[0].steps_per_epoch is None:
        return None
    used_share = 0.0
    for progress in simulated.progress:
        used_share = budget_used(budget, replace(progress, seconds=(seconds or 0.0) * progress.macs / mean))
        if used_share >= 1:
            return progress.step
    # Later steps are assumed to use as much of the budget as the counted ones.
    return math.ceil(len(simulated.progress) / used_share - 1e-9) if used_share else None


def _sum_macs(macs: list[int], steps: int) -> float:
    """Multiply-accumulates of a number of steps; those that were not counted cost the mean."""
    return sum(macs[:steps]) + sum(macs) / len(macs) * max(0, steps - len(macs))


def _weight_bytes(recipe: Recipe, model: nn.Module) -> int:
    """Size of the weights; frozen matrices of a quantized model take fewer bits."""
    bits = {"4bit": 4, "8bit": 8}.get(recipe.model.quantization or "", 0)
    return sum(
        p.numel() * bits // 8 if bits and not p.requires_grad and p.ndim > 1 else p.numel() * p.element_size()
        for p in (*model.parameters(), *model.buffers())
    )


def _time_steps(recipe: Recipe, registry: Registry, macs: float) -> float:
    """Time a few steps, and scale their seconds to a step with this number of multiply-accumulates."""
    log = StepLog()
    with dry_run(recipe, registry, WARMUP_STEPS + TIMED_STEPS, [log]) as trainer:
        trainer.train()
    timed = log.stats[WARMUP_STEPS:]
    return median(stats.seconds / (stats.forward_macs + stats.backward_macs) for stats in timed) * macs
