"""Expand a sweep's file into studies: recipes that differ in their seed only."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from peftkit.argument_names import format_argument
from peftkit.errors import InputError, Problem, RecipeError, comma_separated, did_you_mean
from peftkit.plugins import Kind, Registry
from peftkit.recipe import Recipe, drop_none, load_recipe
from peftkit.recipe.recipe_file import load_raw, override_file
from peftkit.recipe.tables.run_config import RunConfig
from peftkit.sweep.sweep_file import SweepConfig

KINDS: Mapping[str, Kind] = {"method": "method", "task": "task"}
ALL = "all"
"""A value of the axes ``method`` and ``task``: every installed component that the axis does not name otherwise, without
presets."""
SEED: Keys = ("run", "seed")
Keys = tuple[str, ...]
Layer = Mapping[str, Any]
"""A part of a recipe as nested tables."""


@dataclass(frozen=True)
class Study:
    """One point of the grid, with all of its seeds."""

    label: str
    values: Mapping[str, str]
    """The value of each axis, as text."""
    layers: tuple[Layer, ...]
    recipes: Mapping[int, Recipe]
    """Recipes by seed."""

    @property
    def any_recipe(self) -> Recipe:
        """The recipe of the first seed."""
        return next(iter(self.recipes.values()))


@dataclass(frozen=True)
class RejectedStudy:
    """A combination that the recipe check rejects, and the reason."""

    label: str
    reason: str


@dataclass(frozen=True)
class Grid:
    """All studies of a sweep."""

    path: Path
    config: SweepConfig
    studies: tuple[Study, ...]
    rejected: tuple[RejectedStudy, ...]

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return self.config.folder


def expand(
    path: Path, config: SweepConfig, registry: Registry, overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> Grid:
    """Build the validated recipes of every combination of the axes that is not excluded.

    Args:
        path: The sweep's file, which the base recipe is relative to.
        config: Its contents.
        registry: The installed components.
        overrides: ``key.path=value`` texts for all recipes; they override the base recipe, and the axes override them.
        only: ``axis=value`` texts that restrict these axes to these values.

    Returns:
        The grid.

    Raises:
        InputError: An axis is invalid, a combination is rejected and ``skip_incompatible`` is off, or no study is left.
    """
    load_raw(path.parent / config.recipe)  # raises once for a problem of the base recipe itself, not once per study
    axes = dict(_expand_axes(config.axes, (), registry))
    for axis, labels in _parse_only(only, axes).items():
        axes[axis] = [value for value in axes[axis] if value[0] in labels]
    seeds = [layer for _, layer in axes.pop(".".join(SEED), [])]
    studies: dict[str, Study] = {}
    rejected: list[RejectedStudy] = []
    problems: list[Problem] = []
    all_keys: dict[str, Any] = {}
    for point in itertools.product(*axes.values()):
        values = {axis: text for axis, (text, _) in zip(axes, point, strict=True)}
        label = " · ".join(values.values()) or config.name
        layers = tuple(layer for _, layer in point)
        recipes: dict[int, Recipe] = {}
        recipe: Recipe | None = None
        for seed in seeds or [{}]:
            try:
                reseeded = _reseed(recipe, config, seed)
                recipe = reseeded or make_recipe(path, config, registry, (*layers, seed), overrides)
            except RecipeError as error:
                rejected.append(RejectedStudy(label, "; ".join(f"{p.key}: {p.text}" for p in error.problems)))
                problems += relocate_problems(path, label, error)
                break
            data = recipe.model_dump(mode="json")
            if config.exclude and not recipes:  # the other seeds have the same keys
                all_keys = _merge(all_keys, data)
            if any(_matches(data, condition) for condition in config.exclude):
                break
            recipes[recipe.run.seed] = recipe
        else:
            studies.setdefault(recipe_hash(next(iter(recipes.values()))), Study(label, values, layers, recipes))
    if problems and not config.skip_incompatible:
        remedy = (
            "leave them out with [[exclude]], or set skip_incompatible = true to skip all incompatible combinations"
        )
        raise RecipeError([*dict.fromkeys(problems), Problem(str(path), None, "", remedy)])
    if all_keys:
        _check_exclude(path, config.exclude, all_keys, registry)
    if not studies:
        reasons = [f"{each.label}: {each.reason}" for each in rejected]
        raise InputError("\n".join([f"{path}: no combination is left to run", *reasons]))
    return Grid(path, config, tuple(studies.values()), tuple(rejected))


def final_seeds(config: SweepConfig, study: Study) -> frozenset[int]:
    """Return the seeds of a study's final runs, including those that ``only`` leaves out.

    Args:
        config: The contents of the sweep's file.
        study: The study.

    Returns:
        The seeds.
    """
    run = config.axes.get("run")
    axes = (config.axes.get("seed"), run.get("seed") if isinstance(run, Mapping) else None)
    return frozenset(seed for axis in axes if isinstance(axis, list) for seed in axis) | frozenset(study.recipes)


def relocate_problems(path: Path, label: str, error: RecipeError) -> list[Problem]:
    """Attribute the problems of a study's recipe to the study; what the sweep sets is located in the sweep's file.

    Args:
        path: The sweep's file.
        label: The label of the study.
        error: The error of its recipe.

    Returns:
        The problems with their new locations.
    """
    return [
        Problem(str(path) if p.file == override_file() else p.file, p.line, f"{label}: {p.key}", p.text)
        for p in error.problems
    ]


def make_recipe(
    path: Path, config: SweepConfig, registry: Registry, layers: Sequence[Layer], overrides: Sequence[str] = ()
) -> Recipe:
    """Build a recipe of the sweep, named and located as the sweep requires.

    Args:
        path: The sweep's file.
        config: Its contents.
        registry: The installed components.
        layers: Parts of the recipe; later ones override earlier ones.
        overrides: ``key.path=value`` texts that the layers override.

    Returns:
        The recipe.

    Raises:
        RecipeError: The recipe is invalid.
    """
    texts = [*overrides, *(text for layer in (config.set, *layers) for text in to_overrides(layer))]
    recipe = load_recipe(path.parent / config.recipe, registry, texts)
    if config.budget_share < 1:
        train = recipe.train.model_copy(update={"budget": recipe.train.budget.scaled(config.budget_share)})
        recipe = recipe.model_copy(update={"train": train})
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{recipe.task.name}-{recipe.method.name}")[:100]
    tags = tuple(dict.fromkeys((*recipe.track.tags, config.name)))
    recipe = recipe.model_copy(update={"track": recipe.track.model_copy(update={"tags": tags})})
    return _with_output(recipe, config, name=name)


def _with_output(recipe: Recipe, config: SweepConfig, **run: Any) -> Recipe:
    """Set keys of ``run``, and then the output folder by the hash of the recipe."""
    recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update=run)})
    output = str(config.folder / "runs" / recipe_hash(recipe))
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"output": output})})


def _reseed(recipe: Recipe | None, config: SweepConfig, layer: Layer) -> Recipe | None:
    """Return a recipe of the sweep with another seed, which nothing else of it depends on; None if it has to be built.

    Args:
        recipe: The recipe with the seed before; None for the first one.
        config: The contents of the sweep's file.
        layer: The layer of the seed.
    """
    if recipe is None:
        return None
    try:
        seed = RunConfig.model_validate(layer["run"], strict=True).seed
    except ValidationError:  # make_recipe raises it with its location
        return None
    return _with_output(recipe, config, seed=seed)


def recipe_hash(recipe: Recipe) -> str:
    """Hash a recipe to 16 hexadecimal digits, without its name, output folder and tracking."""
    data = drop_none(recipe.model_dump(mode="json"))
    data["run"] = {key: value for key, value in data["run"].items() if key not in ("name", "output")}
    del data["track"]
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def to_overrides(layer: Layer, above: str = "") -> Iterator[str]:
    """Convert a layer to ``key.path=value`` texts, with component tables as inline tables.

    Args:
        layer: A part of a recipe.
        above: The key of the table that contains it, with a final dot.

    Yields:
        One text per key.
    """
    for key, value in layer.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping) and path not in KINDS:
            yield from to_overrides(value, f"{path}.")
        else:
            yield f"{path}={_to_inline_toml(value)}"


def unflatten(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Convert dotted keys to nested tables: ``{"a.b": 1}`` becomes ``{"a": {"b": 1}}``."""
    result: dict[str, Any] = {}
    for path, value in keys.items():
        table = result
        *above, key = path.split(".")
        for part in above:
            table = table.setdefault(part, {})
        table[key] = value
    return result


def _expand_axes(value: Any, path: Keys, registry: Registry) -> Iterator[tuple[str, list[tuple[str, Layer]]]]:
    """Yield every axis with its values, each as text and as a layer."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _expand_axes(inner, (*path, key), registry)
        return
    axis = ".".join(path)
    values = [ALL] if value == ALL else value
    if not isinstance(values, list) or not values:
        raise InputError(f"axes.{axis}: must be a list of values, or {ALL!r} for a method or task, not {value!r}")
    if path == ("seed",):
        path = SEED
    if axis in KINDS:
        values = _expand_components(axis, values, registry)
    elif len(path) == 1 and path[0] == "model":
        values = [{"name": each} if isinstance(each, str) else each for each in values]
    elif len(path) == 1 and path[0] in Recipe.model_fields:
        raise InputError(f"axes.{axis}: is a recipe table; use one of its keys as the axis, such as axes.{axis}.KEY")
    elif len(path) == 1:  # a custom axis: each value is a part of a recipe
        invalid = next((each for each in values if not isinstance(each, Mapping)), None)
        if invalid is not None:
            hint = did_you_mean(axis, [*Recipe.model_fields, "seed"])
            raise InputError(
                f"axes.{axis}: not a recipe key{hint}; the values of a custom axis must be tables, such as "
                f"{{task = {{…}}, evaluate = {{…}}}}, not {invalid!r}"
            )
        yield (
            axis,
            [
                (
                    str(each.get("label") or _describe_value(each)),
                    {key: inner for key, inner in each.items() if key != "label"},
                )
                for each in values
            ],
        )
        return
    texts = [_describe_value(each) for each in values]
    tables = [each for each in values if isinstance(each, Mapping)]
    if axis in KINDS:  # the name alone is unambiguous if it occurs once
        names = [str(table["name"]) for table in tables]
        texts = [name if names.count(name) == 1 else text for name, text in zip(names, texts, strict=True)]
    yield ".".join(path), [(text, unflatten({".".join(path): each})) for text, each in zip(texts, values, strict=True)]


def _parse_only(only: Sequence[str], axes: Mapping[str, Sequence[tuple[str, Layer]]]) -> dict[str, list[str]]:
    values_by_axis: dict[str, list[str]] = {}
    for text in only:
        argument = format_argument("only", text, repeatable=True)
        axis, _, value = text.partition("=")
        if axis not in axes:
            near = did_you_mean(axis, axes)
            raise InputError(f"{argument}: no axis {axis!r}{near}; axes: {comma_separated([*axes])}")
        known = [label for label, _ in axes[axis]]
        if value not in known:
            near = did_you_mean(value, known)
            raise InputError(f"{argument}: {axis} has no value {value!r}{near}; values: {comma_separated(known)}")
        values_by_axis.setdefault(axis, []).append(value)
    return values_by_axis


def _expand_components(kind: str, values: Sequence[Any], registry: Registry) -> list[dict[str, Any]]:
    tables = [{"name": each} if isinstance(each, str) else each for each in values]
    explicit_names = {str(table.get("name")) for table in tables if isinstance(table, Mapping)}
    expanded: list[dict[str, Any]] = []
    for table in tables:
        if table == {"name": ALL}:
            expanded += [
                {"name": name} for name in registry.all(KINDS[kind], presets=False) if name not in explicit_names
            ]
        elif isinstance(table, Mapping) and "name" in table:
            expanded.append(dict(table))
        else:
            known = comma_separated([*registry.all(KINDS[kind])])
            raise InputError(
                f"axes.{kind}: each value must be a name, or a table with a name, not {table!r}; names: {known}"
            )
    return expanded


def _merge(one: Layer, other: Layer) -> dict[str, Any]:
    """Merge two nested tables; values of the second override those of the first."""
    merged = {**one, **other}
    for key, value in one.items():
        if isinstance(value, Mapping) and isinstance(other.get(key), Mapping | None):
            merged[key] = _merge(value, other.get(key) or {})
    return merged


def _check_exclude(path: Path, conditions: Sequence[Layer], known: Layer, registry: Registry) -> None:
    """Raise an InputError for exclusions by keys that no recipe has, which would exclude nothing."""
    data = dict(known)
    for axis, kind in KINDS.items():
        data[axis] = {key: None for entry in registry.all(kind).values() for key in entry.component.model_fields}
    for condition in conditions:
        for keys in _leaf_keys(condition):
            table: Any = data
            for number, key in enumerate(keys):
                if not isinstance(table, Mapping):
                    break
                if key not in table:
                    hint = did_you_mean(key, [*table])
                    raise InputError(f"{path}: exclude: no recipe has the key {'.'.join(keys[: number + 1])}{hint}")
                table = table[key]


def _leaf_keys(layer: Layer, above: Keys = ()) -> Iterator[Keys]:
    for key, value in layer.items():
        if isinstance(value, Mapping):
            yield from _leaf_keys(value, (*above, key))
        else:
            yield *above, key


def _matches(value: Any, condition: Any) -> bool:
    if isinstance(condition, Mapping):
        return isinstance(value, Mapping) and all(_matches(value.get(k), inner) for k, inner in condition.items())
    return bool(value in condition if isinstance(condition, list) else value == condition)


def _describe_value(value: Any) -> str:
    """Format a value as text: a component's name with its options, or what a layer sets."""
    if not isinstance(value, Mapping):
        return str(value)
    rest = {key: inner for key, inner in value.items() if key != "name"}
    options = ", ".join(
        f"{key}={_describe_value(inner)}" if not isinstance(inner, Mapping) else _describe_value(inner)
        for key, inner in rest.items()
    )
    name = str(value.get("name", ""))
    return f"{name} ({options})" if name and options else name or options


def _to_inline_toml(value: Any) -> str:
    """Format a value as inline TOML."""
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f"{json.dumps(str(key))} = {_to_inline_toml(inner)}" for key, inner in value.items()) + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_to_inline_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)
