"""Estimates the work of many runs; those of a model and a task share what they load, their steps and their counts."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from peftkit.analysis.cost_estimate import time_steps
from peftkit.analysis.simulated_steps import (
    SimulatedRun,
    StepSchedule,
    on_random_weights,
    predict_steps,
    prepare_training_rows,
    simulate_run,
)
from peftkit.components import Objective
from peftkit.data.cacheable_layers import with_frozen_layers
from peftkit.data.count_cache import CountCache, count_cache
from peftkit.data.dataloader import effective_batch_size, first_batches, shortest_and_longest_batch
from peftkit.data.microbatches import make_splitter
from peftkit.data.pipeline import PreparedData
from peftkit.errors import PeftkitError
from peftkit.evaluate.shared_inputs import input_settings
from peftkit.macs.mac_counter import MacCounter
from peftkit.models import BoundObjective
from peftkit.models.frozen_outputs import FrozenLayers
from peftkit.models.load_base_model import LoadedBase, apply_method, init_random_base
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.plugins import Registry
from peftkit.plugins.entry_points import BUILTIN_DISTRIBUTION
from peftkit.recipe import Recipe
from peftkit.recipe.tables.train_config import WITHOUT_COST
from peftkit.train.budget import planned_steps_of_run
from peftkit.train.build_mac_counter import count_extremes, create_mac_counter
from peftkit.train.steps.reference_passes import macs_before_training

Batch = dict[str, Tensor]
Counted = tuple[FrozenLayers | None, MacCounter]
"""The frozen layers whose outputs are cached, and the counter of the model."""
Value = TypeVar("Value")
KEPT = 64
"""How many of each kind of shared value are kept, the latest."""


@dataclass(frozen=True)
class WorkEstimate:
    """The estimated work of a run."""

    gmacs: float | None
    """Of the whole run; None if a limit of energy or untimed seconds may end it."""
    gmacs_per_step: float
    """Mean over steps."""
    seconds_per_step: float | None
    """Measured on this machine; None without a trial."""


@dataclass(frozen=True)
class TrainingRows:
    """The training rows of a task, as a model reads them."""

    recipe: Recipe
    """The recipe; its task may be a sample."""
    data: PreparedData
    extremes: Sequence[Batch]
    """The batches with the shortest and the longest rows."""


@dataclass(frozen=True)
class Inputs:
    """What the estimate of a run reads."""

    recipe: Recipe
    """The recipe; its task may be a sample."""
    base: LoadedBase
    """The model, without values and without the method."""
    rows: TrainingRows
    rows_key: str
    """What the rows depend on."""
    counter_key: str
    """What the counts of a batch depend on."""


class WorkEstimator:
    """Estimates the work of runs one after the other, with the numbers of ``estimate_cost``.

    Runs of one model and task share its tokenizer, its rows and the shapes of its steps. Runs with the same method on
    the same model share the counts of these shapes over tasks too, unless the task gives the model another head or
    another loss, or the method reads rows.

    Args:
        registry: The installed components.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._bases: dict[str, LoadedBase] = {}
        self._rows: dict[str, TrainingRows] = {}
        self._schedules: dict[str, StepSchedule] = {}
        self._counters: dict[str, Counted] = {}
        self._weighted: dict[str, Counted] = {}
        self._ranges: dict[str, list[Batch]] = {}
        self._before: dict[str, int] = {}

    def read_ahead(self, recipes: Iterable[Recipe]) -> None:
        """Read the training rows of runs that are estimated next, so that all their lengths are counted at once.

        Args:
            recipes: The recipes of the runs.
        """
        for recipe in recipes:
            with suppress(PeftkitError):  # which the estimate reports
                inputs = self._read_inputs(recipe)
                batches = self._ranges.setdefault(inputs.counter_key, [])
                batches += [each for each in inputs.rows.extremes if not any(each is other for other in batches)]

    def estimate(self, recipe: Recipe, *, trial: bool) -> WorkEstimate:
        """Estimate the work of a run.

        Args:
            recipe: The recipe.
            trial: Whether to run and time a few steps on this machine.

        Raises:
            RunError: The config, tokenizer or data cannot be read, or the method cannot be applied without weights.
            InputError: A row is invalid, or the model is too large for a method that needs weights.
        """
        inputs = self._read_inputs(recipe)
        base, data, recipe = inputs.base, inputs.rows.data, inputs.recipe
        batch = effective_batch_size(recipe, 1)
        per_epoch = data.steps_per_epoch(batch, recipe.train.tokens_per_batch)
        order = _key(
            inputs.rows_key, recipe.run.effective_order_seed, recipe.run.seed if recipe.task.is_streaming else None
        )

        key = _key(inputs.rows_key, recipe.evaluate.batch_size, recipe.method.can_disable_adapter)
        before = _keep(self._before, key, lambda: macs_before_training(recipe, data))

        def simulate(device: str) -> SimulatedRun:
            frozen, counter = self._counter(inputs, device)
            splitter = make_splitter(recipe, replace(base.objective, frozen=frozen), counter.model, 1)
            schedule = _keep(
                self._schedules,
                _key(order, repr(splitter.costs), repr(frozen)),
                lambda: StepSchedule(recipe, data.train, splitter, batch),
            )
            simulated = simulate_run(recipe, per_epoch, schedule, counter, before)
            if isinstance(counter.known, CountCache):
                counter.known.write()
            return simulated

        simulated = on_random_weights(recipe, simulate)
        seconds = time_steps(recipe, self.registry) * simulated.mean_macs if trial else None
        steps = predict_steps(recipe, simulated, seconds)
        return WorkEstimate(simulated.gmacs(steps), simulated.mean_macs / 1e9, seconds)

    def _read_inputs(self, recipe: Recipe) -> Inputs:
        """Return what the estimate of a run reads."""
        quiet_libraries("warning")
        settings = input_settings(recipe)
        virtual = settings.pop("virtual_tokens")
        base = _keep(self._bases, _key(settings, virtual), lambda: init_random_base(recipe, "meta"))
        family = base.family
        lengths = [family.max_source_length, family.max_target_length, family.max_encoder_length]
        rows_key = _key(settings, lengths, family.max_decoder_length)
        rows = _keep(self._rows, rows_key, partial(_read_rows, recipe, base.objective))
        recipe = recipe.model_copy(update={"task": rows.recipe.task})
        return Inputs(recipe, base, rows, rows_key, _counter_key(recipe, base, _planned_steps(recipe, rows.data)))

    def _counter(self, inputs: Inputs, device: str) -> Counted:
        """Return the counter of a recipe's model and method, and the layers whose outputs it caches.

        Args:
            inputs: What the recipe reads.
            device: ``meta``, or that of random weights for a method that needs weights; the latest of these are kept.
        """
        counters = self._counters if device == "meta" else self._weighted
        key = inputs.counter_key
        if device == "meta" and key in self._weighted:
            raise NotImplementedError("the method needs weights")
        for known in (key, _key(key, inputs.rows_key)):
            if known in counters:
                count_extremes(counters[known][1], inputs.rows.extremes)
                return counters[known]
        base = _copy(inputs.base)
        extremes: Sequence[Batch] = _spread(self._ranges.get(key, inputs.rows.extremes))
        if device != "meta":
            base, extremes = init_random_base(inputs.recipe, device), inputs.rows.extremes  # which have values too
            counters.clear()  # weights take memory
        counted, reads_rows = _make_counter(inputs, base, extremes)
        return _keep(counters, _key(key, inputs.rows_key) if reads_rows else key, lambda: counted)


def _read_rows(recipe: Recipe, objective: BoundObjective) -> TrainingRows:
    recipe, data = prepare_training_rows(recipe, objective)
    return TrainingRows(recipe, data, shortest_and_longest_batch(recipe, data.train, objective))


def _spread(batches: Sequence[Batch]) -> list[Batch]:
    """Return batches without values from whose counts those of all lengths between follow, for each kind of batch.

    They have the smallest and the largest lengths of others, and combinations of these and of lengths between, such
    that the operations at other lengths are determined, and confirmed (see ``OperationTraces``).
    """
    kinds: dict[str, list[Batch]] = {}
    for batch in batches:
        kinds.setdefault(_key([(name, tensor.shape[:1]) for name, tensor in sorted(batch.items())]), []).append(batch)
    return [_resize(each, place) for each in kinds.values() for place in _places(_ranges(each))]


Range = tuple[int, int]
"""The smallest and the largest length."""


def _ranges(batches: Sequence[Batch]) -> list[Range]:
    """Return the ranges of the lengths that vary, the longest first; lengths of equal ranges are assumed to be one."""
    columns = [zip(*(each[name].shape for each in batches), strict=True) for name in batches[0]]
    ranges = {(min(column), max(column)) for sizes in columns for column in sizes}
    return sorted((each for each in ranges if each[0] < each[1]), key=lambda each: each[::-1], reverse=True)


def _places(ranges: Sequence[Range]) -> Iterator[dict[Range, int]]:
    """Yield lengths within ranges; a longer length is never nearer to its smallest value than a shorter one."""
    number = len(ranges)
    for largest in range(number + 1):
        yield {each: each[i < largest] for i, each in enumerate(ranges)}
    for power in (1.0, 0.5)[:number]:
        yield {each: _between(each, ((number - i) / (number + 1)) ** power) for i, each in enumerate(ranges)}


def _between(ends: Range, share: float) -> int:
    """Return a length between two others, a multiple of what both are multiples of."""
    low, high = ends
    step = math.gcd(low, high)
    return low + step * max(1, round((high - low) / step * share))


def _resize(batches: Sequence[Batch], place: Mapping[Range, int]) -> Batch:
    """Return a batch with lengths instead of ranges."""
    resized = copy.copy(batches[0])
    for name, tensor in batches[0].items():
        columns = [(min(column), max(column)) for column in zip(*(each[name].shape for each in batches), strict=True)]
        sizes = [place.get(each, each[0]) for each in columns]
        if [*tensor.shape] != sizes:
            resized[name] = torch.empty(sizes, dtype=tensor.dtype, device="meta")
    return resized


def _make_counter(inputs: Inputs, base: LoadedBase, extremes: Sequence[Batch]) -> tuple[Counted, bool]:
    """Apply the method of a recipe and make the counter; returns also whether the method read training rows."""
    recipe, data = inputs.recipe, inputs.rows.data
    batch = effective_batch_size(recipe, 1)
    reads_rows = False

    def batches(number: int) -> Sequence[Mapping[str, Tensor]]:
        nonlocal reads_rows
        reads_rows = True
        return first_batches(recipe, data.train, base.objective, base.model, batch, number)

    model: nn.Module = apply_method(recipe, base, _planned_steps(recipe, data), batches)
    objective = with_frozen_layers(recipe, base.objective, model, data.train)
    known = count_cache(recipe, objective, model)
    known.deferred = True
    counter = create_mac_counter(recipe, objective, model, known, optimizer=False)
    count_extremes(counter, extremes)
    # Whether outputs of frozen layers are cached depends on the number of their tokens.
    return (objective.frozen, counter), reads_rows or recipe.train.cache_frozen_outputs is not None


def _planned_steps(recipe: Recipe, data: PreparedData) -> int | None:
    return planned_steps_of_run(recipe, data, effective_batch_size(recipe, 1))


def _counter_key(recipe: Recipe, base: LoadedBase, steps: int | None) -> str:
    """Return everything that the counts of a model with the method applied depend on, without the lengths of rows."""
    component, family, train = base.objective.component, base.family, recipe.train
    loss = next(each for each in type(component).__mro__ if "loss" in vars(each))
    # That of the base class reads the model's family only.
    objective = None if loss is Objective else [type(component).__name__, component.model_dump(mode="json")]
    builtin = type(recipe.method).__module__.split(".")[0] == BUILTIN_DISTRIBUTION
    return _key(
        recipe.model.model_dump(mode="json"),
        recipe.method.model_dump(mode="json"),
        train.model_dump(mode="json", exclude={*WITHOUT_COST, "budget"}),
        [steps, train.budget.has_known_steps],
        objective,
        repr(component.head(recipe.task)),
        None if builtin else component.task_kind,
        [family.max_encoder_length, family.max_decoder_length],
    )


def _copy(base: LoadedBase) -> LoadedBase:
    """Copy a model without values, and its config; methods change both."""
    objective = base.objective
    shared = (objective.family.tokenizer, objective.component, objective.task)
    return copy.deepcopy(base, {id(each): each for each in shared})


def _keep(known: dict[str, Value], key: str, make: Callable[[], Value]) -> Value:
    """Return a value that is known, or make it, and forget the oldest one if there are too many."""
    if key not in known:
        known[key] = make()
        if len(known) > KEPT:
            del known[next(iter(known))]
    return known[key]


def _key(*values: Any) -> str:
    return json.dumps(values, sort_keys=True, default=str)
