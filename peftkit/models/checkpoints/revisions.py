"""Resolves the hub revisions of a run's model and data set to commits, and pins them for the whole run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from peftkit.errors import InputError
from peftkit.hub_commits import resolve_commit
from peftkit.recipe import Recipe
from peftkit.recipe.model_names import is_local_model
from peftkit.recipe.probes.probe_config import ProbeConfig
from peftkit.recipe.tables.evaluate_config import EvaluationSet
from peftkit.run_directory import RunDirectory

T = TypeVar("T", EvaluationSet, ProbeConfig)
Revisions = Mapping[str, str]
"""The commits of ``model``, ``data`` and each ``set NAME``, an evaluation set or a probe, as far as they are known."""


def resolve_revisions(recipe: Recipe, resumed: Path | None = None) -> Revisions:
    """Resolve the recipe's branches and tags to commits; a resumed run keeps the commits it started with.

    Args:
        recipe: the recipe.
        resumed: the directory of the run that is resumed.
    """
    if resumed is not None and (recorded := recorded_revisions(resumed)) is not None:
        return recorded
    name = recipe.model.name
    of_sets = {_set_key(each.name): each.task.resolve_revision() for each in recipe.all_evaluation_tasks}
    commits = {
        "model": None if is_local_model(name) else resolve_commit("model", name, recipe.model.revision),
        "data": recipe.task.resolve_revision(),
        **of_sets,
    }
    return {key: commit for key, commit in commits.items() if commit}


def recorded_revisions(run: Path) -> Revisions | None:
    """Return the commits that a run recorded; None if it recorded none."""
    try:
        revisions = RunDirectory(run).environment().get("revisions")
    except InputError:  # the run was killed before it wrote the file
        return None
    return revisions if isinstance(revisions, Mapping) else None


def pin_revisions(recipe: Recipe, revisions: Revisions) -> Recipe:
    """Return the recipe with branches and tags replaced by commits.

    Args:
        recipe: the recipe.
        revisions: the commits.
    """
    update: dict[str, object] = {}
    if commit := revisions.get("model"):
        update["model"] = recipe.model.model_copy(update={"revision": commit})
    if commit := revisions.get("data"):
        update["task"] = recipe.task.at_revision(commit)
    sets = tuple(_pin_set(each, revisions) for each in recipe.evaluate.set)
    if sets != recipe.evaluate.set:
        update["evaluate"] = recipe.evaluate.model_copy(update={"set": sets})
    if (probes := tuple(_pin_set(each, revisions) for each in recipe.probe)) != recipe.probe:
        update["probe"] = probes
    return recipe.model_copy(update=update)


def _pin_set(each: T, revisions: Revisions) -> T:
    """Return the table of a set or a probe with the commit of its data."""
    commit = revisions.get(_set_key(each.name))
    return each.model_copy(update={"task": {**each.task, "revision": commit}}) if commit else each


def _set_key(name: str) -> str:
    """Return the key of the commit of an evaluation set's data."""
    return f"set {name}"
