"""Checks that metrics agree with each other."""

from __future__ import annotations

from collections.abc import Iterator

from peftkit.components import Metric
from peftkit.recipe.partial_recipe import listed
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.toml_lines import KeyPath


def companion_conflicts(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Find metrics that need another one with other options than it has.

    Args:
        recipe: The recipe.

    Yields:
        The path of a key, and what is wrong with it.
    """
    metrics = [(index, each) for index, each in listed(recipe, "metric") if isinstance(each, Metric)]
    for index, metric in metrics:
        for companion in metric.companions():
            if any(each.name == companion.name and each != companion for _, each in metrics):
                text = (
                    f"{metric.name!r} is shown with {companion.name!r}, which this recipe computes with other options"
                )
                yield ("metric", index, "name"), f"{text}; give these metrics the same options"
