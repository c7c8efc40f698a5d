"""The page on learning rates matches the methods' declarations, including first-party plugins."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from peftkit.plugins import load_registry

SCRIPT = Path(__file__).parents[2] / "scripts" / "learning_rates.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("learning_rates_script", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.tables()  # while the plugins can be imported
    sys.path[:] = before
    return module


def test_the_page_is_up_to_date(script: ModuleType) -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.update(page) == page, "run python scripts/learning_rates.py"


def test_every_registered_method_has_a_row(script: ModuleType) -> None:
    rows = [line.split("|")[1].strip(" `") for line in "\n".join(script.tables().values()).splitlines()]
    distributions = {"peftkit", *script.PLUGINS}
    expected = {name for name, e in load_registry().all("method").items() if e.distribution in distributions}
    assert expected
    assert expected <= set(rows)


def test_every_method_is_in_one_family(script: ModuleType) -> None:
    families = script.families()
    for distribution in script.MODULES:
        for method in script.methods(distribution):
            assert families.count(f"`{script.name_of(method)}`") == 1


def test_a_page_without_markers_for_a_table_is_rejected(script: ModuleType) -> None:
    with pytest.raises(AssertionError, match="no markers for the table 'ranges'"):
        script.update("# Learning rates\n")
