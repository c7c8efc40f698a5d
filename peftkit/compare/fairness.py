"""What runs of one comparison must have in common, so that nothing but the method differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.runs import device_name

if TYPE_CHECKING:
    from peftkit.compare.gather import Run

COMPARED_WHERE_RECORDED = ("rows_digests.", "plugins.", "revisions.")
"""Keys that are compared among the runs that have them: older runs recorded less, and no run uses every plugin."""
NOT_COMPARED = object()
"""The value of a key that a run is not compared by."""
PROTOCOL = ("schedule", "warmup_ratio", "max_grad_norm", "head_learning_rate", "gradient_checkpointing")
"""Keys of ``[train]`` that are the same for all methods. The learning rate is each method's own."""
OPTIMIZER = ("optimizer", "optimizer_options", "weight_decay")
"""Keys of ``[train]`` that may be a method's own, as LoRA-FA's optimizer is, so that differences are only noted."""


def differences(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all tables, with these values."""
    found = []
    for key in sorted({key for table in tables for key in table}):
        values = [value for table in tables if (value := table.get(key)) is not NOT_COMPARED]
        if key.startswith(COMPARED_WHERE_RECORDED):
            values = [value for value in values if value is not None]
        texts = {json.dumps(value, sort_keys=True) for value in values}
        if len(texts) > 1:
            found.append(f"{key} is {' and '.join(sorted(texts))}")
    return found


def flattened(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """``{"train": {"seed": 1}}`` → ``{"train.seed": 1}``."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flattened(value, f"{before}{key}.") if isinstance(value, Mapping) else {before + key: value}
    return found


def _hardware(run: Run) -> Mapping[str, Any]:
    keys = ("processor", "cores", "threads", "devices", "cuda")

    def used(environment: Mapping[str, Any]) -> Mapping[str, Any]:
        hardware = environment.get("hardware", {})
        device = hardware.get("device")
        return {
            **{key: hardware.get(key) for key in keys},
            "device": None if device is None else device_name(str(device), hardware.get("devices") or ()),
        }

    return {**_everywhere(run, used), "processes": run.summary.get("processes")}


def _versions(run: Run) -> Mapping[str, Any]:
    return _everywhere(
        run,
        lambda environment: {
            **environment.get("packages", {}),
            **flattened({"plugins": environment.get("plugins", {})}),
            "python": environment.get("python"),
        },
    )


def _everywhere(run: Run, what: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
    """Something of the environment, and of those that the run went on in: each value, or a list of those there were."""
    tables = [what(each) for each in (run.environment, *run.environment.get("resumed", ()))]
    found = {}
    for key in {key for table in tables for key in table}:
        values = [table.get(key) for table in tables]
        found[key] = values[0] if all(value == values[0] for value in values) else values
    return found


def _precision(run: Run) -> Mapping[str, Any]:
    model, train = run.recipe.get("model", {}), run.recipe.get("train", {})
    found = {f"model.{key}": model.get(key) for key in ("dtype", "quantization", "attention")}
    return found | {"train.mixed_precision": train.get("mixed_precision")} | _revision(run, "model", "model.revision")


def _data(run: Run) -> Mapping[str, Any]:
    train, own = run.recipe.get("train", {}), run.recipe.get("run", {})
    lengths = {f"train.{key}": train.get(key) for key in ("max_source_length", "max_target_length")}
    sample = {f"run.{key}": own.get(key) for key in ("resample_train", "subset_fraction")}
    rows = {key: run.summary.get(key, {}) for key in ("rows", "rows_digests")}
    found = flattened({"task": run.recipe.get("task", {}), **rows}) | lengths | sample
    if run.training_sample != FIXED and "rows_digests.train" in found:  # another sample for each seed
        found[f"rows_digests.train of seed {run.seed}"] = found.pop("rows_digests.train")
    return found | _revision(run, "data", "task.revision")


def _revision(run: Run, of: str, asked: str) -> dict[str, Any]:
    """The commit that was used, or where none was recorded the branch, tag or commit that was asked for."""
    commit = (run.summary.get("revisions") or {}).get(of)
    table, key = asked.split(".")
    return {
        f"revisions.{of}": commit,
        asked: run.recipe.get(table, {}).get(key) if commit is None else NOT_COMPARED,
    }


def _evaluation(run: Run) -> Mapping[str, Any]:
    keys = ("dev_examples", "test_examples", "scoring", "max_new_tokens", "num_beams")
    evaluate = run.recipe.get("evaluate", {})
    return {f"evaluate.{k}": evaluate.get(k) for k in keys} | {
        "evaluate.whole": _reported_on_whole_splits(run),
        "metric": run.recipe.get("metric"),
        "selects": run.summary["selects"],
    }


def _reported_on_whole_splits(run: Run) -> bool:
    """Whether the selected scores are of all of dev and test: in format 1 they were of what the curve is of."""
    evaluate = run.recipe.get("evaluate", {})
    if "rows_evaluated" in run.summary:
        return bool(evaluate.get("whole", True))
    return not (evaluate.get("dev_examples") or evaluate.get("test_examples"))


def _cadence(run: Run) -> Mapping[str, Any]:
    evaluate = run.recipe.get("evaluate", {})
    return {f"evaluate.{key}": evaluate.get(key) for key in ("every", "at_start", "train_examples")}


def _budget(run: Run) -> Mapping[str, Any]:
    return flattened(run.recipe.get("train", {}).get("budget", {}), "train.budget.")


def _training(run: Run) -> Mapping[str, Any]:
    train = run.recipe.get("train", {})
    found = {f"train.{key}": train.get(key) for key in PROTOCOL} | {
        # What fills an optimizer step is a matter of memory; how many rows are in it is not.
        "effective_batch": run.summary.get("effective_batch"),
        "model.keep_head": run.recipe.get("model", {}).get("keep_head") or None,
    }
    tuned = (run.tuning or {}).get("settings", {})
    if {"train.batch_size", "train.gradient_accumulation_steps"} & tuned.keys():
        found["effective_batch"] = NOT_COMPARED
    # A head's learning rate is one for all methods, however it was found.
    return found | {key: NOT_COMPARED for key in found if key in tuned and key != "train.head_learning_rate"}


def optimizers(run: Run) -> Mapping[str, Any]:
    """The optimizer and its options, which may be a method's own."""
    train = run.recipe.get("train", {})
    return flattened({"train": {key: train.get(key) for key in OPTIMIZER}})


def _tuning(run: Run) -> Mapping[str, Any]:
    """The design of the tuning, and of that of a new head; older files have a limit instead."""
    if not run.tuning:
        return {}
    head = (run.tuning.get("head") or {}).get("design", {})
    return flattened({**run.tuning.get("limit", {}), **run.tuning.get("design", {}), "head": head})


FIXED = "fixed"
"""What the training sample is called of runs that train on all rows with every seed."""

FAIRNESS_CHECKS: Mapping[str, Callable[[Run], Mapping[str, Any]]] = {
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
"""What runs of one comparison have to have in common, unless it is pooled."""
