"""What training took, counted anew from the recipe and the data: multiply-accumulates, tokens, parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor

from peftkit.components import Method
from peftkit.errors import InputError, PeftkitError, one_line
from peftkit.recipe import Recipe
from peftkit.runner.batches import effective_batch
from peftkit.runner.budget import Used, progress
from peftkit.runner.data import Data
from peftkit.runner.ledger import UNABLE, Work, make_ledger
from peftkit.runner.models import Base, blank_base, load_base, parameters
from peftkit.runner.prediction import counted_steps
from peftkit.runner.rehearsal import applied
from peftkit.runner.verification.checks import Check, NotRecomputable, compared, unable
from peftkit.runner.verification.stored import Recorded

GIGA = 1e9
COUNTS = 1e-12
"""How far sums of whole numbers may be off that are stored in billions."""
ABOUT = 0.01
"""How far work may be off with other versions of the libraries, for quantised weights, and for methods that may change
what they train on the way."""
WORK = ("gmacs", "forward_gmacs", "backward_gmacs", "gflops", "elementwise_gops", "optimizer_gops")
SIZES = ("samples", "input_tokens", "target_tokens", "padding_tokens", "trainable_parameters", "checkpoint_bytes")
RECOUNTED = frozenset((*WORK, *SIZES))
"""The readings that are counted anew."""
MEASURED = {"seconds": "time", "bytes": "memory", "joules": "energy", "kwh": "energy", "watts": "power"}
"""What is measured while a model trains, by a word of the reading's name."""


def work_checks(run: Recorded, *, load_model: bool) -> Iterator[Check]:
    """The work, rows and tokens up to each evaluation, the steps that the budget allows, and what is trained.

    Args:
        run: the run.
        load_model: whether weights may be loaded where a method is made by their values.

    Raises:
        NotRecomputable: rows are streamed or others, or memory ran out, so that passes became smaller.
        InputError: the evaluations cannot be read.
    """
    run.require("evaluations.jsonl")
    recipe, summary = run.recipe, run.summary
    data = run.require_rows("train")
    if data.sizes["train"] is None:
        raise NotRecomputable("the training rows are streamed")
    rows_a_pass = summary.get("rows_a_pass", recipe.train.batch_size)
    if rows_a_pass < recipe.train.batch_size:
        raise NotRecomputable(f"passes became smaller, of {rows_a_pass} rows, where memory ran out")
    rows = run.directory.evaluations()
    try:
        steps = {row["step"] for row in rows}, summary["steps"]
        found = _recounted(recipe, data, summary["processes"], *steps, load_model=load_model)
    except (PeftkitError, RuntimeError) as error:
        raise NotRecomputable(f"the steps cannot be counted here: {one_line(error)}") from error
    about = bool(run.versions) or _changes(recipe.method) or bool(recipe.model.quantization)
    yield compared("work", "trainable parameters", summary["parameters"]["trainable"], found.trainable)
    yield compared("work", "parameters", summary["parameters"]["total"], found.total)
    if found.ends is None:
        yield unable("work", "steps", "the budget is one of time or energy, too", summary["steps"])
    else:
        yield compared("work", "steps", summary["steps"], found.ends, reason="the step at which the budget is used")
    for row in rows:
        if row["step"] not in found.readings:
            raise InputError(f"there is no step {row['step']} in a run of {summary['steps']}")
        yield from _read(run, row, found.readings[row["step"]], f"step {row['step']} ", about=about)
    yield from _read(run, summary, found.readings[summary["steps"]], "", about=about)


def measured_checks(run: Recorded) -> Iterator[Check]:
    """What cannot be recomputed, since it was measured."""
    for name, value in run.summary["cost"].items():
        if name not in RECOUNTED:
            kind = next((kind for word, kind in MEASURED.items() if word in name.split("_")), "it")
            yield unable("measured", name, f"{kind} is measured while the model trains", value)
    for name in ("evaluation_seconds", "counting_seconds"):
        if name in run.summary:
            yield unable("measured", name, "time is measured while the model trains", run.summary[name])


@dataclass(frozen=True)
class _Recount:
    """What a run takes, counted anew."""

    trainable: int
    total: int
    readings: Mapping[int, Mapping[str, float]]
    """Up to each step that is asked for."""
    ends: int | None
    """The step at which the budget is used; None where time or energy may end the run before."""


def _recounted(
    recipe: Recipe, data: Data, processes: int, wanted: set[int], last: int, *, load_model: bool
) -> _Recount:
    """The readings at these steps and at the last one."""
    batch, budget = effective_batch(recipe, processes), recipe.train.budget

    def count(base: Base) -> _Recount:
        model = applied(recipe, base, data, batch)
        ledger = make_ledger(recipe, base.form, model, data.train)
        trained = [p for p in model.parameters() if p.requires_grad]
        trainable, total = parameters(model)
        sizes = {
            "trainable_parameters": trainable,
            "checkpoint_bytes": sum(p.numel() * p.element_size() for p in trained),
        }

        def read(used: Used, work: Work, padding: int) -> dict[str, float]:
            macs = work.forward_macs + work.backward_macs
            return {
                "gmacs": macs / GIGA,
                "forward_gmacs": work.forward_macs / GIGA,
                "backward_gmacs": work.backward_macs / GIGA,
                "gflops": 2 * macs / GIGA,
                "elementwise_gops": work.elementwise / GIGA,
                "optimizer_gops": used.step * ledger.optimizer / GIGA,
                "samples": used.samples,
                "input_tokens": used.input_tokens,
                "target_tokens": used.target_tokens,
                "padding_tokens": padding,
                "epoch": used.epoch,
                **sizes,
            }

        work, padding, ends = Work(0, 0, 0), 0, last + 1
        readings = {0: read(Used(steps_per_epoch=data.steps_per_epoch(batch)), work, padding)}
        for counted in islice(counted_steps(recipe, data, base.form, ledger, batch), last):
            used, work = counted.used, work.plus(counted.work)
            padding += sum(_places(part) - int(base.form.read(part)) for part in counted.parts)
            if progress(budget, used) >= 1:
                ends = min(ends, used.step)
            if used.step in {*wanted, last}:
                readings[used.step] = read(used, work, padding)
        timed = budget.seconds is not None or budget.joules is not None
        return _Recount(trainable, total, readings, None if timed else ends)

    try:
        return count(blank_base(recipe, "meta"))
    except UNABLE as error:
        if not load_model:
            reason = "the method is made by the values of the weights, and these are not to be loaded"
            raise NotRecomputable(reason) from error
        return count(load_base(recipe))


def _places(part: Mapping[str, Tensor]) -> int:
    """The tokens that a pass has room for."""
    return sum(part[key].numel() for key in ("input_ids", "decoder_input_ids") if key in part)


def _read(
    run: Recorded, stored: Mapping[str, Any], found: Mapping[str, float], prefix: str, *, about: bool
) -> Iterator[Check]:
    """The readings of an evaluation, or of the summary."""
    for name, value in stored["cost"].items():
        if name == "optimizer_gops" and run.summary.get("steps_skipped"):  # these are not made
            yield unable("work", f"{prefix}{name}", "steps were skipped, and it is not recorded which", value)
        elif name == "elementwise_gops" and run.versions:
            yield unable("work", f"{prefix}{name}", "other versions of the libraries call other operations", value)
        elif name in RECOUNTED:
            tolerance = ABOUT if about and name in WORK else COUNTS
            yield compared("work", f"{prefix}{name}", value, found[name], tolerance, least=0.0)
    yield compared("work", f"{prefix}samples of all", stored["samples"], found["samples"])
    yield compared("work", f"{prefix}epoch", stored["epoch"], found["epoch"])
    for side, number in stored["tokens"].items():
        yield compared("work", f"{prefix}tokens {side}", number, found[f"{side}_tokens"])


def _changes(method: Method) -> bool:
    """Whether a method has a hand in the steps, and may change what is trained on the way."""
    own = type(method)
    return own.after_step is not Method.after_step or own.after_backward is not Method.after_backward
