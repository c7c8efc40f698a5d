"""The command line in this process, with the built-in components only and an empty working directory."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from peftkit import Incompatibility, Method, plugins
from peftkit.cli import main
from peftkit.plugins import Entry, PluginFailure, Registry, load_registry
from tests.compare.conftest import Plant, plant

__all__ = ["plant"]  # the fixture

VALID = '[model]\nname = "pocket-t5"\n[task]\nname = "wordnet_mcq"\n[method]\nname = "lora"\n'
SHORT = """
[run]
name = "short"
[model]
name = "pocket-encoder"
[task]
name = "wordnet_topic"
[method]
name = "lora"
[train]
batch_size = 2
learning_rate = 1e-3
budget.steps = 1
[evaluate]
at_start = false
dev_examples = 4
test_examples = 4
whole = false
[track]
to = []
"""
"""A recipe of one step."""

Peftkit = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_registry(points=[p for p in entry_points(group="peftkit") if p.dist and p.dist.name == "peftkit"])


@pytest.fixture
def peftkit(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Peftkit:
    """Runs a command in an empty folder with one valid recipe; returns exit code, standard output and error."""
    monkeypatch.setattr(plugins, "load_registry", lambda: registry)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text(VALID, encoding="utf-8")

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def runs(plant: Plant) -> Path:
    """A folder of six run directories: full and lora with three seeds each."""
    for seed in (1, 2, 3):
        plant("full", seed, [0.2, 0.3, 0.5], cost=2.0, examples=500)
        path = plant("lora", seed, [0.2, 0.6, 0.8 + seed / 100], examples=500)
    return path.parent


@pytest.fixture(scope="session")
def finished_run(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of the recipe ``SHORT``; do not change it."""
    from peftkit.recipe import load_recipe
    from peftkit.train.run import run

    folder = tmp_path_factory.mktemp("finished")
    (folder / "x.toml").write_text(SHORT, encoding="utf-8")
    overrides = [f'run.output="{(folder / "runs").as_posix()}"']
    path = run(load_recipe(folder / "x.toml", registry, overrides), registry)
    assert path is not None
    return path


class Rich(Method):
    """A method with options of every type.

    This paragraph is shown too.
    """

    name: Literal["rich"] = "rich"
    needed: int
    """A required option."""
    since: datetime.date = datetime.date(2024, 1, 2)
    where: Path = Path("a/b")
    sizes: list[int] = Field(default_factory=lambda: [1, 2])
    from_others: int = Field(default_factory=lambda others: others["needed"])
    odd: frozenset[str] = frozenset({"ö"})
    weight: float | None = Field(default=None, alias="lambda", gt=0)

    incompatibilities = (Incompatibility(lambda s: True, "it never works", "use another"),)


@pytest.fixture
def rich(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    entry = Entry("method", "rich", Rich, "peftkit-rich", "3.1")
    extended = replace(
        registry, entries=(*registry.entries, entry), failures=(PluginFailure("peftkit-sad:sad", "OSError: no"),)
    )
    monkeypatch.setattr(plugins, "load_registry", lambda: extended)
    return extended
