"""Imports results of other systems as run directories, marked as imported."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import tomli_w

from peftkit.errors import InputError, comma_separated, did_you_mean
from peftkit.run_directory import FORMAT, RunDirectory

DEFAULT_BATCH_SIZE = 8
"""The batch size in PEFT-by-time, unless the file's name has another."""
TEACHER_FORCED_NOTE = (
    "Scores are teacher-forced: the model was given the reference answer token by token, so they leak it and are not "
    "scores of what the model generates."
)
SECONDS_BY_TIME = "Seconds are the file's time_in_train, accumulated since the start of training."
SECONDS_OF_COMPARISON = (
    "Seconds are the sum of the times of training steps ('train time' of each evaluation); the file's train_time is "
    "longer because it includes more than training steps."
)
METHOD_NAMES = {
    "FT": "full",
    "LoRA": "lora",
    "VeRA": "vera",
    "adapters": "parallel_adapters",
    "prefix": "prefix_tuning",
}
TASK_NAMES = {
    "ag_news": "ag_news",
    "commonsense": "commonsense_qa",
    "race": "race_distractors",
    "tweet_eval": "tweet_eval",
}
SELECTION_METRICS = ("multiclass_accuracy", "binary_accuracy", "rouge_l_fmeasure")


@dataclass(frozen=True)
class ImportedRun:
    """The contents of a run directory, read from another system's file."""

    name: str
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    evaluations: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]


def import_file(system: str, file: Path, output: Path) -> Path:
    """Write a run directory from a result file. The same file contents give the same directory.

    Args:
        system: The other system, one of ``SYSTEMS``.
        file: The result file.
        output: The folder in which to create the run directory.

    Returns:
        The run directory.

    Raises:
        InputError: The file cannot be read, or is not a result of that system.
        RunError: The run directory cannot be written.
    """
    try:
        raw = file.read_bytes()
        data = json.loads(raw)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    try:
        result = SYSTEMS[system](file, data)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise InputError(f"{file}: not a result of {system}: {type(error).__name__}: {error}") from error
    digest = sha256(raw).hexdigest()
    folder = output / f"{re.sub('[^A-Za-z0-9._-]+', '-', result.name)}-{digest[:8]}"
    run = RunDirectory(folder)
    source = {"from": system, "file": file.name, "sha256": digest, **result.summary["imported"]}
    run.write_text("recipe.toml", tomli_w.dumps({**result.recipe, "imported": source}))
    run.write_json("environment.json", result.environment)
    run.write_lines("evaluations.jsonl", ({"format": FORMAT, **row} for row in result.evaluations))
    run.write_json("summary.json", {**result.summary, "imported": source})
    return folder


def read_peft_by_time(file: Path, rows: Any) -> ImportedRun:
    """Read a list of evaluations, whose file name has the method, the task and the size of T5.

    Args:
        file: The result file.
        rows: Its parsed JSON.
    """
    parts = re.fullmatch(r"(LARGE_)?([A-Za-z]+)_(ag_news|commonsense|race|tweet_eval)(?:_(\w+))?", file.stem)
    if parts is None or parts[2] not in METHOD_NAMES:
        known = comma_separated([*METHOD_NAMES])
        near = did_you_mean(file.stem.removeprefix("LARGE_").split("_")[0], METHOD_NAMES)
        raise ValueError(
            f"the file's name must be METHOD_TASK, with METHOD one of {known}{near}, and TASK one of "
            f"{comma_separated([*TASK_NAMES])}"
        )
    method, task, rest = METHOD_NAMES[parts[2]], TASK_NAMES[parts[3]], parts[4] or ""
    options: dict[str, Any] = {"name": method}
    if match := re.search(r"nt(\d+)", rest):
        options["num_virtual_tokens"] = int(match[1])
    batch = int(match[1]) if (match := re.search(r"b(\d+)", rest)) else DEFAULT_BATCH_SIZE
    counted = all(row["GMACs"] >= 0 for row in rows)
    evaluations = [_evaluation_by_time(row, batch, counted) for row in rows]
    selects = next(name for name in SELECTION_METRICS if f"teacher_forced_{name}" in evaluations[-1]["test"])
    recipe = {
        "run": {"name": file.stem, "seed": 0},
        "model": {"name": f"google-t5/t5-{'large' if parts[1] else 'base'}"},
        "task": {"name": task},
        "method": options,
        "train": {"batch_size": batch},
    }
    note = " ".join([TEACHER_FORCED_NOTE, SECONDS_BY_TIME, *([] if counted else ["MACs were not counted."])])
    environment: dict[str, Any] = {"hardware": {}, "packages": {}}
    return _build_result(recipe, environment, evaluations, f"teacher_forced_{selects}", {"note": note}, best=True)


def read_peft_method_comparison(file: Path, data: Any) -> ImportedRun:
    """Read one result of the method comparison in peft's repository, which has dev scores and a final test score.

    Args:
        file: The result file.
        data: Its parsed JSON.
    """
    run, train, meta = data["run_info"], data["train_info"], data["meta_info"]
    if train["status"] != "success":
        raise ValueError(f"the status of the run is {train['status']!r}, not 'success'")
    config, peft = run["train_config"], run["peft_config"] or {}
    fixed_costs = {
        "peak_device_bytes": float(train["accelerator_memory_max"]),
        "trainable_parameters": float(train["num_trainable_params"]),
        "checkpoint_bytes": float(train["file_size"]),
    }
    evaluations: list[dict[str, Any]] = []
    seconds = tokens = 0.0
    *during, last = train["metrics"]
    for row in during:
        seconds += row["train time"]
        tokens += row["tokens / sec"] * row["train time"]
        evaluations.append(
            {
                "step": row["step"],
                "samples": row["train samples"],
                "tokens": {"input": round(tokens), "target": 0},
                "cost": {"train_seconds": seconds, **fixed_costs},
                "train": {"loss": row["train loss"]},
                "dev": {"accuracy": row["valid accuracy"]},
                "test": {},
            }
        )
    evaluations[-1]["test"] = {"accuracy": last["test accuracy"]}
    if "forgetting" in last:
        evaluations[-1]["test"]["forgetting"] = last["forgetting"]
    kind, _, experiment = str(run["experiment_name"]).partition("/")
    recipe = {
        "run": {"name": run["experiment_name"].replace("/", "--"), "seed": config["seed"]},
        "model": {"name": config["model_id"], "dtype": config["dtype"]},
        "task": {"name": "+".join(meta["dataset_info"])},
        "method": {"name": str(peft.get("peft_type", "full")).lower(), "experiment": experiment or kind},
        "train": {
            "batch_size": config["batch_size"],
            "optimizer": config["optimizer_type"],
            "learning_rate": config["optimizer_kwargs"].get("lr"),
            "schedule": config["lr_scheduler"],
            "max_source_length": config["max_seq_length"],
            "mixed_precision": "bf16" if config["use_amp"] else "no",
        },
    }
    packages = {k.removesuffix("-version"): v for k, v in meta["package_info"].items() if k.endswith("-version") and v}
    system = meta["system_info"]
    environment = {
        "packages": packages,
        "hardware": {"device": system["accelerator"], "processor": system["processor"]},
    }
    note = (
        "The test score is that of the last step, not of the best on dev. MACs were not counted. "
        f"{SECONDS_OF_COMPARISON}"
    )
    imported: dict[str, Any] = {"note": note}
    if "train_time" in train:
        imported["seconds"] = {"steps": seconds, "train_time": float(train["train_time"])}
    return _build_result(recipe, environment, evaluations, "accuracy", imported, best=False)


SYSTEMS: Mapping[str, Callable[[Path, Any], ImportedRun]] = {
    "peft-by-time": read_peft_by_time,
    "peft-method-comparison": read_peft_method_comparison,
}
"""The reader of each system's files."""


def _evaluation_by_time(row: Mapping[str, Any], batch: int, counted: bool) -> dict[str, Any]:
    evaluation: dict[str, Any] = {
        "step": round(row["steps_done"] / batch),  # the file counts rows as steps
        "samples": row["steps_done"],
        "epoch": float(row["epochs_done"]),
        "cost": {"train_seconds": row["time_in_train"]} | ({"gmacs": row["GMACs"]} if counted else {}),
    }
    for split in ("train", "dev", "test"):
        scores = {key.removeprefix(f"{split}_"): value for key, value in row.items() if key.startswith(f"{split}_")}
        evaluation[split] = {k if k == "loss" else f"teacher_forced_{_snake_case(k)}": v for k, v in scores.items()}
    return evaluation


def _build_result(
    recipe: Mapping[str, Any],
    environment: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    selects: str,
    imported: Mapping[str, Any],
    *,
    best: bool,
) -> ImportedRun:
    """Add the summary; ``best`` selects the evaluation with the best dev score rather than the last one."""
    last = rows[-1]
    selected = max(rows, key=lambda row: row["dev"][selects]) if best else last
    summary = {
        "status": "done",
        "name": recipe["run"]["name"],
        "model": recipe["model"]["name"],
        "task": recipe["task"]["name"],
        "method": recipe["method"]["name"],
        "seed": recipe["run"]["seed"],
        "selection_metric": selects,
        "higher_is_better": True,
        "lower_is_better": ["forgetting", "loss"],
        "selected": {"step": selected["step"], **{split: selected[split] for split in ("train", "dev", "test")}},
        "final": {"step": last["step"], **{split: last[split] for split in ("train", "dev", "test")}},
        "steps": last["step"],
        "samples": last["samples"],
        "cost": last["cost"],
        "imported": imported,
    }
    if "tokens" in last:
        summary["tokens"] = last["tokens"]
    return ImportedRun(str(recipe["run"]["name"]), recipe, environment, rows, summary)


def _snake_case(name: str) -> str:
    """Convert ``MulticlassF1Score`` to ``multiclass_f1_score``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
