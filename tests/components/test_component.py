"""Classes that are built when they are used."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.cli import main
from peftkit.components.component import LazyComponent
from peftkit.plugins import Entry, load_registry
from peftkit.recipe import load_recipe

RECIPE = Path(__file__).parents[2] / "recipes/quickstart.toml"


def lazy_entries(registry: object) -> list[LazyComponent]:
    return [entry.source for entry in registry.entries if isinstance(entry.source, LazyComponent)]  # type: ignore[attr-defined]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the classes that are built, although other tests have built some."""
    names: list[str] = []
    original = LazyComponent.__dict__["component"].func

    def note(self: LazyComponent) -> object:
        names.append(self.name)
        return original(self)

    monkeypatch.setattr(LazyComponent, "component", property(note))
    return names


def test_listing_builds_no_built_in_class(
    built: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PEFTKIT_PLUGINS", "")  # presets of plugins are built, as they are checked
    assert main(["list"]) == 0
    assert "prefix_tuning" in capsys.readouterr().out
    assert built == []


def test_a_recipe_builds_the_class_of_its_method_only(built: list[str]) -> None:
    registry = load_registry("")
    assert len(lazy_entries(registry)) > 50
    load_recipe(RECIPE, registry)
    assert {*built} == {"lora"}


def test_entries_agree_with_their_classes() -> None:
    for entry in load_registry("").entries:
        loaded = Entry(entry.kind, entry.name, entry.component, entry.distribution, entry.version)
        assert (entry.name, entry.summary) == (entry.component.model_fields["name"].default, loaded.summary)
        assert entry.preset is loaded.preset
        assert entry.component is entry.component
