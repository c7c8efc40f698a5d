"""The verbs ``cost`` and ``profile``: what training will take, and where its time goes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.errors import InputError
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe

if TYPE_CHECKING:
    from peftkit.runner.prediction import Prediction
    from peftkit.runner.profile import Profile


def predict_costs(recipes: Sequence[str], overrides: Iterable[str], *, trial: bool, as_json: bool) -> int:
    """Prints what each recipe will cost: a page for one, and a line each, as it is found, for several.

    Raises:
        PeftkitError: a recipe, its model's config or its data are wrong.
    """
    registry = load_registry()
    loaded = [load_recipe(recipe, registry, list(overrides)) for recipe in recipes]
    from peftkit.runner.prediction import predict_cost  # torch: only once the recipes are known to be right

    found = (predict_cost(recipe, registry, trial=trial) for recipe in loaded)
    if as_json:
        told = [asdict(prediction) | {"memory_bytes": prediction.memory_bytes} for prediction in found]
        print(json.dumps({"format": 1, "recipes": told}, indent=2))
    elif len(loaded) == 1:
        print(*map(_cost_page, found))
    else:
        wide = max(6, *(len(recipe.run.name) for recipe in loaded)), max(6, *(len(r.method.name) for r in loaded))
        titles = ("trainable", "GMACs/step", "/epoch", "/run", "steps", "memory", "checkpoint")
        print(_line(wide, ["recipe", "method", *titles, *(("s/step", "s/run") if trial else ())]))
        for prediction in found:
            print(_line(wide, _cells(prediction)), flush=True)
    return 0


def profile_recipe(recipe: str, overrides: Iterable[str], trace: str, *, as_json: bool) -> int:
    """Prints where the time of the recipe's steps goes, and writes their events.

    Raises:
        PeftkitError: the recipe, its model's config or its data are wrong, or the events cannot be written.
    """
    registry = load_registry()
    loaded = load_recipe(recipe, registry, overrides)
    if trace:
        try:
            Path(trace).touch()  # before the steps, which take a while
        except OSError as error:
            raise InputError(f"--trace: {trace} cannot be written: {error.strerror}") from error
    from peftkit.runner.profile import profile_steps

    found = profile_steps(loaded, registry, Path(trace) if trace else None)
    if found is not None:  # this is the main process
        print(json.dumps({"format": 1, **asdict(found)}, indent=2) if as_json else _profile_page(found, trace))
    return 0


def _cost_page(found: Prediction) -> str:
    share = found.trainable_parameters / found.total_parameters
    memory = {
        "weights": found.weight_bytes,
        "gradients": found.gradient_bytes,
        "optimizer": found.optimizer_bytes,
        "activations": found.activation_bytes,
    }
    parts = ", ".join(f"{key} {_bytes(value)}" for key, value in memory.items())
    rows = [
        ("trainable", f"{found.trainable_parameters:,} of {found.total_parameters:,} parameters ({share:.2%})"),
        ("a step", f"{_number(found.gmacs_per_step)} GMACs, {found.effective_batch} rows"),
        ("an epoch", _amount(found.steps_per_epoch, found.gmacs_per_epoch)),
        ("the run", _amount(found.steps, found.gmacs)),
        ("memory", f"{_bytes(found.memory_bytes)} ({parts})"),
        ("checkpoint", _bytes(found.checkpoint_bytes)),
    ]
    if found.seconds_per_step is not None:
        times = {"a step": found.seconds_per_step, "an epoch": found.seconds_per_epoch, "the run": found.seconds}
        told = ", ".join(f"{key} {value:,.3g} s" for key, value in times.items() if value is not None)
        rows.append(("time here", told))
    head = f"{found.name}: {found.method} on {found.task} with {found.model}"
    return "\n".join([head, *(f"  {key:<11}{value}" for key, value in rows)])


def _cells(found: Prediction) -> list[str]:
    seconds = (found.seconds_per_step, found.seconds)
    numbers = (found.gmacs_per_step, found.gmacs_per_epoch, found.gmacs)
    return [
        found.name,
        found.method,
        f"{found.trainable_parameters:,}",
        *("?" if number is None else _number(number) for number in numbers),
        "?" if found.steps is None else f"{found.steps:,}",
        _bytes(found.memory_bytes),
        _bytes(found.checkpoint_bytes),
        *("?" if s is None else f"{s:,.3g}" for s in (seconds if found.seconds_per_step is not None else ())),
    ]


def _line(wide: tuple[int, int], cells: Sequence[str]) -> str:
    name, method, trainable, *rest = cells
    return f"{name:<{wide[0]}}  {method:<{wide[1]}}{trainable:>13}" + "".join(f"{cell:>11}" for cell in rest)


def _amount(steps: int | None, gmacs: float | None) -> str:
    if steps is None or gmacs is None:
        return "not known beforehand"
    return f"{_number(gmacs)} GMACs, {steps:,} steps"


def _number(value: float) -> str:
    """Five digits, without an exponent for what is large."""
    return f"{float(f'{value:.5g}'):,.15g}"


def _profile_page(found: Profile, trace: str) -> str:
    whole = sum(found.seconds_per_step.values())
    lines = [f"{found.name}: {found.method} with {found.model}, {found.steps} steps of {1000 * whole:,.1f} ms"]
    lines.append(f"  on {found.device}, {found.threads} threads, {found.processes} processes")
    lines += [_time(part, seconds, whole) for part, seconds in found.seconds_per_step.items()]
    if found.processes > 1:
        lines.append(_time("collective", found.collective_seconds_per_step, whole) + " (within these)")
    share = found.macs_per_second / found.peak_macs_per_second
    peak = _rate(found.peak_macs_per_second)
    lines.append(f"  {_rate(found.macs_per_second)}, {share:.0%} of the {peak} that large products reach here")
    lines.append("  longest operations:")
    for key, seconds, calls in found.operations:  # the names of a GPU's kernels are longer than a line
        lines.append(f"{_time('', seconds, whole, 4)}  {calls:>7,}×  {key if len(key) <= 70 else f'{key[:69]}…'}")
    return "\n".join([*lines, f"  events: {trace}"] if trace else lines)


def _time(what: str, seconds: float, whole: float, width: int = 34) -> str:
    return f"  {what:<{width}}{1000 * seconds:>10,.2f} ms {seconds / whole:>5.0%}"


def _rate(macs: float) -> str:
    return f"{macs / 1e9:,.4g} GMAC/s"


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:,.4g} GiB"
