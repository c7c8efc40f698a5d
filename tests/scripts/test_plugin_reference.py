"""The plugin reference is what the code says, and has every public type."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import peftkit

FILE = Path(__file__).parents[2] / "scripts/plugin_reference.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plugin_reference", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_is_up_to_date(script: ModuleType) -> None:
    assert script.DOCUMENT.read_text(encoding="utf-8") == script.document(), f"run python {FILE.name} --write"


def test_every_public_class_of_components_and_every_attribute_is_in_it(script: ModuleType) -> None:
    document = script.document()
    prefixes = ("peftkit.components", "peftkit.tasks", "peftkit.errors")
    public = [getattr(peftkit, name) for name in peftkit.__all__]
    classes = [value for value in public if inspect.isclass(value) and value.__module__.startswith(prefixes)]
    assert len(classes) > 15
    assert [c.__name__ for c in classes if not re.search(rf"^(### |\| `){c.__name__}\b", document, re.MULTILINE)] == []
    for given in script.given_types():
        section = document.split(f"### {given.__name__}\n")[1].split("\n#")[0]
        for name in given.__dataclass_fields__:
            assert re.search(rf"^\| `{name}` \| `.+` \| .+ \| .+ \|$", section, re.MULTILINE), (
                f"{given.__name__}.{name}"
            )


def test_an_attribute_without_documentation_is_an_error(script: ModuleType) -> None:
    assert script.entries("a: First,\n    continued.\nb: Second.\n") == {"a": "First, continued.", "b": "Second."}
    with pytest.raises(KeyError):
        script.of_dataclass(type("Bare", (script.inputs.StepStats,), {"__doc__": "No attributes."}))
