"""Projects that ``peftkit new`` scaffolds."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from peftkit.plugins import BASE_CLASSES
from tests.cli.conftest import Peftkit


def install(folder: Path, site: Path) -> None:
    """Write the metadata of the distribution as pip does."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head, encoding="utf-8")
    points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["peftkit"].items())
    (info / "entry_points.txt").write_text(f"[peftkit]\n{points}", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.one_line
def test_scaffolded_projects_pass_their_tests(peftkit: Peftkit, tmp_path: Path) -> None:
    folders, site = [], tmp_path / "site"
    for kind in BASE_CLASSES:
        code, out, err = peftkit("new", kind, f"my_{kind}", "--in", str(tmp_path))
        folder = tmp_path / f"peftkit-my-{kind}"
        assert (code, err) == (0, "")
        commands = out.splitlines()[1].split(" && ")
        assert [shlex.split(line) for line in commands] == [
            ["pip", "install", "-e", f"{folder}[dev]"],
            ["pytest", str(folder)],
        ]
        install(folder, site)
        folders.append(str(folder))
    path = os.pathsep.join([str(site), *folders, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    # In one process, which imports torch once. One architecture, because the other ones run the same code of the kit.
    options = ["-q", "-rp", "-p", "no:cacheprovider", "-k", "not llama and not bert"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *folders],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    for kind in BASE_CLASSES:
        assert re.search(rf"^PASSED \S*tests/test_my_{kind}\.py::", done.stdout, re.MULTILINE)
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
