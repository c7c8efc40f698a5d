"""Checks use the built-in components and those under test, whatever plugins are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from peftkit import Callback, Meter, StepStats
from peftkit.methods.selective import LayerNorm
from peftkit.objectives import LabelRanking
from peftkit.plugins import load_registry
from peftkit.testing import check_task
from peftkit.testing.registries import registry_of
from peftkit.testing.run_checks import Colours, check_two_processes
from tests.conftest import write_distribution
from tests.regression_plugin import Shades

MODULE = """
from tests.testing.test_registries import Broken, Another
from peftkit import hookimpl

@hookimpl
def register_meters():
    return [Broken]

@hookimpl
def register_objectives():
    return [Another]
"""


class Broken(Meter):
    """A meter that fails in every run."""

    name: Literal["broken"] = "broken"

    def update(self, record: StepStats) -> None:
        raise RuntimeError("broken")

    def totals(self) -> dict[str, float]:
        return {}


class Another(LabelRanking):
    """An objective for the same tasks as a built-in one."""

    name: Literal["another"] = "another"  # type: ignore[assignment]
    families = ("encoder",)


class Waits(Callback):
    """Does nothing."""

    name: Literal["waits"] = "waits"


class Own(Shades):
    """A task with a metric of another plugin."""

    name: Literal["own"] = "own"  # type: ignore[assignment]


class Lost(Colours):
    """A task with a metric that nobody has."""

    name: Literal["lost"] = "lost"  # type: ignore[assignment]
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "luck")  # type: ignore[misc]


@pytest.fixture
def other_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a plugin that fails in runs."""
    site = write_distribution(tmp_path / "other", "other", "peftkit_other_plugin")
    (site / "peftkit_other_plugin.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(site)
    assert {"broken", "another"} <= {entry.name for entry in load_registry().entries}


@pytest.mark.usefixtures("other_plugin")
@pytest.mark.parametrize("component", [LayerNorm(), Colours(), Another(), Waits()])
def test_only_built_in_components_take_part(component: Any) -> None:
    kinds = {"layer_norm": "method", "colours": "task", "another": "objective", "waits": "callback"}
    expected = {(entry.kind, entry.name) for entry in load_registry("").entries}
    checked = {(entry.kind, entry.name) for entry in registry_of(component).entries}
    assert checked == expected | {(kinds[component.name], component.name)}


@pytest.mark.usefixtures("other_plugin")
def test_runs_of_checks_are_not_those_of_other_plugins(tmp_path: Path) -> None:
    check_two_processes(LayerNorm(), "bert", tmp_path)  # all checks of runs have the registry of the test above


@pytest.mark.usefixtures("other_plugin", "regression_plugin")
def test_a_task_has_the_metrics_and_the_objective_that_it_needs() -> None:
    built_in = {(entry.kind, entry.name) for entry in load_registry("").entries}
    added = {(entry.kind, entry.name) for entry in registry_of(Own()).entries} - built_in
    assert added == {("task", "own"), ("metric", "distance"), ("objective", "brightness_head")}
    check_task(Own())
    with pytest.raises(AssertionError, match="no metric is called 'luck'"):
        check_task(Lost())
