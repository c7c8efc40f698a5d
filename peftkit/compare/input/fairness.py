"""Checks that the runs of one comparison differ in nothing but their method."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.run_directory import device_name

if TYPE_CHECKING:
    from peftkit.compare.input.load_runs import LoadedRun

COMPARED_WHERE_RECORDED = ("rows_digests.", "plugins.", "revisions.")
"""Prefixes of keys that are compared only among the runs that record them.

Older runs record less, and not every run uses every plugin.
"""
NOT_COMPARED = object()
"""The value of a key in which a run may differ from the others."""
PROTOCOL = (
    *("schedule", "warmup_ratio", "max_grad_norm", "head_learning_rate", "gradient_checkpointing", "early_stopping"),
)
"""Keys of ``[train]`` that must be the same for all methods; the learning rate is not among them."""
SAMPLING: Mapping[str, Any] = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "num_return_sequences": 1}
"""Keys of ``[evaluate]`` about sampled texts, with their defaults."""
OPTIMIZER = ("optimizer", "optimizer_options", "weight_decay")
"""Keys of ``[train]`` that may belong to a method, such as LoRA-FA's optimizer. Differences are only noted."""


def describe_differences(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe the keys whose values are not the same in all tables."""
    texts = []
    for key in sorted({key for table in tables for key in table}):
        values = [value for table in tables if (value := table.get(key)) is not NOT_COMPARED]
        if key.startswith(COMPARED_WHERE_RECORDED):
            values = [value for value in values if value is not None]
        distinct = {json.dumps(value, sort_keys=True) for value in values}
        if len(distinct) > 1:
            texts.append(f"{key} is {' and '.join(sorted(distinct))}")
    return texts


def flatten(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Flatten nested tables: ``{"train": {"seed": 1}}`` becomes ``{"train.seed": 1}``.

    Args:
        table: The nested table.
        before: A prefix for every key.
    """
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= flatten(value, f"{before}{key}.") if isinstance(value, Mapping) else {before + key: value}
    return flat


def _hardware(run: LoadedRun) -> Mapping[str, Any]:
    keys = ("processor", "cores", "threads", "devices", "cuda")

    def hardware_of(environment: Mapping[str, Any]) -> Mapping[str, Any]:
        hardware = environment.get("hardware", {})
        device = hardware.get("device")
        return {
            **{key: hardware.get(key) for key in keys},
            "device": None if device is None else device_name(str(device), hardware.get("devices") or ()),
        }

    return {**_across_resumptions(run, hardware_of), "processes": run.summary.get("processes")}


def _versions(run: LoadedRun) -> Mapping[str, Any]:
    return _across_resumptions(
        run,
        lambda environment: {
            **environment.get("packages", {}),
            **flatten({"plugins": environment.get("plugins", {})}),
            "python": environment.get("python"),
        },
    )


def _across_resumptions(run: LoadedRun, extract: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
    """Extract values from the environments a run was started and resumed in; a list where they differ."""
    tables = [extract(environment) for environment in (run.environment, *run.environment.get("resumed", ()))]
    merged = {}
    for key in {key for table in tables for key in table}:
        values = [table.get(key) for table in tables]
        merged[key] = values[0] if all(value == values[0] for value in values) else values
    return merged


def _precision(run: LoadedRun) -> Mapping[str, Any]:
    model, train = run.recipe.get("model", {}), run.recipe.get("train", {})
    values = {f"model.{key}": model.get(key) for key in ("dtype", "quantization", "attention")}
    return values | {"train.mixed_precision": train.get("mixed_precision")} | _revision(run, "model", "model.revision")


def _data(run: LoadedRun) -> Mapping[str, Any]:
    train, run_table = run.recipe.get("train", {}), run.recipe.get("run", {})
    lengths = {f"train.{key}": train.get(key) for key in ("max_source_length", "max_target_length")}
    sample = {f"run.{key}": run_table.get(key) for key in ("resample_train", "subset_fraction")}
    # Their rows matter only where runs are compared by them.
    sets = (*run.summary.get("evaluation_sets", ()), *(run.summary.get("probes") or {}))
    left_out = [name for name in sets if name != run.test_split]
    rows = {
        key: {split: value for split, value in run.summary.get(key, {}).items() if split not in left_out}
        for key in ("rows", "rows_digests")
    }
    values = flatten({"task": run.recipe.get("task", {}), **rows}) | lengths | sample
    if run.training_sample != FIXED_SAMPLE and "rows_digests.train" in values:  # each seed has another sample
        values[f"rows_digests.train of seed {run.seed}"] = values.pop("rows_digests.train")
    return values | _revision(run, "data", "task.revision")


def _revision(run: LoadedRun, kind: str, recipe_key: str) -> dict[str, Any]:
    """The recorded commit, or without one the revision (branch, tag or commit) in the recipe.

    Args:
        run: The run.
        kind: ``model`` or ``data``.
        recipe_key: The recipe's key of the revision, such as ``model.revision``.
    """
    commit = (run.summary.get("revisions") or {}).get(kind)
    table, key = recipe_key.split(".")
    return {
        f"revisions.{kind}": commit,
        recipe_key: run.recipe.get(table, {}).get(key) if commit is None else NOT_COMPARED,
    }


def _evaluation(run: LoadedRun) -> Mapping[str, Any]:
    keys = ("dev_examples", "test_examples", "scoring", "max_new_tokens", "num_beams")
    evaluate = run.recipe.get("evaluate", {})
    of_recipe = {f"evaluate.{k}": evaluate.get(k) for k in keys} | {
        # Runs recorded before these keys lack them.
        "evaluate.stop": evaluate.get("stop") or None,
        "evaluate.candidate_end": evaluate.get("candidate_end", True),
        **{f"evaluate.{key}": evaluate.get(key, default) for key, default in SAMPLING.items()},
        "method.unsafe_batch_mixing": run.recipe.get("method", {}).get("unsafe_batch_mixing") or None,
        "evaluate.full_splits": _reported_on_whole_splits(run),
        "metric": run.recipe.get("metric"),
        "selection_metric": run.summary["selection_metric"],
    }
    return of_recipe | flatten({"harness": run.summary.get("harness", {})})


def _reported_on_whole_splits(run: LoadedRun) -> bool:
    """Whether the selected scores are of all dev and test rows. In format 1, they are of the curve's rows."""
    evaluate = run.recipe.get("evaluate", {})
    if "rows_evaluated" in run.summary:
        return bool(evaluate.get("full_splits", True))
    return not (evaluate.get("dev_examples") or evaluate.get("test_examples"))


def _cadence(run: LoadedRun) -> Mapping[str, Any]:
    evaluate = run.recipe.get("evaluate", {})
    return {f"evaluate.{key}": evaluate.get(key) for key in ("every", "at_start", "train_examples")}


def _budget(run: LoadedRun) -> Mapping[str, Any]:
    return flatten(run.recipe.get("train", {}).get("budget", {}), "train.budget.")


def _training(run: LoadedRun) -> Mapping[str, Any]:
    train = run.recipe.get("train", {})
    values = {f"train.{key}": train.get(key) for key in PROTOCOL} | {
        # How an effective batch is split into microbatches depends on memory; only its size matters.
        "effective_batch": run.summary.get("effective_batch"),
        "train.tokens_per_batch": train.get("tokens_per_batch"),
        "train.activation_offloading": train.get("activation_offloading") or None,
        "model.keep_head": run.recipe.get("model", {}).get("keep_head") or None,
        "callback": run.recipe.get("callback") or None,
    }
    tuned = (run.tuning or {}).get("settings", {})
    if {"train.batch_size", "train.gradient_accumulation_steps", "train.tokens_per_batch"} & tuned.keys():
        values["effective_batch"] = NOT_COMPARED
    # A head's learning rate must be the same for all methods, tuned or not.
    return values | {key: NOT_COMPARED for key in values if key in tuned and key != "train.head_learning_rate"}


def optimizer_options(run: LoadedRun) -> Mapping[str, Any]:
    """The run's optimizer and its options, as flat keys."""
    train = run.recipe.get("train", {})
    return flatten({"train": {key: train.get(key) for key in OPTIMIZER}})


def _tuning(run: LoadedRun) -> Mapping[str, Any]:
    """The design of the tuning, and that of a new head's. Older files have a limit instead."""
    if not run.tuning:
        return {}
    head = (run.tuning.get("head") or {}).get("design", {})
    return flatten({**run.tuning.get("limit", {}), **run.tuning.get("design", {}), "head": head})


FIXED_SAMPLE = "fixed"
"""The training sample of runs that train on the same rows with every seed."""

FAIRNESS_CHECKS: Mapping[str, Callable[[LoadedRun], Mapping[str, Any]]] = {
    "hardware": _hardware,
    "versions": _versions,
    "precision": _precision,
    "data": _data,
    "evaluation": _evaluation,
    "cadence": _cadence,
    "budget": _budget,
    "training": _training,
    "tuning": _tuning,
}
"""Values that must be equal in all runs of a comparison, by the name that ``--pool`` takes to ignore them."""
