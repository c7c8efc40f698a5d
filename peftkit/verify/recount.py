"""Recount the compute, tokens and parameters of training from the recipe and the data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from datasets import Dataset
from torch import Tensor

from peftkit.analysis.dry_run import apply_recipe_method
from peftkit.analysis.simulated_steps import simulate_steps
from peftkit.data.cacheable_layers import may_change_training, with_frozen_layers
from peftkit.data.dataloader import effective_batch_size
from peftkit.data.microbatches import BatchSplitter, make_splitter
from peftkit.data.pipeline import PreparedData
from peftkit.errors import InputError, PeftkitError, summarize_error
from peftkit.macs.interpolated_counts import StepMacs
from peftkit.macs.shadow_models import VALUE_ERRORS
from peftkit.models.load_base_model import LoadedBase, init_random_base, load_base
from peftkit.models.parameter_counts import count_parameters
from peftkit.models.reference_model import expected_reference
from peftkit.recipe import Recipe
from peftkit.train.budget import Progress, budget_used
from peftkit.train.build_mac_counter import make_mac_counter
from peftkit.train.early_stopping import EARLY_STOPPING, EarlyStopping
from peftkit.train.steps.reference_passes import STORED, count_reference_passes
from peftkit.verify.results import Check, NotRecomputable, cannot_check, check_value
from peftkit.verify.stored_files import RecordedRun

GIGA = 1e9
COUNT_TOLERANCE = 1e-12
"""Relative tolerance of integer sums that are stored in billions."""
APPROXIMATE_TOLERANCE = 0.01
"""Relative tolerance of compute with other library versions, quantized weights, or methods that may change what is
trained."""
COMPUTE_READINGS = ("gmacs", "forward_gmacs", "backward_gmacs", "gflops", "elementwise_gops", "optimizer_gops")
SIZE_READINGS = (
    "samples",
    "input_tokens",
    "target_tokens",
    "padding_tokens",
    "trainable_parameters",
    "checkpoint_bytes",
)
RECOUNTED = frozenset((*COMPUTE_READINGS, *SIZE_READINGS))
"""Readings of meters that are recounted."""
MEASURED = {"seconds": "time", "bytes": "memory", "joules": "energy", "kwh": "energy", "watts": "power"}
"""Quantities that are measured during training, by a word in the name of the reading."""


def compute_checks(run: RecordedRun, *, load_model: bool) -> Iterator[Check]:
    """Check compute, rows and tokens at each evaluation, the number of steps, and the trainable parameters.

    Args:
        run: The run.
        load_model: Whether weights may be loaded for methods that depend on their values.

    Yields:
        The checks.

    Raises:
        NotRecomputable: The rows are streamed or have changed, or the microbatch size was reduced by running out of
            memory.
        InputError: The evaluations cannot be read.
    """
    run.require("evaluations.jsonl")
    recipe, summary = run.recipe, run.summary
    data = run.require_rows("train")
    if data.split_sizes["train"] is None:
        raise NotRecomputable("the training rows are streamed")
    tokens = recipe.train.tokens_per_batch
    whole, unit = (recipe.train.batch_size, "rows") if tokens is None else (tokens, "tokens")
    microbatch_size = summary.get("microbatch_size", whole)
    if microbatch_size < whole:
        raise NotRecomputable(f"the microbatch size was reduced to {microbatch_size} {unit} when memory ran out")
    evaluations = run.directory.evaluations()
    try:
        steps = {row["step"] for row in evaluations}, summary["steps"]
        split, cached = bool(summary.get("split_batches")), bool(summary.get("cached_layers"))
        stored = summary.get("reference", {}).get("from") == STORED
        options = {"load_model": load_model, "split": split, "cached": cached, "stored": stored}
        recount = _recount(recipe, data, summary["processes"], *steps, **options)
    except (PeftkitError, RuntimeError) as error:
        raise NotRecomputable(f"the steps cannot be counted here: {summarize_error(error)}") from error
    approximate = bool(run.changed_versions) or may_change_training(recipe.method) or bool(recipe.model.quantization)
    yield check_value("work", "trainable parameters", summary["parameters"]["trainable"], recount.trainable)
    yield check_value("work", "parameters", summary["parameters"]["total"], recount.total)
    yield _check_steps(run, evaluations, recount.ends)
    for row in evaluations:
        if row["step"] not in recount.readings:
            raise InputError(f"step {row['step']} is not in a run of {summary['steps']} steps")
        yield from _check_readings(
            run, row, recount.readings[row["step"]], f"step {row['step']} ", approximate=approximate
        )
    yield from _check_readings(run, summary, recount.readings[summary["steps"]], "", approximate=approximate)


def measurement_checks(run: RecordedRun) -> Iterator[Check]:
    """Report the measurements, which cannot be recomputed."""
    for name, value in run.summary["cost"].items():
        if name not in RECOUNTED:
            quantity = next((quantity for word, quantity in MEASURED.items() if word in name.split("_")), "it")
            yield cannot_check("measured", name, f"{quantity} is measured during training", value)
    for name in ("evaluation_seconds", "reused_evaluation_seconds", "counting_seconds", "wall_seconds"):
        if run.summary.get(name):
            yield cannot_check("measured", name, "time is measured during training", run.summary[name])


def _check_steps(run: RecordedRun, evaluations: Sequence[Mapping[str, Any]], budget_ends: int | None) -> Check:
    """Check the step at which training ended: by the budget, by early stopping, or by a callback of a plugin."""
    summary, reason = run.summary, "the budget ends at another step"
    ends = budget_ends
    stopped = _early_stopping_step(run, evaluations)
    if stopped is not None and (ends is None or stopped < ends):
        ends, reason = stopped, "early stopping ends at another step"
    if (summary.get("stopped_early") or {}).get("callback", EARLY_STOPPING) != EARLY_STOPPING and (
        ends is None or ends >= summary["steps"]
    ):
        return cannot_check("work", "steps", "a callback ended training", summary["steps"])
    if ends is None:
        return cannot_check("work", "steps", "the budget limits time or energy", summary["steps"])
    return check_value("work", "steps", summary["steps"], ends, reason=reason)


def _early_stopping_step(run: RecordedRun, evaluations: Sequence[Mapping[str, Any]]) -> int | None:
    """The step at which early stopping ends training by the recorded evaluations; None if it does not."""
    config, metric = run.recipe.train.early_stopping, run.summary["selection_metric"]
    if config is None:
        return None
    early_stopping = EarlyStopping(config)
    for row in evaluations:
        value = row["dev"].get(metric)
        score = math.nan if value is None else float(value)
        if early_stopping.ends_with(score, higher_is_better=run.summary["higher_is_better"]):
            return int(row["step"])
    return None


@dataclass(frozen=True)
class _Recount:
    """The recounted cost of a run."""

    trainable: int
    total: int
    readings: Mapping[int, Mapping[str, float]]
    """Meter readings by step."""
    ends: int | None
    """The step at which the budget is used up; None if time or energy may end the run earlier."""


def _recount(
    recipe: Recipe,
    data: PreparedData,
    processes: int,
    steps: set[int],
    last_step: int,
    *,
    load_model: bool,
    split: bool,
    cached: bool,
    stored: bool,
) -> _Recount:
    """Recount the readings at the given steps and the last one.

    Args:
        recipe: The recipe.
        data: The data.
        processes: The number of processes.
        steps: The steps.
        last_step: The last step of the run.
        load_model: Whether weights may be loaded.
        split: Whether batches were split.
        cached: Whether outputs of frozen layers were cached.
        stored: Whether log-likelihoods of the base model were computed before training.
    """
    batch, budget = effective_batch_size(recipe, processes), recipe.train.budget

    def count(base: LoadedBase) -> _Recount:
        model = apply_recipe_method(recipe, base, data, batch)
        objective = base.objective
        if objective.component.needs_reference:
            objective = objective.with_reference(expected_reference(base.family, recipe, stored=stored))
        if cached:
            objective = with_frozen_layers(recipe, objective, model, data.train, processes=processes)
        mac_counter = make_mac_counter(recipe, objective, model, data.train)
        splitter = make_splitter(recipe, objective, model, processes) if split else BatchSplitter(objective)
        trained = [p for p in model.parameters() if p.requires_grad]
        trainable, total = count_parameters(model)
        sizes = {
            "trainable_parameters": trainable,
            "checkpoint_bytes": sum(p.numel() * p.element_size() for p in trained),
        }

        def read(progress: Progress, step_macs: StepMacs, padding: int) -> dict[str, float]:
            macs = step_macs.forward_macs + step_macs.backward_macs
            return {
                "gmacs": macs / GIGA,
                "forward_gmacs": step_macs.forward_macs / GIGA,
                "backward_gmacs": step_macs.backward_macs / GIGA,
                "gflops": 2 * macs / GIGA,
                "elementwise_gops": step_macs.elementwise / GIGA,
                "optimizer_gops": progress.step * mac_counter.optimizer_elementwise / GIGA,
                "samples": progress.samples,
                "input_tokens": progress.input_tokens,
                "target_tokens": progress.target_tokens,
                "padding_tokens": padding,
                "epoch": progress.epoch,
                **sizes,
            }

        step_macs, padding, ends = StepMacs(0, 0, 0), 0, last_step + 1
        if stored and isinstance(data.train, Dataset):
            step_macs = count_reference_passes(recipe, data.train)
        start = Progress(
            steps_per_epoch=data.steps_per_epoch(batch, recipe.train.tokens_per_batch), macs=step_macs.forward_macs
        )
        readings = {0: read(start, step_macs, padding)}
        for counted in islice(simulate_steps(recipe, data, splitter, mac_counter, batch, start), last_step):
            progress, step_macs = counted.progress, step_macs.plus(counted.step_macs)
            padding += sum(
                _num_positions(microbatch) - int(base.family.num_tokens(microbatch))
                for microbatch in counted.microbatches
            )
            if budget_used(budget, progress) >= 1:
                ends = min(ends, progress.step)
            if progress.step in {*steps, last_step}:
                readings[progress.step] = read(progress, step_macs, padding)
        timed = (budget.seconds, budget.wall_seconds, budget.joules) != (None,) * 3
        return _Recount(trainable, total, readings, None if timed else ends)

    try:
        # Which layers are frozen is found by passes that need values, whatever they are.
        return count(init_random_base(recipe, "cpu" if cached else "meta"))
    except VALUE_ERRORS as error:
        if not load_model:
            reason = "the method depends on the values of the weights, which are not loaded"
            raise NotRecomputable(reason) from error
        return count(load_base(recipe))


def _num_positions(microbatch: Mapping[str, Tensor]) -> int:
    """The number of token positions in a microbatch, including padding."""
    return sum(microbatch[key].numel() for key in ("input_ids", "decoder_input_ids") if key in microbatch)


def _check_readings(
    run: RecordedRun, stored: Mapping[str, Any], recomputed: Mapping[str, float], prefix: str, *, approximate: bool
) -> Iterator[Check]:
    """Check the readings of one evaluation, or of the summary."""
    for name, value in stored["cost"].items():
        if name == "optimizer_gops" and run.summary.get("steps_skipped"):  # the optimizer did not run in these
            yield cannot_check("work", f"{prefix}{name}", "steps were skipped, and which ones is not recorded", value)
        elif name == "elementwise_gops" and run.changed_versions:
            yield cannot_check("work", f"{prefix}{name}", "other library versions call other operations", value)
        elif name in RECOUNTED:
            tolerance = APPROXIMATE_TOLERANCE if approximate and name in COMPUTE_READINGS else COUNT_TOLERANCE
            yield check_value("work", f"{prefix}{name}", value, recomputed[name], tolerance, least=0.0)
    yield check_value("work", f"{prefix}total samples", stored["samples"], recomputed["samples"])
    yield check_value("work", f"{prefix}epoch", stored["epoch"], recomputed["epoch"])
    for side, number in stored["tokens"].items():
        yield check_value("work", f"{prefix}tokens {side}", number, recomputed[f"{side}_tokens"])
