"""Projects that ``peftkit new`` scaffolds."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from peftkit.plugins import BASE_CLASSES
from tests.cli.conftest import Peftkit


def test_scaffolded_projects_are_clean_and_name_their_commands(peftkit: Peftkit, tmp_path: Path) -> None:
    """``dev.py scaffold`` installs such projects and runs their tests."""
    folders = []
    for kind in BASE_CLASSES:
        code, out, err = peftkit("new", kind, f"my_{kind}", "--in", str(tmp_path))
        folder = tmp_path / f"peftkit-my-{kind}"
        assert (code, err) == (0, "")
        commands = out.splitlines()[1].split(" && ")
        assert [shlex.split(line) for line in commands] == [
            ["pip", "install", "-e", f"{folder}[dev]"],
            ["pytest", str(folder)],
        ]
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert project["name"] == folder.name
        assert [*project["entry-points"]["peftkit"]] == [f"my_{kind}"]
        assert (folder / "tests" / f"test_my_{kind}.py").is_file()
        folders.append(str(folder))
    style = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", *folders], capture_output=True
    )
    assert style.returncode == 0, style.stdout


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("method", "My-Own"), "a name has lower-case letters"),
        (("method", "class"), "is no keyword of Python"),
        (("method", "lora"), "the method 'lora' already exists in peftkit; choose another name"),
        (("meter", "clock"), "the meter 'clock' already exists in peftkit; choose another name"),
        (("model", "x"), "invalid choice: 'model'"),
    ],
)
def test_invalid_names_are_rejected(words: tuple[str, ...], error: str, peftkit: Peftkit, tmp_path: Path) -> None:
    code, out, err = peftkit("new", *words, "--in", str(tmp_path))
    assert (code, out) == (2, "")
    assert error in err
    assert not list(tmp_path.glob("peftkit-*"))


def test_an_existing_folder_is_not_overwritten(peftkit: Peftkit, tmp_path: Path) -> None:
    (tmp_path / "peftkit-mine").mkdir()
    code, _, err = peftkit("new", "task", "mine", "--in", str(tmp_path))
    assert code == 2
    assert "already exists; choose another name or folder" in err
