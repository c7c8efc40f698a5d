"""Load a recipe: read the TOML files, validate them, and create the components."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from peftkit.components import Component, Method
from peftkit.components.method_suggestions import find_spelling
from peftkit.errors import PluginError, Problem, RecipeError
from peftkit.plugins import Kind, Registry
from peftkit.recipe.component_validation import LISTED
from peftkit.recipe.conflicts.find_conflicts import Conflict, find_conflicts, unmeasured_budgets
from peftkit.recipe.evaluation_tasks import task_tables
from peftkit.recipe.messages.type_names import Components, aliases, format_value
from peftkit.recipe.messages.validation_errors import Messages, describe_errors, to_json, type_mismatches
from peftkit.recipe.model_names import model_config
from peftkit.recipe.partial_recipe import known, partial_recipe
from peftkit.recipe.probes.probe_tasks import probe_tables
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.recipe_file import MigratedKey, RawRecipe, format_key, load_raw, override_file
from peftkit.recipe.toml_lines import KeyPath

log = logging.getLogger(__name__)


def load_recipe(path: str | Path, registry: Registry, overrides: Iterable[str] = ()) -> Recipe:
    """Load and validate a recipe.

    Args:
        path: The TOML file.
        registry: The installed components.
        overrides: ``key.path=value`` texts that override keys of the file.

    Returns:
        The recipe with its components.

    Raises:
        RecipeError: The recipe is invalid; it lists all problems.
        PluginError: A component raises while its incompatibilities are checked.
    """
    return validate_recipe(load_raw_recipe(path, overrides), registry)


def load_raw_recipe(path: str | Path, overrides: Iterable[str] = ()) -> RawRecipe:
    """Load a recipe without validating it, and show once which of its keys have new names.

    Args:
        path: The TOML file.
        overrides: ``key.path=value`` texts that override keys of the file.

    Returns:
        The recipe as plain data.

    Raises:
        RecipeError: The files cannot be read.
    """
    raw = load_raw(Path(path), overrides)
    if raw.migrated and not any((Path(path).parent / name).exists() for name in ("environment.json", "summary.json")):
        _warn_of_old_keys(raw.migrated)  # not for run directories, whose recipes nobody edits
    return raw


def validate_recipe(raw: RawRecipe, registry: Registry) -> Recipe:
    """Validate a recipe and create its components.

    Args:
        raw: The recipe as plain data; the defaults that depend on its components are filled in.
        registry: The installed components.

    Returns:
        The recipe.

    Raises:
        RecipeError: The recipe is invalid; it lists all problems.
        PluginError: A component raises while its incompatibilities are checked.
    """
    recipe, problems = find_problems(raw, registry)
    if problems or recipe is None:
        raise RecipeError(sort_problems(problems, raw))
    return recipe


def find_problems(raw: RawRecipe, registry: Registry) -> tuple[Recipe | None, list[Conflict]]:
    """Validate a recipe and return its problems.

    Every check whose keys are valid is made, whatever else is invalid.

    Args:
        raw: The recipe as plain data; the defaults that depend on its components are filled in.
        registry: The installed components.

    Returns:
        The recipe; if it has invalid keys, one that raises ``InvalidKeyError`` where they are read, and None if nothing
        of it is valid. And the problems, each with its key; several may have the same key.

    Raises:
        PluginError: A component raises while its incompatibilities are checked.
    """
    recipe, invalid, contradictions = _validate_keys(raw, registry)
    if invalid:
        recipe = partial_recipe(raw.data, invalid, registry)
    conflicts = list(contradictions.items())
    if recipe:
        config: Mapping[str, Any] = {}
        with known():
            config = model_config(recipe.model.name)
        conflicts += find_conflicts(recipe, config) + unmeasured_budgets(recipe, registry)
    valid = [(key, text) for key, text in conflicts if key not in invalid]
    return recipe, list(dict.fromkeys([*invalid.items(), *valid]))


def find_invalid_keys(raw: RawRecipe, registry: Registry) -> list[Problem]:
    """Return the keys of a recipe that are invalid by themselves, such as those of the only table that it has.

    Args:
        raw: The recipe as plain data.
        registry: The installed components.
    """
    return sort_problems(_validate_keys(raw, registry)[1].items(), raw)


def _validate_keys(raw: RawRecipe, registry: Registry) -> tuple[Recipe | None, Messages, Messages]:
    """Return a recipe if its keys are valid, the invalid ones, and those that contradict the method."""
    _normalize_method_name(raw.data.get("method"), registry)
    components = _component_classes(raw.data, registry)
    _fill_defaults(raw, components)
    contradictions = _fill_recipe_keys(raw, components)
    invalid = type_mismatches(raw, components)
    try:
        return _validate(raw.data, registry), invalid, contradictions
    except ValidationError as error:
        return None, describe_errors(error, raw, components) | invalid, contradictions


@cache
def _warn_of_old_keys(keys: tuple[MigratedKey, ...]) -> None:
    """Show once how keys of recipe format 1 are written now."""
    lines = [f"  {key.location}: {key.key} is now: {'; '.join(key.lines)}" for key in keys]
    log.warning("these keys are of recipe format 1; replace them:\n%s", "\n".join(lines))


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as TOML with all defaults; loading it again gives an equal recipe."""
    return tomli_w.dumps(drop_none(recipe.model_dump(mode="json")))


def drop_none(value: Any) -> Any:
    """Remove the None values of tables: TOML has no null, and None is always a default."""
    if isinstance(value, dict):
        return {k: drop_none(v) for k, v in value.items() if v is not None}
    return [drop_none(v) for v in value] if isinstance(value, list) else value


def _validate(data: dict[str, Any], registry: Registry) -> Recipe:
    return Recipe.model_validate_json(to_json(data), strict=True, context={"registry": registry})


def _normalize_method_name(table: Any, registry: Registry) -> None:
    """Replace another spelling of an installed method, such as ``LoRA+``, by its name."""
    known = registry.all("method")
    if isinstance(table, dict) and isinstance(name := table.get("name"), str) and name not in known:
        table["name"] = find_spelling(name, known) or name


def _component_classes(data: dict[str, Any], registry: Registry) -> Components:
    """Look up the classes of the component tables, as far as they name installed components."""
    tables: list[tuple[KeyPath, Kind, Any]] = [
        (("task",), "task", data.get("task")),
        (("method",), "method", data.get("method")),
        (("objective",), "objective", data.get("objective")),
    ]
    for kind in LISTED:
        if isinstance(listed := data.get(kind), list):
            tables += [((kind, index), kind, table) for index, table in enumerate(listed)]
    evaluate = data.get("evaluate")
    if isinstance(evaluate, dict):
        sets = task_tables(evaluate.get("set"), data.get("task"))
        tables += [(("evaluate", "set", index, "task"), "task", table) for index, table in sets]
    tables += [(("probe", index, "task"), "task", table) for index, table in probe_tables(data.get("probe"))]
    classes: dict[KeyPath, type[Component]] = {}
    for path, kind, table in tables:
        name = table.get("name") if isinstance(table, dict) else None
        if isinstance(name, str):
            with suppress(PluginError):  # reported by validation
                classes[path] = registry.find(kind, name).component.class_for(table)
    return classes


def _fill_defaults(raw: RawRecipe, components: Components) -> None:
    """Fill in the task's metrics; of an option that layers set by different aliases, keep the last."""
    for table in ("task", "method"):
        raw.data.setdefault(table, {})  # the error of the missing name lists the installed components
    if "metric" not in raw.data and (task := components.get(("task",))):
        options = getattr(task, "metric_options", {})
        raw.data["metric"] = [{"name": name, **options.get(name, {})} for name in getattr(task, "metrics", ())]
        raw.origins[("metric",)] = raw.locate(("task", "name"))
    for path, component in components.items():
        options = raw.value(path)
        for name, field in component.model_fields.items():
            *earlier, last = [key for key in options if key in aliases(name, field)] or [name]
            for key in earlier:  # two aliases in one file are an error
                files = {raw.locate((*path, k)).file for k in (key, last)}
                if len(files) > 1 or files == {override_file()}:
                    del options[key]


def _fill_recipe_keys(raw: RawRecipe, components: Components) -> dict[KeyPath, str]:
    """Fill in the keys of other tables that the method sets; return an error for each that the recipe contradicts."""
    method = components.get(("method",))
    problems: dict[KeyPath, str] = {}
    for key, value in method.recipe_keys.items() if method and issubclass(method, Method) else ():
        path = tuple(key.split("."))
        table: Any = raw.data
        for part in path[:-1]:
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            continue  # reported by validation
        name = raw.value(("method", "name"))
        if path[-1] not in table:
            table[path[-1]] = value
            raw.origins[path] = raw.locate(("method", "name"))
        elif table[path[-1]] != value:
            problems[path] = f"{name!r} sets it to {format_value(value)}; leave it out, or use another method"
    return problems


def sort_problems(texts: Iterable[tuple[KeyPath, str]], raw: RawRecipe) -> list[Problem]:
    """Sort problems by file and line: those of the recipe first, then of its bases, then of the command line.

    Args:
        texts: Keys, and what is wrong with them.
        raw: The recipe before validation.
    """
    order = {path: index for index, path in enumerate(raw.origins)}
    problems = []
    for path, text in sorted(texts, key=lambda problem: order.get(problem[0], -1)):
        location = raw.locate(path)
        problems.append(Problem(location.file, location.line, format_key(path), text))
    last = override_file()
    files = list(dict.fromkeys([raw.file, *(p.file for p in problems if p.file != last), last]))
    return sorted(problems, key=lambda p: (files.index(p.file), p.line or 0))
