"""Reads the descriptions of options from the docstrings below their fields."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise

from pydantic import BaseModel


def option_descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the description of each field of a model.

    This reads source files, which pydantic's ``use_attribute_docstrings`` would do for each class at import.

    Args:
        model: A component class or a table of the recipe.

    Returns:
        By field, the description that it was declared with, else the docstring below it, else an empty text.
    """
    texts: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if owner is not BaseModel and issubclass(owner, BaseModel):
            texts |= _docstrings(owner)
    return {key: field.description or texts.get(key, "") for key, field in model.model_fields.items()}


@cache
def _docstrings(owner: type) -> dict[str, str]:
    """Return the docstrings below the attributes that a class declares; none if it has no source."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    texts = {}
    for declared, following in pairwise(tree.body if isinstance(tree, ast.ClassDef) else ()):
        if (
            isinstance(declared, ast.AnnAssign)
            and isinstance(declared.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            texts[declared.target.id] = inspect.cleandoc(following.value.value)
    return texts
