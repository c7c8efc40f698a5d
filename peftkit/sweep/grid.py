"""A sweep's file → its studies: recipes that differ in nothing but their seed."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from peftkit.errors import InputError, Problem, RecipeError, did_you_mean, listed
from peftkit.plugins import Kind, Registry
from peftkit.recipe import Recipe, load_recipe, without_none
from peftkit.recipe.source import OVERRIDE, read
from peftkit.sweep.tables import SweepTable

KINDS: Mapping[str, Kind] = {"method": "method", "task": "task"}
ALL = "all"
"""As a value of the axes ``method`` and ``task``: every installed one that the axis does not name otherwise."""
SEED: Keys = ("run", "seed")
Keys = tuple[str, ...]
Layer = Mapping[str, Any]
"""A part of a recipe: tables in tables."""


@dataclass(frozen=True)
class Study:
    """One point of the grid, but for the seed."""

    label: str
    values: Mapping[str, str]
    """What the axes are here, in words."""
    layers: tuple[Layer, ...]
    recipes: Mapping[int, Recipe]
    """By seed."""

    @property
    def any_recipe(self) -> Recipe:
        """That of the first seed."""
        return next(iter(self.recipes.values()))


@dataclass(frozen=True)
class Refused:
    """A combination that the recipe check refuses, and why."""

    label: str
    reason: str


@dataclass(frozen=True)
class Grid:
    """All of a sweep."""

    path: Path
    table: SweepTable
    studies: tuple[Study, ...]
    refused: tuple[Refused, ...]

    @property
    def folder(self) -> Path:
        """Where all of it lies."""
        return self.table.folder


def expand(
    path: Path, table: SweepTable, registry: Registry, overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> Grid:
    """Every combination of the axes' values that is not excluded, as validated recipes.

    Args:
        path: the sweep's file, which the base recipe is relative to.
        table: what it says.
        registry: the installed components.
        overrides: ``key.path=value`` texts for all recipes, over the base and under the axes.
        only: ``axis=value`` texts: of these axes only these values.

    Raises:
        InputError: an axis is none, a combination is refused and ``skip_refused`` is off, or nothing is left.
    """
    read(path.parent / table.recipe)  # what is wrong with the file itself is wrong once, and not at every point
    axes = dict(_axes(table.axes, (), registry))
    for axis, chosen in _chosen(only, axes).items():
        axes[axis] = [value for value in axes[axis] if value[0] in chosen]
    seeds = [layer for _, layer in axes.pop(".".join(SEED), [])]
    studies: dict[str, Study] = {}
    refused: list[Refused] = []
    problems: list[Problem] = []
    known: dict[str, Any] = {}
    for point in itertools.product(*axes.values()):
        values = {axis: text for axis, (text, _) in zip(axes, point, strict=True)}
        label = " · ".join(values.values()) or table.name
        layers = tuple(layer for _, layer in point)
        recipes: dict[int, Recipe] = {}
        for seed in seeds or [{}]:
            try:
                recipe = make(path, table, registry, (*layers, seed), overrides)
            except RecipeError as error:
                refused.append(Refused(label, "; ".join(f"{p.key}: {p.text}" for p in error.problems)))
                problems += problems_at(path, label, error)
                break
            data = recipe.model_dump(mode="json")
            known = _merged(known, data)
            if any(_matches(data, condition) for condition in table.exclude):
                break
            recipes[recipe.run.seed] = recipe
        else:
            studies.setdefault(address(next(iter(recipes.values()))), Study(label, values, layers, recipes))
    if problems and not table.skip_refused:
        text = "leave them out with [[exclude]], or set skip_refused = true to leave out all that is refused"
        raise RecipeError([*dict.fromkeys(problems), Problem(str(path), None, "", text)])
    if known:
        _refuse_unknown(path, table.exclude, known, registry)
    if not studies:
        reasons = [f"{each.label}: {each.reason}" for each in refused]
        raise InputError("\n".join([f"{path}: nothing is left to be run", *reasons]))
    return Grid(path, table, tuple(studies.values()), tuple(refused))


def final_seeds(table: SweepTable, study: Study) -> frozenset[int]:
    """The seeds of a study's final runs, also of those that ``only`` leaves out."""
    run = table.axes.get("run")
    axes = (table.axes.get("seed"), run.get("seed") if isinstance(run, Mapping) else None)
    return frozenset(seed for axis in axes if isinstance(axis, list) for seed in axis) | frozenset(study.recipes)


def problems_at(path: Path, label: str, error: RecipeError) -> list[Problem]:
    """What is wrong with a recipe of the sweep: what the sweep itself sets lies in its own file."""
    return [
        Problem(str(path) if p.file == OVERRIDE else p.file, p.line, f"{label}: {p.key}", p.text)
        for p in error.problems
    ]


def make(
    path: Path, table: SweepTable, registry: Registry, layers: Sequence[Layer], overrides: Sequence[str] = ()
) -> Recipe:
    """The recipe of a point, which lies and is called as the sweep has it.

    Raises:
        RecipeError: it is not valid.
    """
    texts = [*overrides, *(text for layer in (table.set, *layers) for text in as_overrides(layer))]
    recipe = load_recipe(path.parent / table.recipe, registry, texts)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{recipe.task.name}-{recipe.method.name}")[:100]
    run = recipe.run.model_copy(update={"name": name, "output": str(table.folder / "runs" / address(recipe))})
    tags = tuple(dict.fromkeys((*recipe.track.tags, table.name)))
    return recipe.model_copy(update={"run": run, "track": recipe.track.model_copy(update={"tags": tags})})


def address(recipe: Recipe) -> str:
    """What the recipe asks for, as 16 digits, whatever it is called and wherever it lies."""
    data = without_none(recipe.model_dump(mode="json"))
    data["run"] = {key: value for key, value in data["run"].items() if key not in ("name", "output")}
    del data["track"]
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def as_overrides(layer: Layer, above: str = "") -> Iterator[str]:
    """A layer as ``key.path=value`` texts, tables of components whole."""
    for key, value in layer.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping) and path not in KINDS:
            yield from as_overrides(value, f"{path}.")
        else:
            yield f"{path}={_inline(value)}"


def nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """``{"train.learning_rate": 1}`` → ``{"train": {"learning_rate": 1}}``."""
    found: dict[str, Any] = {}
    for path, value in keys.items():
        table = found
        *above, last = path.split(".")
        for part in above:
            table = table.setdefault(part, {})
        table[last] = value
    return found


def _axes(value: Any, path: Keys, registry: Registry) -> Iterator[tuple[str, list[tuple[str, Layer]]]]:
    """Every list in the tables, by its path, as texts and layers."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _axes(inner, (*path, key), registry)
        return
    axis = ".".join(path)
    given = [ALL] if value == ALL else value
    if not isinstance(given, list) or not given:
        raise InputError(f"axes.{axis}: must be a list of values, or {ALL!r} for a method or task, not {value!r}")
    if path == ("seed",):
        path = SEED
    if axis in KINDS:
        given = _components(axis, given, registry)
    elif len(path) == 1 and path[0] == "model":
        given = [{"name": each} if isinstance(each, str) else each for each in given]
    elif len(path) == 1 and path[0] in Recipe.model_fields:
        raise InputError(f"axes.{axis}: is a table of the recipe; name a key in it, such as axes.{axis}.…")
    elif len(path) == 1:  # a name of the sweep's own: each value is a part of a recipe
        wrong = next((each for each in given if not isinstance(each, Mapping)), None)
        if wrong is not None:
            near = did_you_mean(axis, [*Recipe.model_fields, "seed"])
            raise InputError(
                f"axes.{axis}: is no key of a recipe{near}; as a name of your own it needs values that are tables, "
                f"such as {{task = {{…}}, evaluate = {{…}}}}, not {wrong!r}"
            )
        yield (
            axis,
            [
                (str(each.get("label") or _text(each)), {key: inner for key, inner in each.items() if key != "label"})
                for each in given
            ],
        )
        return
    texts = [_text(each) for each in given]
    tables = [each for each in given if isinstance(each, Mapping)]
    if axis in KINDS:  # the name says it, where no other one is called so
        names = [str(table["name"]) for table in tables]
        texts = [name if names.count(name) == 1 else text for name, text in zip(names, texts, strict=True)]
    yield ".".join(path), [(text, nested({".".join(path): each})) for text, each in zip(texts, given, strict=True)]


def _chosen(only: Sequence[str], axes: Mapping[str, Sequence[tuple[str, Layer]]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in only:
        axis, _, value = text.partition("=")
        if axis not in axes:
            raise InputError(f"--only {text}: there is no axis {axis!r}{did_you_mean(axis, axes)}: {listed([*axes])}")
        known = [told for told, _ in axes[axis]]
        if value not in known:
            raise InputError(
                f"--only {text}: {axis} has no value {value!r}{did_you_mean(value, known)}: {listed(known)}"
            )
        found.setdefault(axis, []).append(value)
    return found


def _components(kind: str, given: Sequence[Any], registry: Registry) -> list[dict[str, Any]]:
    tables = [{"name": each} if isinstance(each, str) else each for each in given]
    named = {str(table.get("name")) for table in tables if isinstance(table, Mapping)}
    found: list[dict[str, Any]] = []
    for table in tables:
        if table == {"name": ALL}:
            found += [{"name": name} for name in registry.of(KINDS[kind]) if name not in named]
        elif isinstance(table, Mapping) and "name" in table:
            found.append(dict(table))
        else:
            known = listed([*registry.of(KINDS[kind])])
            raise InputError(f"axes.{kind}: each must be a name, or a table with one, of: {known}; not {table!r}")
    return found


def _merged(one: Layer, other: Layer) -> dict[str, Any]:
    """The keys of both."""
    found = {**one, **other}
    for key, value in one.items():
        if isinstance(value, Mapping) and isinstance(other.get(key), Mapping | None):
            found[key] = _merged(value, other.get(key) or {})
    return found


def _refuse_unknown(path: Path, conditions: Sequence[Layer], known: Layer, registry: Registry) -> None:
    """Refuses conditions on keys that no recipe has: they would exclude nothing, and nobody would be told."""
    data = dict(known)
    for axis, kind in KINDS.items():
        data[axis] = {key: None for entry in registry.of(kind).values() for key in entry.component.model_fields}
    for condition in conditions:
        for keys in _leaves(condition):
            table: Any = data
            for number, key in enumerate(keys):
                if not isinstance(table, Mapping):
                    break
                if key not in table:
                    near = did_you_mean(key, [*table])
                    raise InputError(f"{path}: exclude: no recipe has a key {'.'.join(keys[: number + 1])}{near}")
                table = table[key]


def _leaves(layer: Layer, above: Keys = ()) -> Iterator[Keys]:
    for key, value in layer.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        else:
            yield *above, key


def _matches(value: Any, condition: Any) -> bool:
    if isinstance(condition, Mapping):
        return isinstance(value, Mapping) and all(_matches(value.get(k), inner) for k, inner in condition.items())
    return bool(value in condition if isinstance(condition, list) else value == condition)


def _text(value: Any) -> str:
    """A value in words: a component's name with its options, a part of a recipe with what it sets."""
    if not isinstance(value, Mapping):
        return str(value)
    rest = {key: inner for key, inner in value.items() if key != "name"}
    told = ", ".join(
        f"{key}={_text(inner)}" if not isinstance(inner, Mapping) else _text(inner) for key, inner in rest.items()
    )
    name = str(value.get("name", ""))
    return f"{name} ({told})" if name and told else name or told


def _inline(value: Any) -> str:
    """A value as TOML has it in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)
