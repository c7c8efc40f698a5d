"""Read the file of a sweep: a base recipe, axes, exclusions, tuning, and where it runs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from peftkit.components import Range, SearchSpace
from peftkit.errors import InputError, Problem, RecipeError, comma_separated, did_you_mean, similar_file
from peftkit.file_formats import SWEEP_KEYS, rename_keys
from peftkit.recipe.messages.validation_errors import to_json
from peftkit.recipe.recipe_file import format_key
from peftkit.recipe.tables.config_table import ConfigTable
from peftkit.recipe.toml_lines import KeyPath, key_positions

FORMAT = 1
REMOVED: Mapping[tuple[str | int, ...], str] = {
    ("tune", "gmacs"): "was removed, because every study runs the same number of trials; set tune.trials instead",
}
"""Removed keys, and what to use instead."""


class RangeConfig(ConfigTable):
    """A search range."""

    low: int | float
    high: int | float
    log: bool = False


Space = Mapping[str, RangeConfig | tuple[str | int | float | bool, ...]]


MIN_TRIALS = 3
"""The fewest trials for which the best can lie between two others."""
MODEL_BASED_FROM = 16
"""The number of trials from which on a model proposes some of them."""


class HeadConfig(ConfigTable):
    """How the learning rate of new heads is tuned: once for each model and task, shared by all methods."""

    method: str = "head_only"
    """The method to tune it with."""
    trials: int = Field(default=5, ge=MIN_TRIALS)
    """The number of learning rates to try before the follow-ups, as `tune.trials`."""
    low: float = Field(default=1e-4, gt=0)
    """The lowest learning rate to try."""
    high: float = Field(default=1e-1, gt=0)
    """The highest learning rate to try."""

    @model_validator(mode="after")
    def _check_range(self) -> HeadConfig:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, not {self.low:g} and {self.high:g}")
        return self


class TuneConfig(ConfigTable):
    """Equal tuning: every method gets the same number of trials by the same design, selected on dev."""

    trials: int = Field(default=5, ge=MIN_TRIALS)
    """The number of evenly spaced settings to try for each method; two follow-ups and two repeats come on top. From 16
    on, a model proposes all but the first third."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """The seed of the design and of the trials; repeats use the next one. Seeds of the final runs are skipped."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Recipe keys to set for trials, such as how often they are evaluated. If this changes `train.budget`, the two
    leading settings are also run with the final budget."""
    space: dict[str, Space] = Field(default_factory=dict)
    """By method name, ranges and lists to search instead of those that the method declares."""
    head: HeadConfig = HeadConfig()
    """How to tune the learning rate of new heads, unless the sweep sets `train.head_learning_rate`."""


class LocalConfig(ConfigTable):
    """Settings for runs on this machine."""

    jobs: int | None = Field(default=None, gt=0)
    """The number of concurrent runs; by default one per GPU, or one."""
    launch: tuple[str, ...] = ()
    """A launcher in front of `-m peftkit run RECIPE`, such as ["accelerate", "launch", "--num_processes", "2"]."""
    warm: bool = True
    """Whether a run starts from the model, data and baselines that an earlier one of the same model and task loaded."""


class SweepConfig(ConfigTable):
    """The contents of a sweep's file."""

    format: int = Field(default=FORMAT, ge=1, le=FORMAT)
    """The version of the file format."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")
    """The name of the sweep, which is also a tag of its runs."""
    recipe: str = Field(min_length=1)
    """The base recipe, relative to this file."""
    output: str = Field(default="runs", min_length=1)
    """The folder that contains the sweep's folder."""
    axes: dict[str, Any] = Field(min_length=1)
    """Recipe keys to vary, each with a list of values."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Recipe keys to set for all runs."""
    exclude: tuple[dict[str, Any], ...] = ()
    """Combinations to leave out: recipe keys, each with a value or a list of values."""
    skip_incompatible: bool = False
    """Whether to skip and report incompatible combinations instead of raising an error."""
    tune: TuneConfig | None = None
    """Equal tuning of all methods on dev; none by default."""
    budget_share: float = Field(default=1.0, gt=0, le=1)
    """The share of its `train.budget` that each run gets; `--within` sets it to what the time allows."""
    local: LocalConfig = LocalConfig()
    """Settings for runs on this machine."""
    slurm: dict[str, Any] = Field(default_factory=dict)
    """Parameters of submitit's SLURM executor, such as `partition`, `time` (minutes), `gpus_per_node`."""

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return Path(self.output) / self.name


def read_sweep(path: Path) -> SweepConfig:
    """Read and validate a sweep's file.

    Args:
        path: The file.

    Returns:
        Its contents.

    Raises:
        InputError: The file does not exist, is not TOML, or is invalid; the message has the line of every problem.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except FileNotFoundError as error:
        hint = similar_file(path.name, [p.name for p in path.parent.glob("*.toml")])
        raise InputError(f"{path}: no such file{hint}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    try:
        return SweepConfig.model_validate_json(to_json(rename_keys(data, SWEEP_KEYS)), strict=True)
    except ValidationError as error:
        lines = key_positions(text)
        problems = [_build_problem(path, lines, dict(details)) for details in error.errors(include_url=False)]
        raise RecipeError(dict.fromkeys(problems)) from error


def to_search_space(space: Space) -> SearchSpace:
    """Convert a search space of the file to the form that methods declare.

    Args:
        space: Ranges and lists by key.

    Returns:
        The search space.

    Raises:
        ValueError: A list is empty.
    """
    empty = next((key for key, value in space.items() if value == ()), None)
    if empty is not None:
        raise ValueError(f"{empty} needs at least one value")
    return {
        key: Range(value.low, value.high, value.log) if isinstance(value, RangeConfig) else value
        for key, value in space.items()
    }


def _build_problem(path: Path, lines: Mapping[KeyPath, int], details: Mapping[str, Any]) -> Problem:
    key: list[str | int] = []
    for part in details["loc"]:
        if (*key, part) not in lines and details["type"] not in ("missing", "extra_forbidden"):
            break
        key.append(part)
    line = next((lines[tuple(key[:n])] for n in range(len(key), 0, -1) if tuple(key[:n]) in lines), 1)
    text = str(details["msg"]).removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    if tuple(details["loc"]) in REMOVED:
        text = REMOVED[tuple(details["loc"])]
    elif details["type"] == "extra_forbidden":
        known = _known_keys(details["loc"][:-1])
        text = f"unknown key; allowed: {comma_separated(known)}{did_you_mean(str(details['loc'][-1]), known)}"
    elif details["type"] == "missing":
        text = "missing; it is required"
    return Problem(str(path), line, format_key(tuple(key)), text)


def _known_keys(path: Sequence[str | int]) -> list[str]:
    tables: Mapping[tuple[str | int, ...], type[ConfigTable]] = {
        (): SweepConfig,
        ("tune",): TuneConfig,
        ("tune", "head"): HeadConfig,
        ("local",): LocalConfig,
    }
    return [*tables.get(tuple(path), RangeConfig).model_fields]
