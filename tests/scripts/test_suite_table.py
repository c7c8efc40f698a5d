"""The table of suites in docs/tasks.md is that of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from peftkit.tasks.hub_suites import SUITES

FILE = Path(__file__).parents[2] / "scripts/suite_table.py"


def test_the_table_of_suites_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("suite_table", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    document = module.DOCUMENT.read_text(encoding="utf-8")
    assert module.with_table(document) == document, f"run python {FILE.name} --write"
    for suite in SUITES:
        assert f"| `{suite.name}`" in document
        assert f"* `{suite.name}` ([{suite.paper}]" in document
