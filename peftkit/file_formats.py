"""Versions of recipes and of a run's files, and the keys of older versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

RECIPE_FORMAT = 2
"""The version of recipes. 2 renamed the keys in ``RECIPE_KEYS`` and lists trackers in ``track.to``."""
RUN_FORMAT = 3
"""The version of a run's files. 2 added scores per example; 3 renamed the keys in ``RUN_KEYS``."""
CHECKPOINT_FORMAT = 2
"""The version of ``state.json`` in checkpoints. 2 renamed the keys in ``CHECKPOINT_KEYS``."""

RECIPE_KEYS: Mapping[str, Mapping[str, str]] = {
    "train": {"cut_targets": "truncate_targets"},
    "evaluate": {"selects": "selection_metric", "whole": "full_splits"},
}
"""Old key → new key, by table of the recipe."""
RUN_KEYS: Mapping[str, Mapping[str, str]] = {
    "summary.json": {
        "selects": "selection_metric",
        "rows_a_pass": "microbatch_size",
        "rows_cut": "rows_truncated",
        "rows_left_out_per_epoch": "rows_dropped_per_epoch",
        "rows_also_in_train": "train_overlap",
    },
    "environment.json": {
        "variables": "environment_variables",
        "variables_without_effect": "ignored_environment_variables",
        "generation_without_effect": "ignored_generation_config",
    },
    "tuning.json": {"selects": "selection_metric"},
}
"""Old key → new key, by file of the run directory."""
SWEEP_KEYS: Mapping[str, str] = {"skip_refused": "skip_incompatible"}
"""Old key → new key of a sweep's file."""
CHECKPOINT_KEYS: Mapping[str, str] = {
    "evaluated": "evaluation_done",
    "used": "progress",
    "marks": "evaluation_trigger",
    "saves": "checkpoint_trigger",
    "losses": "step_losses",
    "targets": "step_targets",
    "selected": "selected_evaluation",
    "resumed": "resumed_after_steps",
    "skipped": "steps_skipped",
    "rows_a_pass": "microbatch_size",
}
"""Old key → new key of a checkpoint's state."""
PROGRESS_KEYS: Mapping[str, str] = {
    "passes": "completed_epochs",
    "steps_of_pass": "steps_of_epoch",
}
"""Old key → new key of the progress in a checkpoint's state."""
EXAMPLE_COLUMNS: Mapping[str, str] = {"whole": "full_split"}
"""Old column → new column of ``examples.parquet``."""

TRACKERS = ("wandb", "tensorboard")
DEFAULT_TRACKERS: tuple[Literal["wandb", "tensorboard"], ...] = ("wandb",)
WANDB_MODES = ("online", "offline")

KeyPath = tuple[str | int, ...]


def migrate_recipe(
    data: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[KeyPath, list[KeyPath]]]:
    """Rename the keys of a recipe of format 1.

    Args:
        data: The tables of a recipe, or of one layer of it.
        base: The tables below this layer, in the current format; trackers are added to or removed from its list.

    Returns:
        The tables in the current format, and for each old key the keys that replace it. A recipe that declares a
        newer format than 1 is returned unchanged.
    """
    version = data.get("format", 1)
    if version != 1 or isinstance(version, bool):
        return dict(data), {}
    migrated = dict(data)
    if "format" in data:
        migrated["format"] = RECIPE_FORMAT
    renamed: dict[KeyPath, list[KeyPath]] = {}
    for table, keys in RECIPE_KEYS.items():
        options = data.get(table)
        if isinstance(options, Mapping):
            migrated[table] = rename_keys(options, keys)
            renamed |= {(table, old): [(table, keys[old])] for old in options if old not in migrated[table]}
    track = data.get("track")
    if isinstance(track, Mapping) and "to" not in track:
        migrated["track"], replaced = _migrate_trackers(track, _trackers(base or {}))
        renamed |= replaced
    return migrated, renamed


def _trackers(base: Mapping[str, Any]) -> list[str]:
    track = base.get("track")
    names = track.get("to", DEFAULT_TRACKERS) if isinstance(track, Mapping) else DEFAULT_TRACKERS
    return [name for name in names if isinstance(name, str)] if isinstance(names, list | tuple) else []


def _migrate_trackers(
    track: Mapping[str, Any], trackers: list[str]
) -> tuple[dict[str, Any], dict[KeyPath, list[KeyPath]]]:
    """Replace ``wandb = "offline"`` and ``tensorboard = true`` by the list ``to`` and ``wandb.mode``."""
    migrated, renamed = dict(track), dict[KeyPath, list[KeyPath]]()
    enabled: dict[str, bool] = {}
    if track.get("wandb") in (*WANDB_MODES, "off"):
        mode = migrated.pop("wandb")
        enabled["wandb"] = mode != "off"
        renamed["track", "wandb"] = [("track", "to")]
        if mode != "off":
            migrated["wandb"] = {"mode": mode}
            renamed["track", "wandb"].append(("track", "wandb", "mode"))
    if isinstance(track.get("tensorboard"), bool):
        enabled["tensorboard"] = migrated.pop("tensorboard")
        renamed["track", "tensorboard"] = [("track", "to")]
    if enabled:
        migrated["to"] = [name for name in TRACKERS if enabled.get(name, name in trackers)]
    return migrated, renamed


def migrate_run_file(name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the keys of a run's file of an older format.

    Args:
        name: The file's name, such as ``summary.json``.
        document: Its content.

    Returns:
        The content in the current format.
    """
    keys = RUN_KEYS.get(name, {})
    migrated = {**rename_keys(document, keys), "format": RUN_FORMAT}
    if name == "environment.json" and "resumed" in document:
        migrated["resumed"] = [rename_keys(each, keys) for each in document["resumed"]]
    return migrated


def migrate_checkpoint(state: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the keys of a checkpoint's state of format 1.

    Args:
        state: What ``state.json`` has under ``state``.
    """
    migrated = rename_keys(state, CHECKPOINT_KEYS)
    if "progress" in migrated:
        migrated["progress"] = rename_keys(migrated["progress"], PROGRESS_KEYS)
    return migrated


def rename_keys(table: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Rename keys and keep their order; a key whose new name is present too is left as it is.

    Args:
        table: Any table.
        keys: Old key → new key.
    """
    return {(new if (new := keys.get(key, key)) not in table else key): value for key, value in table.items()}
