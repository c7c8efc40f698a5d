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


class BetweenTable(Table):
    """A range."""

    low: float
    high: float
    log: bool = False


Space = Mapping[str, BetweenTable | tuple[str | int | float | bool, ...]]


class TuneTable(Table):
    """Equal tuning: every method gets the same, on dev only."""

    trials: int | None = Field(default=None, gt=0)
    """How many settings are tried for each method."""
    gmacs: float | None = Field(default=None, gt=0)
    """The GMACs that each method's trials may take together."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """The seed of the trials, and of what is drawn for them."""
    set: dict[str, Any] = Field(default_factory=dict)
    """What trials change of the recipe, such as a smaller `train.budget`."""
    space: dict[str, Space] = Field(default_factory=dict)
    """By the name of a method, what to draw from instead of what it declares."""

    @model_validator(mode="after")
    def _one_limit(self) -> TuneTable:
        if (self.trials is None) == (self.gmacs is None):
            raise ValueError("needs either trials or gmacs, so that all methods get the same")
        return self


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
        ValueError: a range is empty.
    """
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
    if details["type"] == "extra_forbidden":
        known = _keys(details["loc"][:-1])
        text = f"unknown key; it takes {listed(known)}{did_you_mean(str(details['loc'][-1]), known)}"
    elif details["type"] == "missing":
        text = "missing; it is required"
    return Problem(str(path), line, dotted(tuple(where)), text)


def _keys(path: Sequence[str | int]) -> list[str]:
    tables: Mapping[tuple[str | int, ...], type[Table]] = {(): SweepTable, ("tune",): TuneTable, ("local",): LocalTable}
    return [*tables.get(tuple(path), BetweenTable).model_fields]
