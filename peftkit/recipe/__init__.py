"""Recipes: TOML files or Python values in, a validated, frozen ``Recipe`` with its components out.

``raw_recipe`` reads the files, ``build_recipe`` takes Python values, ``config`` defines the tables, ``compatibility``
checks them against each other, and ``error_messages`` turns validation errors into messages with file, line and key.
"""

from peftkit.recipe.config import Recipe
from peftkit.recipe.load_recipe import drop_none, dump_recipe, load_recipe

__all__ = ["Recipe", "drop_none", "dump_recipe", "load_recipe"]
