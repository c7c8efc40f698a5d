"""Tests that run with one version of transformers do not import it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import AROUND, ONE_LINE

TESTS = Path(__file__).parents[1]
DIFFERENT = ("transformers", "tokenizers", "huggingface_hub")
"""The packages of which the two lines have different versions."""

IMPORTS = """
import importlib, sys
sys.modules |= dict.fromkeys(sys.argv[1].split(","))
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


@pytest.mark.parametrize("name", [*ONE_LINE, *AROUND])
def test_listed_tests_exist(name: str) -> None:
    assert (TESTS / name).exists()


@pytest.mark.slow
@pytest.mark.one_line
def test_one_line_tests_import_without_transformers() -> None:
    files = [
        file for name in ONE_LINE for file in ([TESTS / name] if name.endswith(".py") else (TESTS / name).rglob("*.py"))
    ]
    files = [file for file in files if file.relative_to(TESTS).as_posix() not in AROUND]
    modules = [".".join(file.relative_to(TESTS.parent).with_suffix("").parts) for file in files]
    command = [sys.executable, "-c", IMPORTS, ",".join(DIFFERENT), *modules]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
