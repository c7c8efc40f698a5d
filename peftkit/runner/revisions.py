"""The commits of the hub's model and data set that a run uses from its beginning to its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from peftkit.commits import resolve_commit
from peftkit.errors import InputError
from peftkit.recipe import Recipe
from peftkit.recipe.names import HUB_ID, model_path
from peftkit.runs import RunDirectory

Revisions = Mapping[str, str]
"""The commits of ``model`` and ``data``, as far as these are on a hub and known."""


def resolve_revisions(recipe: Recipe, resumed: Path | None = None) -> Revisions:
    """What the recipe's branches and tags stand for now; of a run that goes on, what they stood for then.

    Args:
        recipe: what is run.
        resumed: the run directory that it goes on in.
    """
    if resumed is not None and (known := recorded_revisions(resumed)) is not None:
        return known
    name = recipe.model.name
    local = Path(model_path(name)).exists() or not HUB_ID.fullmatch(name)
    found = {
        "model": None if local else resolve_commit("model", name, recipe.model.revision),
        "data": recipe.task.resolve_revision(),
    }
    return {of: commit for of, commit in found.items() if commit}


def recorded_revisions(run: Path) -> Revisions | None:
    """What a run has recorded of its commits; None where it has recorded nothing."""
    try:
        found = RunDirectory(run).environment().get("revisions")
    except InputError:  # killed before it was written
        return None
    return found if isinstance(found, Mapping) else None


def pinned(recipe: Recipe, revisions: Revisions) -> Recipe:
    """The recipe with commits in the place of branches and tags."""
    update: dict[str, object] = {}
    if commit := revisions.get("model"):
        update["model"] = recipe.model.model_copy(update={"revision": commit})
    if commit := revisions.get("data"):
        update["task"] = recipe.task.at_revision(commit)
    return recipe.model_copy(update=update)
