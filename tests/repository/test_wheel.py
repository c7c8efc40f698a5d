"""Contents and metadata of the built wheel."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from email import message_from_string
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Built in a copy, so that stale files in build/ are not included.
    folder = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "wandb")
    shutil.copytree(ROOT, folder / "copy", ignore=unwanted)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(folder / "copy"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def members(wheel: Path) -> dict[str, str]:
    """Names in the wheel by file; metadata files without their versioned folder."""
    with ZipFile(wheel) as archive:
        return {n.partition(".dist-info/")[2] if ".dist-info/" in n else n: n for n in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(wheel: Path, members: dict[str, str]) -> Message:
    with ZipFile(wheel) as archive:
        return message_from_string(archive.read(members["METADATA"]).decode())


def test_the_wheel_has_all_files_of_the_package(members: dict[str, str]) -> None:
    files = {
        f.relative_to(ROOT).as_posix() for f in (ROOT / "peftkit").rglob("*") if f.is_file() and f.suffix != ".pyc"
    }
    assert {name for name in members if name.startswith("peftkit/")} == files
    assert "peftkit/py.typed" in files
    assert any(name.startswith("peftkit/assets/") for name in files)


def test_the_wheel_has_no_other_files(members: dict[str, str]) -> None:
    others = {name for name in members if not name.startswith("peftkit/")}
    assert others == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}


def test_entry_points_of_the_wheel(wheel: Path, members: dict[str, str]) -> None:
    parser = configparser.ConfigParser()
    with ZipFile(wheel) as archive:
        parser.read_string(archive.read(members["entry_points.txt"]).decode())
    assert {section: dict(parser[section]) for section in parser.sections()} == {
        "console_scripts": {"peftkit": "peftkit.cli:main"},
        "peftkit": {
            "methods": "peftkit.methods",
            "tasks": "peftkit.tasks",
            "metrics": "peftkit.metrics",
            "meters": "peftkit.meters",
            "objectives": "peftkit.objectives",
        },
    }


def test_metadata_of_the_wheel(metadata: Message) -> None:
    assert metadata["Name"] == "peftkit"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    extras = {"adapters", "data", "deepspeed", "dev", "docs", "figures", "harness", "ifeval", "math", "quant", "sweep"}
    extras.add("tensorboard")
    assert set(metadata.get_all("Provides-Extra", [])) == extras


def test_size_of_the_wheel(wheel: Path) -> None:
    assert wheel.stat().st_size < 60e6
