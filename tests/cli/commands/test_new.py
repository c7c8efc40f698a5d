"""Projects that ``peftkit new`` scaffolds."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from peftkit.plugins import BASE_CLASSES
from tests.cli.conftest import Peftkit


def install(folder: Path, site: Path) -> dict[str, str]:
    """Install the distribution like pip; returns the environment variables of a process that has it."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head, encoding="utf-8")
    points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["peftkit"].items())
    (info / "entry_points.txt").write_text(f"[peftkit]\n{points}", encoding="utf-8")
    path = os.pathsep.join([str(site), str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.slow
@pytest.mark.one_line
@pytest.mark.parametrize("kind", BASE_CLASSES)
def test_scaffolded_project_passes_its_tests(kind: str, peftkit: Peftkit, tmp_path: Path) -> None:
    code, out, err = peftkit("new", kind, "my_own", "--in", str(tmp_path))
    folder = tmp_path / "peftkit-my-own"
    assert (code, err) == (0, "")
    commands = out.splitlines()[1].split(" && ")
    assert [shlex.split(line) for line in commands] == [
        ["pip", "install", "-e", f"{folder}[dev]"],
        ["pytest", str(folder)],
    ]
    environment = install(folder, tmp_path / "site")
    # One architecture, because the other ones run the same code of the kit.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "not llama and not bert",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    style = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", str(folder)], capture_output=True
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
