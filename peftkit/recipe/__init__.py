"""Recipes: TOML files or Python values in, a validated, frozen ``Recipe`` with its components out.

``recipe_file`` reads the files, ``build_recipe`` takes Python values, ``recipe`` and ``tables`` define the tables,
``component_validation`` validates those of components, ``compatibility`` checks them against each other, and
``messages`` turns validation errors into messages with file, line and key.
"""

from peftkit.recipe.load_recipe import drop_none, dump_recipe, load_recipe
from peftkit.recipe.recipe import Recipe

__all__ = ["Recipe", "drop_none", "dump_recipe", "load_recipe"]
