"""Checks everything about a recipe that needs no model: its keys, its data, and what it needs of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from peftkit.components import Component, ModelKind, OptionProblem
from peftkit.distributed import device_requirements as device
from peftkit.errors import InputError, PeftkitError, PluginError, Problem, RecipeError, summarize_error
from peftkit.plugins import Registry
from peftkit.recipe.conflicts.find_conflicts import Conflict
from peftkit.recipe.evaluation_tasks import EvaluationTask, name_of_table
from peftkit.recipe.load_recipe import find_problems, load_raw_recipe, sort_problems
from peftkit.recipe.model_names import model_config
from peftkit.recipe.partial_recipe import known, without_keys
from peftkit.recipe.probes.probe_config import ProbeConfig
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.tables.evaluate_config import EvaluationSet
from peftkit.recipe.toml_lines import KeyPath

C = TypeVar("C", bound=Component)


@dataclass(frozen=True)
class RecipeReport:
    """What is wrong with a recipe."""

    recipe: Recipe | None
    """The recipe; None if it is invalid."""
    errors: tuple[Problem, ...]
    """Why a run would fail, on any machine."""
    warnings: tuple[Problem, ...] = ()
    """What may be unintended, and why a run would fail on this machine."""


def check_recipe(
    path: str | Path,
    registry: Registry,
    overrides: Iterable[str] = (),
    *,
    data: bool | None = None,
    further: Callable[[Recipe], Iterable[Conflict]] = lambda recipe: (),
) -> RecipeReport:
    """Check a recipe without loading its model.

    Args:
        path: The TOML file.
        registry: The installed components.
        overrides: ``key.path=value`` texts that override keys of the file.
        data: Whether to check the data of the task; None to check them if they are on this machine.
        further: Finds more problems; it ends where it reads a key that has some already.

    Returns:
        All problems.

    Raises:
        PluginError: A component raises while it is checked.
    """
    try:
        raw = load_raw_recipe(path, overrides)
    except RecipeError as error:
        return RecipeReport(None, error.problems)
    recipe, problems = find_problems(raw, registry)
    errors, warnings = list(problems), list[Conflict]()
    if recipe is not None:
        with known():
            for problem in () if data is False else _data_problems(recipe, download=bool(data)):
                target = errors if problem.is_error else warnings
                target.append((("task", problem.option), problem.text))
        with known():
            for key, problem in () if data is False else _set_problems(recipe, download=bool(data)):
                (errors if problem.is_error else warnings).append((key, problem.text))
        errors += _option_conflicts(recipe)
        with known():
            errors += further(without_keys(recipe, [key for key, _ in errors]))
        invalid = {key for key, _ in errors}
        warnings += [conflict for conflict in _device_conflicts(recipe) if conflict[0] not in invalid]
    valid = recipe if not errors else None
    unique = (tuple(sort_problems(dict.fromkeys(each), raw)) for each in (errors, warnings))
    return RecipeReport(valid, *unique)


def _data_problems(recipe: Recipe, *, download: bool) -> Sequence[OptionProblem]:
    return _call(recipe.task, lambda task: task.find_data_problems(download=download))


def _set_problems(recipe: Recipe, *, download: bool) -> Iterator[tuple[KeyPath, OptionProblem]]:
    """Yield what is wrong with the data of evaluation sets and probes, each with the key that has to be changed."""
    sets: list[tuple[KeyPath, EvaluationSet | ProbeConfig, EvaluationTask]] = [
        (("evaluate", "set", index), config, evaluated)
        for index, (config, evaluated) in enumerate(zip(recipe.evaluate.set, recipe.evaluation_tasks, strict=True))
    ]
    pairs = zip(recipe.probe, recipe.probe_tasks, strict=True)
    sets += [(("probe", index), config, evaluated) for index, (config, evaluated) in enumerate(pairs)]
    for path, config, evaluated in sets:
        for problem in _call(evaluated.task, lambda task: task.find_data_problems(download=download)):
            keys: dict[str, KeyPath] = {option: ("task", option) for option in config.task}
            keys |= {"path": ("path",)} if config.path is not None else {}
            keys |= {"test_split": ("split",)} if config.split is not None else {}
            # An option that is that of the recipe's task may be changed for the set alone.
            text = problem.text if problem.option in (*keys, "path") else f"task.{problem.option}: {problem.text}"
            key = keys.get(problem.option, ())
            yield (*path, *key), replace(problem, text=f"{name_of_table(path, config.name)}: {text}")


def check_method_options(recipe: Recipe) -> None:
    """Check the options of a recipe's method, which needs no model.

    Raises:
        InputError: The library that implements the method rejects an option.
    """
    if conflicts := list(_option_conflicts(recipe)):
        raise InputError("\n".join(f"method.{key[-1]}: {text}" for key, text in conflicts))


def _option_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    kind: ModelKind | None = None
    with known():
        kind = recipe.trained_kind(model_config(recipe.model.name))
    with known():
        for problem in _call(recipe.method, lambda method: method.find_option_problems(kind)):
            yield ("method", problem.option), problem.text


def _call(component: C, find: Callable[[C], Sequence[OptionProblem]]) -> Sequence[OptionProblem]:
    try:
        return find(component)
    except PeftkitError:
        raise
    except Exception as error:  # of a plugin: reported like any other
        raise PluginError(f"{component.name!r} failed while it was checked: {summarize_error(error)}") from error


def _device_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    """Yield what the recipe needs and this machine does not have."""
    needs: list[tuple[KeyPath, Callable[[], str]]] = [
        (("train", "mixed_precision"), lambda: device.precision_problem(recipe.train.mixed_precision)),
        (("model", "quantization"), lambda: device.quantization_problem(recipe.model.quantization)),
        (("train", "fsdp"), lambda: device.fsdp_problem() if recipe.train.fsdp else ""),
        (
            ("train", "activation_offloading"),
            lambda: device.offloading_problem() if recipe.train.activation_offloading else "",
        ),
        (("train", "deepspeed"), lambda: device.deepspeed_problem() if recipe.train.deepspeed.used else ""),
    ]
    for key, find in needs:
        with known():
            if text := find():
                yield key, f"cannot run on this machine: {text}"
    with known():
        if notice := device.emulation_notice(recipe.train.mixed_precision):
            yield ("train", "mixed_precision"), f"on this machine, {notice}"
