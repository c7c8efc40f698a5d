"""What a recipe will cost, before it is run and without its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from statistics import median
from typing import Any

from datasets import Dataset
from torch import Tensor, nn

from peftkit.errors import InputError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.runner.batches import LengthBucketSampler, Stream, effective_batch
from peftkit.runner.budget import Used, progress
from peftkit.runner.data import Data, prepare
from peftkit.runner.encoding import KEPT
from peftkit.runner.forms import Form, Row
from peftkit.runner.ledger import UNABLE, Ledger, Work, make_ledger
from peftkit.runner.models import blank_base, load_form, parameters
from peftkit.runner.rehearsal import applied, rehearsal
from peftkit.runner.world import close_world, make_accelerator, quiet_libraries

Passes = list[dict[str, Tensor]]
MOST = 1_000_000_000
"""How many weights are made up for a method that cannot be counted without any."""
WHOLE = 3
"""Epochs whose batches are looked at, for their lengths; those of others are like them."""
FEWEST_STEPS, MOST_STEPS = 2000, 10_000
"""Optimizer steps that they are at the least, and at the most."""
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
    """Of the whole run; None where energy or time that was not tried may end it, or an end of what is streamed."""
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


@dataclass(frozen=True)
class Walked:
    """A model without the recipe's weights, and what each step of a run would take, in the order of the run."""

    model: nn.Module
    ledger: Ledger
    used: list[Used]
    """After each step, without time and energy."""
    macs: list[int]
    widest: dict[str, Tensor]
    """The batch of most tokens."""


@dataclass(frozen=True)
class Counted:
    """A step of a run that is counted without being made."""

    used: Used
    """After it, without time and energy."""
    work: Work
    parts: Passes


def predict_cost(recipe: Recipe, registry: Registry, *, trial: bool = False) -> Prediction:
    """Counts the steps of the run, and with ``trial`` makes a few with weights of chance to time them.

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
    accelerator = make_accelerator(cpu=True)
    try:
        data = prepare(recipe, form, accelerator, only_train=True)
    finally:
        close_world(accelerator)
    if sampled:
        data = replace(data, sizes={"train": sampled[1]})
    batch = effective_batch(recipe, 1)
    try:
        walked = _walked(recipe, data, batch, "meta")
    except UNABLE as error:  # something goes by the weights' values: any will do
        number = sum(p.numel() for p in blank_base(recipe, "meta").model.parameters())
        if number > MOST:
            raise InputError(
                f"{recipe.method.name!r} cannot be counted without weights, and {number:,} are too many to make up"
            ) from error
        walked = _walked(recipe, data, batch, "cpu")
    model, ledger, macs = walked.model, walked.ledger, walked.macs
    trainable, total = parameters(model)
    per_epoch = data.steps_per_epoch(batch)
    mean = sum(macs) / len(macs)
    seconds = _tried(recipe, registry, mean) if trial else None
    planned = _planned(recipe, walked, seconds)
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
        gmacs_per_epoch=None if per_epoch is None else _sum(macs, per_epoch) / 1e9,
        gmacs=None if planned is None else _sum(macs, planned) / 1e9,
        optimizer_gops_per_step=ledger.optimizer / 1e9,
        weight_bytes=_weight_bytes(recipe, model),
        gradient_bytes=sum(p.numel() * p.element_size() for p in trained),
        optimizer_bytes=ledger.optimizer_bytes,
        activation_bytes=ledger.kept_bytes(walked.widest),
        checkpoint_bytes=recipe.method.saved_bytes(model),
        **told,
    )


def _walked(recipe: Recipe, data: Data, batch: int, device: str) -> Walked:
    """Counts the steps until the budget is used up, as far as that is not of time or energy."""
    base = blank_base(recipe, device)
    model = applied(recipe, base, data, batch)
    walked = Walked(model, make_ledger(recipe, base.form, model, data.train), [], [], {})
    per_epoch = data.steps_per_epoch(batch)
    unknown = ("seconds", "joules") if per_epoch else ("seconds", "joules", "epochs")
    budget = recipe.train.budget.model_copy(update=dict.fromkeys(unknown))
    tokens = 0
    fewest = min(FEWEST_STEPS, per_epoch or FEWEST_STEPS)
    limited = any(limit is not None for _, limit in budget)
    enough = MOST_STEPS if per_epoch is None else min(MOST_STEPS, max(FEWEST_STEPS, WHOLE * per_epoch))
    most = enough if limited else fewest
    for counted in islice(counted_steps(recipe, data, base.form, walked.ledger, batch), most):
        used = counted.used
        walked.macs.append(counted.work.forward_macs + counted.work.backward_macs)
        walked.used.append(used)
        for part in counted.parts:
            if part["input_ids"].numel() > tokens:
                tokens = part["input_ids"].numel()
                walked.widest.update(part)
        if used.step >= fewest and (not limited or progress(budget, used) >= 1):
            break
    return walked


def counted_steps(recipe: Recipe, data: Data, form: Form, ledger: Ledger, batch: int) -> Iterator[Counted]:
    """The steps of a run, one after the other, without their loss.

    Args:
        recipe: what is run.
        data: its training rows.
        form: the form of the model.
        ledger: counts the passes of the model as the method leaves it.
        batch: rows of a step.
    """
    used = Used(steps_per_epoch=data.steps_per_epoch(batch))
    for passes, parts in _steps(recipe, data.train, form, batch):
        work = Work(*(sum(each) for each in zip(*map(ledger.work, parts), strict=True)))
        used = replace(
            used,
            step=used.step + 1,
            samples=used.samples + batch,
            input_tokens=used.input_tokens + sum(int(part["input_tokens"]) for part in parts),
            target_tokens=used.target_tokens + sum(int(form.targets(part)) for part in parts),
            macs=used.macs + work.forward_macs + work.backward_macs,
            passes=passes,
        )
        yield Counted(used, work, parts)


def _steps(recipe: Recipe, rows: Dataset | Stream, form: Form, batch: int) -> Iterator[tuple[int, Passes]]:
    """The passes of each step of a run, epoch after epoch, with the number of epochs before it."""
    size = recipe.train.batch_size
    for epoch in count():
        batches = _in_memory(rows, recipe, batch, epoch) if isinstance(rows, Dataset) else _streamed(rows, batch, epoch)
        taken: list[Row] | None = None
        for taken in batches:
            parts = [form.batch(taken[start : start + size]) for start in range(0, batch, size)]
            common = form.widths(parts)
            yield epoch, [form.widened(part, common) for part in parts]
        if taken is None:  # there is not one whole batch
            return


def _in_memory(rows: Dataset, recipe: Recipe, batch: int, epoch: int) -> Iterator[list[Row]]:
    order = LengthBucketSampler(rows["length"][:], batch, recipe.run.effective_order_seed)
    order.set_epoch(epoch)
    kept, indices = rows.select_columns(list(KEPT)), iter(order)
    for chosen in iter(lambda: [*islice(indices, batch)], []):
        columns = kept[chosen]
        yield [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]  # type: ignore[misc]


def _streamed(rows: Stream, batch: int, epoch: int) -> Iterator[list[Row]]:
    rows.set_epoch(epoch)
    found = iter(rows)
    for taken in iter(lambda: [*islice(found, batch)], []):
        if len(taken) == batch:
            yield taken


def _planned(recipe: Recipe, walked: Walked, seconds: float | None) -> int | None:
    """The steps of the run, by the limit that is nearest; ``seconds`` are of a mean step.

    None where the run may end by what is not known.
    """
    budget, mean = recipe.train.budget, sum(walked.macs) / len(walked.macs)
    if budget.joules is not None or (budget.seconds is not None and seconds is None):
        return None
    if budget.epochs is not None and walked.used[0].steps_per_epoch is None:
        return None
    reached = 0.0
    for used in walked.used:
        reached = progress(budget, replace(used, seconds=(seconds or 0.0) * used.macs / mean))
        if reached >= 1:
            return used.step
    # What comes after them is as they were.
    return math.ceil(len(walked.used) / reached - 1e-9) if reached else None


def _sum(macs: list[int], steps: int) -> float:
    """Of so many steps, those that were not looked at taken for such as were."""
    return sum(macs[:steps]) + sum(macs) / len(macs) * max(0, steps - len(macs))


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
