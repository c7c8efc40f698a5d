"""The file of a sweep: a base recipe, what varies, what is left out, how it is tuned, and where it is run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from peftkit.components import Between, Search
from peftkit.errors import InputError, Problem, RecipeError, did_you_mean, listed
from peftkit.recipe.positions import KeyPath, positions
from peftkit.recipe.problems import as_json
from peftkit.recipe.source import dotted
from peftkit.recipe.tables import Table

FORMAT = 1
REMOVED: Mapping[tuple[str | int, ...], str] = {
    ("tune", "gmacs"): "is no key any more, since every study runs the same number of trials; set tune.trials instead",
}
"""Keys of older files, and what to use instead."""


class BetweenTable(Table):
    """A range."""

    low: int | float
    high: int | float
    log: bool = False


Space = Mapping[str, BetweenTable | tuple[str | int | float | bool, ...]]


FEWEST = 3
"""Trials below which the best cannot lie between two others."""
MODEL_BASED = 16
"""Trials from which on a model proposes some of them."""


class HeadTable(Table):
    """How the learning rate of new heads is tuned: once for each model and task, for all methods alike."""

    method: str = "head_only"
    """The method that it is tuned with."""
    trials: int = Field(default=5, ge=FEWEST)
    """How many learning rates are tried before the best is followed up; as `tune.trials`."""
    low: float = Field(default=1e-4, gt=0)
    """The lowest learning rate."""
    high: float = Field(default=1e-1, gt=0)
    """The highest one."""

    @model_validator(mode="after")
    def _range(self) -> HeadTable:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, not {self.low:g} and {self.high:g}")
        return self


class TuneTable(Table):
    """Equal tuning: every method gets the same number of trials by the same design, judged on dev only."""

    trials: int = Field(default=5, ge=FEWEST)
    """How many settings each method starts with, evenly spaced over its range; two follow-ups and two repeats come
    after them. From 16 on, a model proposes all but the first third."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """The seed of the design and of the trials; repeats have the next ones. Those of the final runs are passed over."""
    set: dict[str, Any] = Field(default_factory=dict)
    """What trials change of the recipe, such as how often they are evaluated. Where it changes `train.budget`, the
    leading two settings are run at the final budget, too."""
    space: dict[str, Space] = Field(default_factory=dict)
    """By the name of a method, the ranges and lists to search instead of those that it declares."""
    head: HeadTable = HeadTable()
    """How the learning rate of new heads is tuned, unless the sweep sets `train.head_learning_rate`."""


class LocalTable(Table):
    """Runs on this machine."""

    jobs: int | None = Field(default=None, gt=0)
    """How many at a time; unset for one on each GPU, or a single one."""
    launch: tuple[str, ...] = ()
    """A launcher before `-m peftkit run RECIPE`, such as ["accelerate", "launch", "--num_processes", "2"]."""


class SweepTable(Table):
    """A sweep, as its file has it."""

    format: int = Field(default=FORMAT, ge=1, le=FORMAT)
    """The version of the file's form."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")
    """What the sweep is called; a tag of its runs."""
    recipe: str = Field(min_length=1)
    """The base recipe, relative to this file."""
    output: str = Field(default="runs", min_length=1)
    """The folder in which the sweep's own lies."""
    axes: dict[str, Any] = Field(min_length=1)
    """What varies: keys of the recipe with lists of values."""
    set: dict[str, Any] = Field(default_factory=dict)
    """What the sweep changes of the base recipe."""
    exclude: tuple[dict[str, Any], ...] = ()
    """Combinations that are left out: keys of the recipe, with a value or a list of them."""
    skip_refused: bool = False
    """Whether what the recipe check refuses is left out, and told, instead of being an error."""
    tune: TuneTable | None = None
    """Equal tuning: every method gets the same, on dev only."""
    local: LocalTable = LocalTable()
    """Runs on this machine."""
    slurm: dict[str, Any] = Field(default_factory=dict)
    """Parameters of submitit's SLURM executor, such as `partition`, `time` (minutes), `gpus_per_node`."""

    @property
    def folder(self) -> Path:
        """Where all of it lies."""
        return Path(self.output) / self.name


def read_sweep(path: Path) -> SweepTable:
    """Reads the file.

    Raises:
        InputError: it is not there, is not TOML, or says what a sweep cannot be; with every mistake's line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except FileNotFoundError as error:
        near = did_you_mean(path.name, sorted(p.name for p in path.parent.glob("*.toml")))
        raise InputError(f"{path}: there is no such file{near}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    try:
        return SweepTable.model_validate_json(as_json(data), strict=True)
    except ValidationError as error:
        lines = positions(text)
        told = [_problem(path, lines, dict(details)) for details in error.errors(include_url=False)]
        raise RecipeError(dict.fromkeys(told)) from error


def search_of(space: Space) -> Search:
    """A space of the file as a method declares one.

    Raises:
        ValueError: a range or a list is empty.
    """
    empty = next((key for key, value in space.items() if value == ()), None)
    if empty is not None:
        raise ValueError(f"{empty} needs at least one value")
    return {
        key: Between(value.low, value.high, value.log) if isinstance(value, BetweenTable) else value
        for key, value in space.items()
    }


def _problem(path: Path, lines: Mapping[KeyPath, int], details: Mapping[str, Any]) -> Problem:
    where: list[str | int] = []
    for part in details["loc"]:
        if (*where, part) not in lines and details["type"] not in ("missing", "extra_forbidden"):
            break
        where.append(part)
    line = next((lines[tuple(where[:n])] for n in range(len(where), 0, -1) if tuple(where[:n]) in lines), 1)
    text = str(details["msg"]).removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    if tuple(details["loc"]) in REMOVED:
        text = REMOVED[tuple(details["loc"])]
    elif details["type"] == "extra_forbidden":
        known = _keys(details["loc"][:-1])
        text = f"unknown key; it takes {listed(known)}{did_you_mean(str(details['loc'][-1]), known)}"
    elif details["type"] == "missing":
        text = "missing; it is required"
    return Problem(str(path), line, dotted(tuple(where)), text)


def _keys(path: Sequence[str | int]) -> list[str]:
    tables: Mapping[tuple[str | int, ...], type[Table]] = {
        (): SweepTable,
        ("tune",): TuneTable,
        ("tune", "head"): HeadTable,
        ("local",): LocalTable,
    }
    return [*tables.get(tuple(path), BetweenTable).model_fields]
