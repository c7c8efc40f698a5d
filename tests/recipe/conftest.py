"""A valid recipe, and the errors that ``peftkit check`` prints for invalid ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from peftkit import plugins
from peftkit.cli import main
from peftkit.plugins import Registry, load_registry

VALID = """\
[model]
name = "pocket-t5"

[task]
name = "wordnet_mcq"

[method]
name = "lora"
"""

CheckErrors = Callable[..., list[str]]


@pytest.fixture
def valid_recipe() -> str:
    """A valid recipe of eight lines; appended text starts at line 9, in [method]."""
    return VALID


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The built-in components, whatever else is installed."""
    return load_registry(points=[p for p in entry_points(group="peftkit") if p.dist and p.dist.name == "peftkit"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that messages have bare file names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def check_errors(
    folder: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CheckErrors:
    """Runs ``peftkit check`` on the first of some files; it must exit with 2 and print one error per line."""
    monkeypatch.setattr(plugins, "load_registry", lambda: registry)

    def check(files: Mapping[str, str | bytes], *overrides: str) -> list[str]:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        words = [word for override in overrides for word in ("--set", override)]
        code = main(["check", next(iter(files), "x.toml"), *words])
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        head, _, rest = err.rstrip("\n").partition("\n")
        if rest:
            assert head == "peftkit: errors:"
            return rest.split("\n")
        assert head.startswith("peftkit: error: ")
        return [head.removeprefix("peftkit: error: ")]

    return check
