"""What a recipe will cost, before it is run and without its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median
from typing import Any

from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor, nn

from peftkit.errors import InputError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.runner.batches import LengthBucketSampler, Stream, effective_batch
from peftkit.runner.budget import Used, progress
from peftkit.runner.data import Data, prepare
from peftkit.runner.encoding import KEPT
from peftkit.runner.forms import Form
from peftkit.runner.ledger import UNABLE, Ledger, Work, make_ledger
from peftkit.runner.models import blank_base, load_form, parameters
from peftkit.runner.rehearsal import applied, rehearsal
from peftkit.runner.world import close_world, quiet_libraries

Steps = list[list[dict[str, Tensor]]]
MOST = 1_000_000_000
"""How many weights are made up for a method that cannot be counted without any."""
SAMPLED = 2000
"""Optimizer steps of an epoch that are looked at, for their lengths."""
SAMPLE = 10_000
"""Training rows that are fetched for their lengths."""
WARM, TRIED = 2, 5
"""Steps of a trial that are made first, and those that are timed."""


@dataclass(frozen=True)
class Prediction:
    """What a run of a recipe will take; bytes are of one process without what libraries take for themselves."""

    name: str
    method: str
    model: str
    task: str
    trainable_parameters: int
    total_parameters: int
    effective_batch: int
    steps_per_epoch: int | None
    """None where rows are streamed, or how many there are is published nowhere."""
    steps: int | None
    """Of the whole run; None where its budget is of energy or of what is streamed, or of time that was not tried."""
    gmacs_per_step: float
    """On average."""
    gmacs_per_epoch: float | None
    gmacs: float | None
    """Of the whole run."""
    optimizer_gops_per_step: float
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    """What is kept between the passes forward and backward of the widest batch."""
    checkpoint_bytes: int
    seconds_per_step: float | None = None
    """On this machine, if it was tried."""
    seconds_per_epoch: float | None = None
    seconds: float | None = None

    @property
    def memory_bytes(self) -> int:
        """The estimate of what training takes at its peak."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes + self.activation_bytes


def predict_cost(recipe: Recipe, registry: Registry, *, trial: bool = False) -> Prediction:
    """Counts the steps of an epoch, and with ``trial`` makes a few with weights of chance to time them.

    Of the data the training rows are encoded, as a run does, for their lengths; of what is on the hub and was not
    fetched yet, the first ``SAMPLE``. Of the model the config is read.

    Raises:
        RunError: the config, the tokenizer or the data cannot be read, or the method cannot be applied without weights.
        InputError: a row of the data is wrong, or the model is too large for a method that needs weights.
    """
    quiet_libraries("warning")
    _, form = load_form(recipe)
    sampled = recipe.task.sampled(SAMPLE)
    if sampled:
        recipe = recipe.model_copy(update={"task": sampled[0]})
    accelerator = Accelerator(cpu=True)
    try:
        data = prepare(recipe, form, accelerator, only_train=True)
    finally:
        close_world(accelerator)
    if sampled:
        data = replace(data, sizes={"train": sampled[1]})
    batch = effective_batch(recipe, 1)
    steps = [*_steps(recipe, data.train, form, batch)]
    try:
        model, ledger, works = _counted(recipe, data, batch, steps, "meta")
    except UNABLE as error:  # something goes by the weights' values: any will do
        number = sum(p.numel() for p in blank_base(recipe, "meta").model.parameters())
        if number > MOST:
            raise InputError(
                f"{recipe.method.name!r} cannot be counted without weights, and {number:,} are too many to make up"
            ) from error
        model, ledger, works = _counted(recipe, data, batch, steps, "cpu")
    macs = [sum(w.forward_macs + w.backward_macs for w in parts) for parts in works]
    widest = max((part for parts in steps for part in parts), key=lambda part: part["input_ids"].numel())
    trainable, total = parameters(model)
    per_epoch = data.steps_per_epoch(batch)
    mean = sum(macs) / len(macs)
    seconds = _tried(recipe, registry, mean) if trial else None
    planned = _planned(recipe, form, batch, per_epoch, steps, macs, seconds or 0.0)
    trained = [p for p in model.parameters() if p.requires_grad]
    told: dict[str, Any] = {}
    if seconds is not None:
        told = {
            "seconds_per_step": seconds,
            "seconds_per_epoch": None if per_epoch is None else seconds * per_epoch,
            "seconds": None if planned is None else seconds * planned,
        }
    return Prediction(
        name=recipe.run.name,
        method=recipe.method.name,
        model=recipe.model.name,
        task=recipe.task.name,
        trainable_parameters=trainable,
        total_parameters=total,
        effective_batch=batch,
        steps_per_epoch=per_epoch,
        steps=planned,
        gmacs_per_step=mean / 1e9,
        gmacs_per_epoch=None if per_epoch is None else mean / 1e9 * per_epoch,
        gmacs=None if planned is None else (sum(macs[:planned]) + mean * max(0, planned - len(macs))) / 1e9,
        optimizer_gops_per_step=ledger.optimizer / 1e9,
        weight_bytes=_weight_bytes(recipe, model),
        gradient_bytes=sum(p.numel() * p.element_size() for p in trained),
        optimizer_bytes=ledger.optimizer_bytes,
        activation_bytes=ledger.kept_bytes(widest),
        checkpoint_bytes=sum(p.numel() * p.element_size() for p in trained),
        **told,
    )


def _counted(
    recipe: Recipe, data: Data, batch: int, steps: Steps, device: str
) -> tuple[nn.Module, Ledger, list[list[Work]]]:
    """A model without the recipe's weights, its ledger, and the work of each pass of the steps."""
    base = blank_base(recipe, device)
    model = applied(recipe, base, data, batch)
    ledger = make_ledger(recipe, base.form, model)
    return model, ledger, [[ledger.work(part) for part in parts] for parts in steps]


def _steps(recipe: Recipe, rows: Dataset | Stream, form: Form, batch: int) -> Iterator[list[dict[str, Tensor]]]:
    """The passes of the first steps of a run: batches come in an order of chance, so that they stand for all."""
    if isinstance(rows, Dataset):
        order = LengthBucketSampler(rows["length"][:], batch, recipe.run.seed)
        kept = rows.select_columns(list(KEPT))
        found: Iterator[Any] = (kept[index] for index in order)
    else:
        found = iter(rows)
    size = recipe.train.batch_size
    for _ in range(SAMPLED):
        taken = [*islice(found, batch)]
        if len(taken) < batch:
            return
        parts = [form.batch(taken[start : start + size]) for start in range(0, batch, size)]
        widths = [form.widths(part) for part in parts]
        common = {key: max(width[key] for width in widths) for key in widths[0]}
        yield [form.widened(part, common) for part in parts]


def _planned(
    recipe: Recipe, form: Form, batch: int, per_epoch: int | None, steps: Steps, macs: list[int], seconds: float
) -> int | None:
    """The steps of the run, by the limit that is nearest, as far as it can be told; ``seconds`` are of a mean step."""
    budget, mean = recipe.train.budget, sum(macs) / len(macs)
    used = Used(steps_per_epoch=per_epoch)
    for number, (parts, work) in enumerate(zip(steps, macs, strict=True), 1):  # in the order of the run
        used.step = number
        used.samples += batch
        used.input_tokens += sum(int(part["input_tokens"]) for part in parts)
        used.target_tokens += sum(int(form.targets(part)) for part in parts)
        used.macs += work
        used.seconds += seconds * work / mean
        reached = progress(budget, used)
        if reached >= 1:
            return number
    # What comes after them is as they were.
    return math.ceil(len(steps) / reached - 1e-9) if reached else None


def _weight_bytes(recipe: Recipe, model: nn.Module) -> int:
    """What the weights take; of a quantised model the frozen ones take fewer bits."""
    bits = {"4bit": 4, "8bit": 8}.get(recipe.model.quantization or "", 0)
    return sum(
        p.numel() * bits // 8 if bits and not p.requires_grad and p.ndim > 1 else p.numel() * p.element_size()
        for p in (*model.parameters(), *model.buffers())
    )


def _tried(recipe: Recipe, registry: Registry, macs: float) -> float:
    """Seconds of a step of average work: what was tried may be of longer or shorter texts."""
    with rehearsal(recipe, registry) as rehearsed:
        rehearsed.steps(WARM)
        made = rehearsed.steps(TRIED)
    return median(r.seconds / (r.forward_macs + r.backward_macs) for r in made) * macs
