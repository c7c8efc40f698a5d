"""The reference pages of the site name all that the code has."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import peftkit
from peftkit.cli.commands import COMMANDS
from peftkit.plugins import load_registry
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.tables.config_table import ConfigTable

FILE = Path(__file__).parents[2] / "scripts/documents/reference_pages.py"


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_pages", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(module: ModuleType) -> dict[str, str]:
    return dict(module.pages(load_registry()))


def test_every_component_has_a_page_with_its_options(pages: dict[str, str]) -> None:
    for entry in load_registry().entries:
        page = pages[f"{entry.kind}s/{entry.name}.md"]
        assert page.startswith(f"# {entry.name}\n")
        assert f"({entry.name}.md)" in pages[f"{entry.kind}s/index.md"]
        missing = [key for key in entry.component.model_fields if key != "name" and f"`{key}`" not in page]
        assert missing == [], entry.name


def test_every_key_of_a_recipe_is_listed_with_its_meaning(pages: dict[str, str]) -> None:
    sections = {part.split("\n")[0]: part for part in pages["recipe.md"].split("\n## ")[1:]}
    tables = {name: model for name, field in Recipe.model_fields.items() if isinstance(model := field.annotation, type)}
    listed = 0
    for name, model in tables.items():
        if issubclass(model, ConfigTable):
            for key, field in model.model_fields.items():
                if not (isinstance(field.annotation, type) and issubclass(field.annotation, ConfigTable)):
                    assert f"| `{key}`" in sections[name] or f"{name}.{key}" in sections, f"{name}.{key}"
                    listed += 1
    assert listed > 50
    rows = [line for line in pages["recipe.md"].splitlines() if line.startswith("| `") and line.count(" | ") >= 3]
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_command_has_a_section_with_its_examples(pages: dict[str, str]) -> None:
    for command in COMMANDS:
        assert f"\n## peftkit {command.name}\n" in pages["cli.md"]
        for _, example in command.examples:
            assert example in pages["cli.md"]


def test_every_public_name_is_documented(pages: dict[str, str]) -> None:
    for name in peftkit.__all__:
        assert name.startswith("__") or f"::: peftkit.{name}\n" in pages["python.md"]
