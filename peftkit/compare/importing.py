"""Results of other systems as run directories, marked as such, so that they are compared and drawn like runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import tomli_w

from peftkit.errors import InputError, did_you_mean, listed
from peftkit.runs import RunDirectory

BATCH = 8
"""Rows of a step in PEFT-by-time, unless the file's name says otherwise."""
LEAK = (
    "Its scores were taken while the model was fed the right answer, token by token (teacher forcing): they leak it, "
    "and are no scores of what the model says by itself."
)
SECONDS_BY_TIME = "Seconds are the file's time_in_train, added up since the beginning of training."
SECONDS_OF_COMPARISON = (
    "Seconds are the sum of the times of training steps ('train time' of each evaluation); the file's own train_time "
    "is longer, since it is not of steps alone."
)
METHODS = {"FT": "full", "LoRA": "lora", "VeRA": "vera", "adapters": "parallel_adapters", "prefix": "prefix_tuning"}
TASKS = {"ag_news": "ag_news", "commonsense": "commonsense_qa", "race": "race_distractors", "tweet_eval": "tweet_eval"}
SELECTS = ("multiclass_accuracy", "binary_accuracy", "rouge_l_fmeasure")


@dataclass(frozen=True)
class Imported:
    """A run, as far as a file tells it."""

    name: str
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]


def import_file(system: str, file: Path, output: Path) -> Path:
    """Writes a run directory from a result file; the same content gives the same one.

    Args:
        system: one of ``SYSTEMS``.
        file: the other system's file.
        output: the folder in which the run directory is made.

    Raises:
        InputError: the file cannot be read, or is none of that system.
        RunError: the run directory cannot be written.
    """
    try:
        raw = file.read_bytes()
        data = json.loads(raw)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    try:
        found = SYSTEMS[system](file, data)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise InputError(f"{file}: is no result of {system}: {type(error).__name__}: {error}") from error
    digest = sha256(raw).hexdigest()
    folder = output / f"{re.sub('[^A-Za-z0-9._-]+', '-', found.name)}-{digest[:8]}"
    run = RunDirectory(folder)
    source = {"from": system, "file": file.name, "sha256": digest, **found.summary["imported"]}
    run.write_text("recipe.toml", tomli_w.dumps({**found.recipe, "imported": source}))
    run.write_json("environment.json", found.environment)
    run.write_lines("evaluations.jsonl", ({"format": 1, **row} for row in found.rows))
    run.write_json("summary.json", {**found.summary, "imported": source})
    return folder


def peft_by_time(file: Path, rows: Any) -> Imported:
    """A list of evaluations; the file's name says the method, the task and the size of T5."""
    parts = re.fullmatch(r"(LARGE_)?([A-Za-z]+)_(ag_news|commonsense|race|tweet_eval)(?:_(\w+))?", file.stem)
    if parts is None or parts[2] not in METHODS:
        known = listed([*METHODS])
        near = did_you_mean(file.stem.removeprefix("LARGE_").split("_")[0], METHODS)
        raise ValueError(
            f"its name must be METHOD_TASK, the method one of {known}{near}, the task of {listed([*TASKS])}"
        )
    method, task, rest = METHODS[parts[2]], TASKS[parts[3]], parts[4] or ""
    options: dict[str, Any] = {"name": method}
    if found := re.search(r"nt(\d+)", rest):
        options["num_virtual_tokens"] = int(found[1])
    batch = int(found[1]) if (found := re.search(r"b(\d+)", rest)) else BATCH
    counted = all(row["GMACs"] >= 0 for row in rows)
    told = [_evaluation_by_time(row, batch, counted) for row in rows]
    selects = next(name for name in SELECTS if f"teacher_forced_{name}" in told[-1]["test"])
    recipe = {
        "run": {"name": file.stem, "seed": 0},
        "model": {"name": f"google-t5/t5-{'large' if parts[1] else 'base'}"},
        "task": {"name": task},
        "method": options,
        "train": {"batch_size": batch},
    }
    note = " ".join([LEAK, SECONDS_BY_TIME, *([] if counted else ["Its multiply-accumulates were not counted."])])
    environment: dict[str, Any] = {"hardware": {}, "packages": {}}
    return _run(recipe, environment, told, f"teacher_forced_{selects}", {"note": note}, best=True)


def peft_method_comparison(file: Path, data: Any) -> Imported:
    """One result of the method comparison in peft's repository: dev along the way, test at the end."""
    run, train, meta = data["run_info"], data["train_info"], data["meta_info"]
    if train["status"] != "success":
        raise ValueError(f"the run is {train['status']!r}")
    config, peft = run["train_config"], run["peft_config"] or {}
    fixed = {
        "peak_device_bytes": float(train["accelerator_memory_max"]),
        "trainable_parameters": float(train["num_trainable_params"]),
        "checkpoint_bytes": float(train["file_size"]),
    }
    told: list[dict[str, Any]] = []
    seconds = tokens = 0.0
    *along, last = train["metrics"]
    for row in along:
        seconds += row["train time"]
        tokens += row["tokens / sec"] * row["train time"]
        told.append(
            {
                "step": row["step"],
                "samples": row["train samples"],
                "tokens": {"input": round(tokens), "target": 0},
                "cost": {"train_seconds": seconds, **fixed},
                "train": {"loss": row["train loss"]},
                "dev": {"accuracy": row["valid accuracy"]},
                "test": {},
            }
        )
    told[-1]["test"] = {"accuracy": last["test accuracy"]}
    if "forgetting" in last:
        told[-1]["test"]["forgetting"] = last["forgetting"]
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
        f"Test is of the last step, whatever dev says; multiply-accumulates were not counted. {SECONDS_OF_COMPARISON}"
    )
    imported: dict[str, Any] = {"note": note}
    if "train_time" in train:
        imported["seconds"] = {"steps": seconds, "train_time": float(train["train_time"])}
    return _run(recipe, environment, told, "accuracy", imported, best=False)


SYSTEMS: Mapping[str, Callable[[Path, Any], Imported]] = {
    "peft-by-time": peft_by_time,
    "peft-method-comparison": peft_method_comparison,
}


def _evaluation_by_time(row: Mapping[str, Any], batch: int, counted: bool) -> dict[str, Any]:
    table: dict[str, Any] = {
        "step": round(row["steps_done"] / batch),  # what is called steps there are rows
        "samples": row["steps_done"],
        "epoch": float(row["epochs_done"]),
        "cost": {"train_seconds": row["time_in_train"]} | ({"gmacs": row["GMACs"]} if counted else {}),
    }
    for split in ("train", "dev", "test"):
        own = {key.removeprefix(f"{split}_"): value for key, value in row.items() if key.startswith(f"{split}_")}
        table[split] = {k if k == "loss" else f"teacher_forced_{_snake(k)}": v for k, v in own.items()}
    return table


def _run(
    recipe: Mapping[str, Any],
    environment: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    selects: str,
    imported: Mapping[str, Any],
    *,
    best: bool,
) -> Imported:
    last = rows[-1]
    selected = max(rows, key=lambda row: row["dev"][selects]) if best else last
    summary = {
        "status": "done",
        "name": recipe["run"]["name"],
        "model": recipe["model"]["name"],
        "task": recipe["task"]["name"],
        "method": recipe["method"]["name"],
        "seed": recipe["run"]["seed"],
        "selects": selects,
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
    return Imported(str(recipe["run"]["name"]), recipe, environment, rows, summary)


def _snake(name: str) -> str:
    """``MulticlassF1Score`` → ``multiclass_f1_score``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
