"""The command line in this process, away from what is installed and from everybody's files."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from peftkit import plugins
from peftkit.cli import listing, main
from peftkit.plugins import Registry, load_registry

RIGHT = '[model]\nname = "pocket-t5"\n[task]\nname = "wordnet_mcq"\n[method]\nname = "lora"\n'

Peftkit = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_registry(points=[p for p in entry_points(group="peftkit") if p.dist and p.dist.name == "peftkit"])


@pytest.fixture
def peftkit(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Peftkit:
    """Runs the words in an empty folder with one right recipe; gives the exit code, the output and the errors."""
    for module in (plugins, listing):
        monkeypatch.setattr(module, "load_registry", lambda: registry)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text(RIGHT, encoding="utf-8")

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        return (code, *capsys.readouterr())

    return run
