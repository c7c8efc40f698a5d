"""What the saved model says when it is loaded anew: scores, losses and predictions of dev and test."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from peftkit.errors import ModelError, RecipeError, RunError, listed, one_line
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.recipe.tables import LOSS
from peftkit.runner.data import EvaluationSplit
from peftkit.runner.environment import describe
from peftkit.runner.evaluation import NORM, TEACHER_FORCED, Prediction, evaluate, values_of
from peftkit.runner.opened import Opened, as_trained, open_run
from peftkit.runner.verification.checks import EXACT, Check, NotRecomputable, compared
from peftkit.runner.verification.stored import Recorded

LIBRARIES = ("torch", "transformers", "peft", "adapters", "tokenizers", "accelerate")
"""The packages whose versions may change a number of a model."""
LIKELIHOOD = {(True, False): 1e-5, (True, True): 1e-3, (False, False): 1e-3, (False, True): 1e-1}
"""How far a log-likelihood may be off, as a share of it or of one nat if it is smaller, by whether everything is as it
was recorded (hardware, versions, processes) and whether numbers have 16 bits or fewer."""
TEXTS = {(True, False): 0.0, (True, True): 0.0, (False, False): 0.02, (False, True): 0.1}
"""Which share of generated texts may be others: one token that flips changes all after it."""


def reloaded_checks(run: Recorded, registry: Registry, notes: list[str]) -> Iterator[Check]:
    """Opens the run and evaluates it on whole dev and test, as it was at its end.

    Args:
        run: the run.
        registry: the installed components.
        notes: gets what is not as it was recorded, which widens the tolerances.

    Raises:
        NotRecomputable: the model is not there, or the one beneath it cannot be loaded.
        InputError: what was saved does not fit.
    """
    run.require("model")
    data = run.require_rows()
    try:
        opened = open_run(run.path, registry)
    except (RunError, ModelError, RecipeError, RuntimeError, OSError) as error:
        raise NotRecomputable(f"the model cannot be loaded here: {one_line(error)}") from error
    with as_trained(opened) as accelerator:
        different = [*run.versions, *other_hardware(run, describe(registry, accelerator))]
        if different:
            notes.append(f"the model is evaluated elsewhere than it was trained: {'; '.join(different)}")
        for split in data.selected:
            if split.name in run.changed:
                raise NotRecomputable(f"the rows of {split.name} are not those of the run")
            yield from _split_checks(run, opened, split, accelerator, same=not different)


def other_versions(run: Recorded, here: Mapping[str, Any]) -> list[str]:
    """The libraries whose versions are not those that the run had, in words.

    Args:
        run: the run.
        here: the environment now, as ``describe`` gives it.
    """
    if not (run.path / "environment.json").is_file():
        return ["its environment is not recorded"]
    then = run.directory.environment().get("packages", {})
    return _different({name: (then[name], here["packages"].get(name)) for name in LIBRARIES if name in then})


def other_hardware(run: Recorded, here: Mapping[str, Any]) -> list[str]:
    """What differs of the hardware and the processes, in words, of what can change the last digits of a number."""
    if not (run.path / "environment.json").is_file():
        return []
    then = run.directory.environment()
    hardware = then.get("hardware", {})
    keys = ("processor", "device", "devices", "threads")
    found = _different({key: (hardware.get(key), here["hardware"][key]) for key in keys})
    found += _different({"processes": (then.get("processes"), here["processes"])})
    return [*found, *(["it was resumed elsewhere"] if then.get("resumed") else [])]


def _different(pairs: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [f"{key} {_said(then)}, now {_said(now)}" for key, (then, now) in pairs.items() if then != now]


def _said(value: Any) -> str:
    return listed(value) if isinstance(value, list) else str(value)


def is_half(recipe: Recipe) -> bool:
    """Whether a model computes with 16 bits or fewer."""
    model, mixed = recipe.model, recipe.train.mixed_precision
    return model.dtype != "float32" or mixed != "no" or bool(model.quantization)


def _split_checks(
    run: Recorded, opened: Opened, split: EvaluationSplit, accelerator: Accelerator, *, same: bool
) -> Iterator[Check]:
    recipe, what = opened.recipe, "model"
    try:
        result = evaluate(opened.model, split, recipe, opened.form, accelerator)
    except (RunError, torch.OutOfMemoryError) as error:
        raise NotRecomputable(f"the model cannot be evaluated here: {one_line(error)}") from error
    key = (same, is_half(recipe))
    stored, tolerance = run.summary["selected"][split.name], LIKELIHOOD[key]
    yield compared(what, f"{split.name} {LOSS}", stored.get(LOSS), result.values[LOSS], tolerance)
    scores = {name: value for name, value in result.values.items() if name != LOSS}
    if not (run.path / "predictions" / f"{split.name}.jsonl").is_file():
        for name, value in scores.items():
            yield compared(what, f"{split.name} {name}", stored.get(name), value)
        return
    kept = run.predictions(split.name)
    if [row["index"] for row in kept] != split.indices:
        yield compared(what, f"{split.name} predictions", len(kept), len(split.indices), reason="of other rows")
        return
    furthest = max((_distance(a, b) for a, b in zip(kept, result.predictions, strict=True)), default=0.0)
    yield compared(what, f"{split.name} log-likelihoods, largest difference", 0.0, furthest, tolerance)
    near, excused, wrong = _texts(kept, result.predictions, recipe, tolerance, TEXTS[key])
    yield compared(what, f"{split.name} predictions that are others", 0, wrong, reason=f"beside {excused} that may be")
    # Scores may be off by exactly what the predictions change that may be others.
    form = type(opened.form)
    before, after = (values_of(recipe, form, split.examples, [*map(dict, rows)]) for rows in (kept, near))
    for name in dict.fromkeys((*stored, *scores)):
        if name != LOSS:
            allowed = abs(after[name] - before[name]) if name in after else 0.0
            yield compared(what, f"{split.name} {name}", stored.get(name), scores.get(name), max(EXACT, allowed))


def _distance(row: Mapping[str, Any], fresh: Prediction) -> float:
    """How far the log-likelihoods of a row are apart, as a share of them or of one nat."""
    pairs = [(row[LOSS], fresh[LOSS])]
    if "log_likelihoods" in row:
        pairs += zip(row["log_likelihoods"], fresh["log_likelihoods"], strict=True)
    return max(_off(a, b) for a, b in pairs)


def _off(stored: float, found: float) -> float:
    if math.isfinite(stored) and math.isfinite(found):
        return abs(stored - found) / max(1.0, abs(stored))
    return math.inf if math.isfinite(stored) or math.isfinite(found) else 0.0


def _texts(
    kept: Sequence[Mapping[str, Any]], fresh: Sequence[Prediction], recipe: Recipe, tolerance: float, share: float
) -> tuple[list[Prediction], int, int]:
    """The stored predictions, in which those that may be others are as they are now, and how many may and may not.

    A candidate may be another where both score alike within the tolerance; of texts that come token by token a share.
    """
    keys = ("prediction", f"prediction{NORM}", TEACHER_FORCED, "target", "source")
    near = [dict(row) for row in kept]
    excused, wrong, flipped = 0, 0, list[int]()
    for place, (row, new) in enumerate(zip(kept, fresh, strict=True)):
        different = [key for key in keys if row.get(key) != new.get(key)]
        free = [k for k in different if k == TEACHER_FORCED or (k == "prediction" and "candidates" not in row)]
        ranked = [key for key in different if key not in free]
        if not all(key.startswith("prediction") and _alike(row, key, new[key], recipe, tolerance) for key in ranked):
            wrong += 1
        elif free:
            flipped.append(place)
        elif ranked:
            excused += 1
            near[place] |= {key: new[key] for key in ranked}
    if len(flipped) > share * len(kept):
        return near, excused, wrong + len(flipped)
    for place in flipped:
        near[place] |= {key: fresh[place][key] for key in keys if key in fresh[place]}
    return near, excused + len(flipped), wrong


def _alike(row: Mapping[str, Any], key: str, text: str, recipe: Recipe, tolerance: float) -> bool:
    """Whether two candidates of a row score alike within the tolerance."""
    candidates = row.get("candidates", [])
    if not {row[key], text} <= {*candidates}:
        return False
    tokens = row["candidate_tokens"]
    summed = (recipe.evaluate.scoring == "sum") == (key == "prediction")
    by = [1] * len(tokens) if summed else [max(n, 1) for n in tokens]
    one, other = (row["log_likelihoods"][i] / by[i] for i in map(candidates.index, (row[key], text)))
    return bool(abs(one - other) <= 2 * tolerance * max(1.0, abs(one)))
