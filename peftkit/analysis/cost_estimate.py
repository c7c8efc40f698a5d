"""Estimate the cost of a recipe before training, without the model's weights."""

from __future__ import annotations

import html
import math
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from peftkit.analysis.dry_run import StepLog, dry_run
from peftkit.analysis.simulated_steps import (
    SimulatedRun,
    StepSchedule,
    make_random_model,
    on_random_weights,
    predict_steps,
    prepare_training_rows,
    simulate_run,
    sum_macs,
)
from peftkit.data.dataloader import effective_batch_size
from peftkit.data.microbatches import make_splitter
from peftkit.data.probes.prepared_probe import prepare_probes
from peftkit.macs.mac_counter import MacCounter
from peftkit.models.checkpoints.quantization import quantized_weights
from peftkit.models.load_base_model import load_objective
from peftkit.models.parameter_counts import count_parameters
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.train.optimizer import is_fused
from peftkit.train.steps.embedding_gradients import applies, kept_embedding_gradients
from peftkit.train.steps.reference_passes import macs_before_training

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
    """Rows of a step; their mean with ``train.tokens_per_batch``."""
    steps_per_epoch: int | None
    """None if the number of rows is unknown, as for streamed data."""
    steps: int | None
    """Of the whole run; None if energy, `wall_seconds`, untimed seconds or the end of a stream may end it."""
    gmacs_per_step: float
    """Mean over steps."""
    gmacs_per_epoch: float | None
    gmacs: float | None
    """Of the whole run."""
    gmacs_before_training: float
    """Of the passes of the base model before training, which are part of the whole run; 0 if there are none."""
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
    probe_rows: int = 0
    """Rows of the probes that the base model and the selected checkpoint are evaluated on."""
    probe_curve_rows: int = 0
    """Rows of the probes in each evaluation along the curve."""

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
            **self._before_training(),
            "total": _format_amount(self.steps, self.gmacs),
            "memory": f"{format_bytes(self.memory_bytes)} ({parts})",
            "checkpoint": format_bytes(self.checkpoint_bytes),
        }
        if self.probe_rows:
            along = (
                f"{self.probe_curve_rows:,} rows in each evaluation, {self.probe_rows:,} at the start and at the end"
            )
            rows["probes"] = f"{along} (evaluation, not training)"
        if self.seconds_per_step is not None:
            times = {"per step": self.seconds_per_step, "per epoch": self.seconds_per_epoch, "total": self.seconds}
            rows["time here"] = ", ".join(f"{key} {value:,.3g} s" for key, value in times.items() if value is not None)
        head = f"{self.name}: {self.method} on {self.task} with {self.model}"
        return "\n".join([head, *(f"  {key:<11}{value}" for key, value in rows.items())])

    def _before_training(self) -> dict[str, str]:
        if not self.gmacs_before_training:
            return {}
        return {"before": f"{format_number(self.gmacs_before_training)} GMACs, passes of the base model, part of total"}

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
    objective = load_objective(recipe)[1]
    probes = prepare_probes(recipe, objective)
    recipe, data = prepare_training_rows(recipe, objective)
    batch = effective_batch_size(recipe, 1)
    rows_per_step = data.rows_per_step(recipe.train.tokens_per_batch)
    steps_per_epoch = data.steps_per_epoch(batch, recipe.train.tokens_per_batch)
    before = macs_before_training(recipe, data)

    def simulate(device: str) -> tuple[nn.Module, MacCounter, SimulatedRun]:
        model, objective, mac_counter = make_random_model(recipe, data, batch, device)
        schedule = StepSchedule(recipe, data.train, make_splitter(recipe, objective, model, 1), batch)
        return model, mac_counter, simulate_run(recipe, steps_per_epoch, schedule, mac_counter, before)

    model, mac_counter, simulated = on_random_weights(recipe, simulate)
    macs, mean = simulated.macs, simulated.mean_macs
    trainable, total = count_parameters(model)
    seconds = time_steps(recipe, registry) * mean if trial else None
    steps = predict_steps(recipe, simulated, seconds)
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
        effective_batch=batch if rows_per_step is None else round(rows_per_step.mean),
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        gmacs_per_step=mean / 1e9,
        gmacs_per_epoch=None if steps_per_epoch is None else sum_macs(macs, steps_per_epoch) / 1e9,
        gmacs=simulated.gmacs(steps),
        gmacs_before_training=before / 1e9,
        optimizer_gops_per_step=mac_counter.optimizer_elementwise / 1e9,
        weight_bytes=weight_bytes(recipe, model),
        gradient_bytes=gradient_bytes,
        optimizer_bytes=mac_counter.optimizer.state_bytes,
        activation_bytes=_activation_bytes(recipe, simulated, mac_counter, gradient_bytes),
        checkpoint_bytes=recipe.method.checkpoint_bytes(model),
        probe_rows=sum(len(probe.whole.rows) for probe in probes),
        probe_curve_rows=sum(len(probe.curve.rows) for probe in probes),
        **timings,
    )


def _activation_bytes(recipe: Recipe, simulated: SimulatedRun, counter: MacCounter, gradient_bytes: int) -> int:
    """The most bytes that a step holds beside weights, gradients and the optimizer's state."""
    # Gradients of earlier microbatches are there while the last one is computed.
    several = recipe.train.gradient_accumulation_steps > 1 or recipe.train.split_batches
    number = 2 if several else 1
    # The estimate does not know the device. A machine without a GPU would train on its processor.
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keeps = not several and applies(recipe.train, device, 1)
    embeddings = kept_embedding_gradients() if keeps else nullcontext()
    with embeddings:
        largest = max(counter.step_bytes([microbatch] * number) for microbatch in simulated.largest_microbatches)
    intermediate_bytes = 0 if is_fused(recipe.train) else counter.optimizer.intermediate_bytes
    return max(largest, gradient_bytes + intermediate_bytes) - gradient_bytes


def weight_bytes(recipe: Recipe, model: nn.Module) -> int:
    """Return the size of the weights.

    A quantized matrix takes its numbers and their scales: 8 bits for 64 numbers of 4 bits, which are quantized again in
    blocks of 256, and 32 bits for a row of 8-bit numbers. One matrix at a time is dequantized to 16 bits.

    Args:
        recipe: The recipe.
        model: The model, as ``init_random_base`` builds it, with the method applied.
    """
    quantized = {id(weight): weight for weight in quantized_weights(recipe, model)}
    others = sum(
        p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers()) if id(p) not in quantized
    )
    if not quantized:
        return others
    numbers = sum(weight.numel() for weight in quantized.values())
    if recipe.model.quantization == "4bit":
        size = numbers / 2 + numbers / 64 + 4 * numbers / (64 * 256)
    else:
        size = numbers + 4 * sum(weight.shape[0] for weight in quantized.values())
    return others + math.ceil(size) + 2 * max(weight.numel() for weight in quantized.values())


def time_steps(recipe: Recipe, registry: Registry) -> float:
    """Time a few steps of a recipe, and return the seconds of a multiply-accumulate.

    Args:
        recipe: The recipe.
        registry: The installed components.

    Raises:
        RunError: The processes, config or data are not usable for training.
    """
    log = StepLog()
    with dry_run(recipe, registry, WARMUP_STEPS + TIMED_STEPS, [log]) as trainer:
        trainer.train()
    timed = log.stats[WARMUP_STEPS:]
    return median(stats.seconds / (stats.forward_macs + stats.backward_macs) for stats in timed)
