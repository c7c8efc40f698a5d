"""Tables are validated as the components that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.errors import RecipeError
from peftkit.plugins import Registry
from peftkit.recipe import load_recipe


@pytest.mark.parametrize("kind", ["task", "method", "metric", "callback"])
def test_an_unknown_component_is_reported_with_its_kind(
    kind: str, valid_recipe: str, folder: Path, registry: Registry
) -> None:
    value = 'name = "nothing"'
    (folder / "x.toml").write_text(valid_recipe, encoding="utf-8")
    override = f"{kind}={{{value}}}" if kind in ("task", "method") else f"{kind}=[{{{value}}}]"
    with pytest.raises(RecipeError, match=rf"{kind}(\[0\])?\.name: no {kind} is called 'nothing'"):
        load_recipe("x.toml", registry, [override])
