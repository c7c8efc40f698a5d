"""Reload the saved model and recompute scores, losses and predictions on dev and test."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from peftkit.components import Prediction
from peftkit.data.tokenized_split import TokenizedSplit
from peftkit.errors import ModelError, RecipeError, RunError, comma_separated, summarize_error
from peftkit.evaluate.evaluator import SAMPLES, TEACHER_FORCED, compute_values, evaluate
from peftkit.example_tables import NORM_SUFFIX
from peftkit.inference.finished_run import FinishedRun, evaluation_context, load_finished_run
from peftkit.monitor.collect_env import collect_environment
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.recipe.recipe import LOSS
from peftkit.verify.results import EXACT, Check, NotRecomputable, check_value
from peftkit.verify.stored_files import RecordedRun

LIBRARIES = ("torch", "transformers", "peft", "adapters", "tokenizers", "accelerate")
"""Packages whose versions may change a model's outputs."""
LOG_LIKELIHOOD_TOLERANCE = {(True, False): 1e-5, (True, True): 1e-3, (False, False): 1e-3, (False, True): 1e-1}
"""Tolerance of a log-likelihood, relative to it or to one nat if it is smaller, by (same environment, 16 bits or
fewer)."""
NUMBERS = ("values", "probabilities", "likelihood")
"""Keys of predictions with numbers, in a list or by name."""
CHANGED_TEXTS_ALLOWED = {(True, False): 0.0, (True, True): 0.0, (False, False): 0.02, (False, True): 0.1}
"""Fraction of generated texts that may differ, since one different token changes all that follow; keys as above."""


def model_checks(run: RecordedRun, registry: Registry, notes: list[str]) -> Iterator[Check]:
    """Load the run's model and evaluate it on all of dev and test.

    Args:
        run: The run.
        registry: The installed components.
        notes: Receives what differs from the recorded environment and widens the tolerances.

    Yields:
        The checks.

    Raises:
        NotRecomputable: The model is missing, or its base model cannot be loaded.
        InputError: The saved weights do not fit.
    """
    run.require("model")
    data = run.require_rows()
    try:
        finished = load_finished_run(run.path, registry)
    except (RunError, ModelError, RecipeError, RuntimeError, OSError) as error:
        raise NotRecomputable(f"the model cannot be loaded here: {summarize_error(error)}") from error
    with evaluation_context(finished) as accelerator:
        differences = [*run.changed_versions, *changed_hardware(run, collect_environment(registry, accelerator))]
        if differences:
            notes.append(f"the model is evaluated in another environment than the run: {'; '.join(differences)}")
        for split in data.final_splits:
            if split.name in run.changed_splits:
                raise NotRecomputable(f"the rows of {split.name} have changed since the run")
            yield from _split_checks(run, finished, split, accelerator, same_environment=not differences)


def changed_versions(run: RecordedRun, here: Mapping[str, Any]) -> list[str]:
    """Describe the libraries whose versions differ from those of the run.

    Args:
        run: The run.
        here: The current environment, from ``collect_environment``.

    Returns:
        One text per difference.
    """
    if not (run.path / "environment.json").is_file():
        return ["its environment was not recorded"]
    recorded = run.directory.environment().get("packages", {})
    return _describe_changes(
        {name: (recorded[name], here["packages"].get(name)) for name in LIBRARIES if name in recorded}
    )


def changed_hardware(run: RecordedRun, here: Mapping[str, Any]) -> list[str]:
    """Describe the differences in hardware and processes that may change the last digits of a number.

    Args:
        run: The run.
        here: The current environment, from ``collect_environment``.

    Returns:
        One text per difference.
    """
    if not (run.path / "environment.json").is_file():
        return []
    recorded = run.directory.environment()
    hardware = recorded.get("hardware", {})
    keys = ("processor", "device", "devices", "threads")
    changes = _describe_changes({key: (hardware.get(key), here["hardware"][key]) for key in keys})
    changes += _describe_changes({"processes": (recorded.get("processes"), here["processes"])})
    return [*changes, *(["it was resumed in another environment"] if recorded.get("resumed") else [])]


def _describe_changes(pairs: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [
        f"{key} {_format_value(then)}, now {_format_value(now)}" for key, (then, now) in pairs.items() if then != now
    ]


def _format_value(value: Any) -> str:
    return comma_separated(value) if isinstance(value, list) else str(value)


def _is_half_precision(recipe: Recipe) -> bool:
    """Whether the model computes with 16 bits or fewer."""
    model, mixed = recipe.model, recipe.train.mixed_precision
    return model.dtype != "float32" or mixed != "no" or bool(model.quantization)


def _split_checks(
    run: RecordedRun, finished: FinishedRun, split: TokenizedSplit, accelerator: Accelerator, *, same_environment: bool
) -> Iterator[Check]:
    recipe, what = finished.recipe, "model"
    try:
        result = evaluate(finished.model, split, recipe, finished.objective, accelerator)
    except (RunError, torch.OutOfMemoryError) as error:
        raise NotRecomputable(f"the model cannot be evaluated here: {summarize_error(error)}") from error
    environment = (same_environment, _is_half_precision(recipe))
    stored, tolerance = run.summary["selected"][split.name], LOG_LIKELIHOOD_TOLERANCE[environment]
    yield check_value(what, f"{split.name} {LOSS}", stored.get(LOSS), result.values[LOSS], tolerance)
    scores = {name: value for name, value in result.values.items() if name != LOSS}
    if not (run.path / "predictions" / f"{split.name}.jsonl").is_file():
        for name, value in scores.items():
            yield check_value(what, f"{split.name} {name}", stored.get(name), value)
        return
    stored_rows = run.predictions(split.name)
    if [row["index"] for row in stored_rows] != split.indices:
        yield check_value(
            what,
            f"{split.name} predictions",
            len(stored_rows),
            len(split.indices),
            reason="they are predictions of other rows",
        )
        return
    largest = max((_largest_distance(a, b) for a, b in zip(stored_rows, result.predictions, strict=True)), default=0.0)
    yield check_value(what, f"{split.name} log-likelihoods, largest difference", 0.0, largest, tolerance)
    adjusted, excused, wrong = _compare_predictions(
        stored_rows, result.predictions, recipe, tolerance, CHANGED_TEXTS_ALLOWED[environment]
    )
    yield check_value(what, f"{split.name} changed predictions", 0, wrong, reason=f"beside {excused} permitted ones")
    # Scores may differ by exactly as much as the permitted differences change them.
    objective = finished.objective.component
    before, after = (
        compute_values(recipe, objective, split.examples, [*map(dict, rows)]) for rows in (stored_rows, adjusted)
    )
    for name in dict.fromkeys((*stored, *scores)):
        if name != LOSS:
            allowed = abs(after[name] - before[name]) if name in after else 0.0
            yield check_value(what, f"{split.name} {name}", stored.get(name), scores.get(name), max(EXACT, allowed))


def _largest_distance(row: Mapping[str, Any], fresh: Prediction) -> float:
    """The largest difference of the log-likelihoods of a row, relative to them or to one nat."""
    pairs = [(row[LOSS], fresh[LOSS])]
    if "log_likelihoods" in row:
        pairs += zip(row["log_likelihoods"], fresh["log_likelihoods"], strict=True)
    return max(_relative_difference(a, b) for a, b in pairs)


def _relative_difference(stored: float, recomputed: float) -> float:
    if math.isfinite(stored) and math.isfinite(recomputed):
        return abs(stored - recomputed) / max(1.0, abs(stored))
    return math.inf if math.isfinite(stored) or math.isfinite(recomputed) else 0.0


def _compare_predictions(
    stored: Sequence[Mapping[str, Any]],
    new_predictions: Sequence[Prediction],
    recipe: Recipe,
    tolerance: float,
    share: float,
) -> tuple[list[Prediction], int, int]:
    """Compare stored predictions with new ones.

    Candidates may swap if their scores are equal within the tolerance, and predicted numbers and probabilities may
    differ by it; a ``share`` of generated texts may differ.

    Returns:
        The stored predictions with permitted differences replaced by the new ones, how many of these there are, and how
        many differences are not permitted.
    """
    keys = ("prediction", f"prediction{NORM_SUFFIX}", TEACHER_FORCED, SAMPLES, "target", "source")
    adjusted = [dict(row) for row in stored]
    permitted, not_permitted, generated = 0, 0, list[int]()
    for index, (row, new) in enumerate(zip(stored, new_predictions, strict=True)):
        different = [key for key in keys if row.get(key) != new.get(key)]
        numbers = [key for key in NUMBERS if row.get(key) != new.get(key) and _numbers_agree(row, new, key, tolerance)]
        adjusted[index] |= {key: new[key] for key in numbers}
        if "values" in numbers and "prediction" in different:  # the text of these numbers
            different.remove("prediction")
            permitted += 1
            adjusted[index]["prediction"] = new["prediction"]
        generated_keys = [
            k for k in different if k in (TEACHER_FORCED, SAMPLES) or (k == "prediction" and "candidates" not in row)
        ]
        ranked_keys = [key for key in different if key not in generated_keys]
        if not all(
            key.startswith("prediction") and _scores_tie(row, key, new[key], recipe, tolerance) for key in ranked_keys
        ):
            not_permitted += 1
        elif generated_keys:
            generated.append(index)
        elif ranked_keys:
            permitted += 1
            adjusted[index] |= {key: new[key] for key in ranked_keys}
    if len(generated) > share * len(stored):
        return adjusted, permitted, not_permitted + len(generated)
    for index in generated:
        adjusted[index] |= {key: new_predictions[index][key] for key in keys if key in new_predictions[index]}
    return adjusted, permitted + len(generated), not_permitted


def _numbers_agree(row: Mapping[str, Any], new: Prediction, key: str, tolerance: float) -> bool:
    """Whether the numbers of a prediction are equal within the tolerance."""
    values = (row.get(key) or (), new.get(key) or ())
    one, other = ([*each.values()] if isinstance(each, Mapping) else [*each] for each in values)
    if not one or len(one) != len(other):
        return False
    return all(_relative_difference(a, b) <= tolerance for a, b in zip(one, other, strict=True))


def _scores_tie(row: Mapping[str, Any], key: str, text: str, recipe: Recipe, tolerance: float) -> bool:
    """Whether two candidates of a row have equal scores within the tolerance."""
    candidates = row.get("candidates", [])
    if not {row[key], text} <= {*candidates}:
        return False
    tokens = row["candidate_tokens"]
    summed = (recipe.evaluate.scoring == "sum") == (key == "prediction")
    divisors = [1] * len(tokens) if summed else [max(n, 1) for n in tokens]
    one, other = (row["log_likelihoods"][i] / divisors[i] for i in map(candidates.index, (row[key], text)))
    return bool(abs(one - other) <= 2 * tolerance * max(1.0, abs(one)))
