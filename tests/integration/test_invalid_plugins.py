"""Commands with an installed distribution of which one plugin cannot be imported and another has an invalid class."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = '''
from typing import Literal

from peftkit import Method, hookimpl


class Good(Method):
    """Trains everything."""

    name: Literal["good_one"] = "good_one"

    def apply(self, model, context):
        return model


class Bad(Method):
    """Has a method with other arguments."""

    name: Literal["bad_one"] = "bad_one"

    def apply(self, model):
        return model


@hookimpl
def register_methods():
    return [Good, Bad]
'''
pytestmark = pytest.mark.slow

IMPORT = "the plugin half-valid:worse cannot be used: ModuleNotFoundError: No module named 'no_such_module'"
CLASS = (
    "the method 'bad_one' of the plugin half-valid:bad cannot be used: Bad must define apply(self, model, context), "
    "not apply(self, model)"
)
WARNINGS = [f"WARNING peftkit.plugins: {text}" for text in (IMPORT, CLASS)]

Peftkit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def peftkit(tmp_path: Path) -> Peftkit:
    """Runs a command where the distribution is installed."""
    installed = tmp_path / "installed"
    metadata = installed / "half_valid-1.0.dist-info"
    metadata.mkdir(parents=True)
    (installed / "half_valid.py").write_text(MODULE, encoding="utf-8")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: half-valid\nVersion: 1.0\n", encoding="utf-8")
    points = "[peftkit]\nbad = half_valid\nworse = no_such_module\n"
    (metadata / "entry_points.txt").write_text(points, encoding="utf-8")

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(installed), str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "PEFTKIT_PLUGINS": "half-valid", **variables}
        command = [sys.executable, "-m", "peftkit", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "metrics"),
        ("show", "lora"),
        ("check", "recipes/quickstart.toml"),
        ("check", "recipes/quickstart.toml", "--set", "method.name=good_one"),
    ],
)
def test_commands_that_do_not_need_it_warn_and_succeed(arguments: tuple[str, ...], peftkit: Peftkit) -> None:
    done = peftkit(*arguments)
    assert (done.returncode, sorted(done.stderr.splitlines())) == (0, sorted(WARNINGS))


def test_quiet_commands_do_not_warn(peftkit: Peftkit) -> None:
    done = peftkit("list", "metrics", "-q")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_recipe_that_names_an_invalid_component_is_rejected_with_the_reason(peftkit: Peftkit) -> None:
    done = peftkit("check", "recipes/quickstart.toml", "--set", "method.name=bad_one", "-q")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"peftkit: error: --set: method.name: {CLASS}\n"


def test_check_reports_it_as_json(peftkit: Peftkit) -> None:
    document = json.loads(peftkit("check", "recipes/quickstart.toml", "--json").stdout)
    assert document["valid"]
    named = {(each["plugin"], each["kind"], each["name"]) for each in document["failures"]}
    assert named == {("half-valid:bad", "method", "bad_one"), ("half-valid:worse", None, None)}


def test_the_list_of_plugins_has_the_valid_components_and_the_errors(peftkit: Peftkit) -> None:
    done = peftkit("list", "--plugins")
    lines = {line.split()[0]: " ".join(line.split()[4:]) for line in done.stdout.splitlines()}
    assert lines["half-valid:bad"].startswith("1 method; error: the method 'bad_one': Bad must define apply(")
    assert lines["half-valid:worse"].startswith("error: ModuleNotFoundError: ")
    assert done.stderr == ""


def test_an_excluded_plugin_is_not_reported(peftkit: Peftkit) -> None:
    done = peftkit("check", "recipes/quickstart.toml", PEFTKIT_PLUGINS="")
    assert (done.returncode, done.stderr) == (0, "")


def test_completions_are_not_mixed_with_warnings(peftkit: Peftkit, tmp_path: Path) -> None:
    line, file = "peftkit show good", tmp_path / "completions"
    shell = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    done = peftkit(**shell, _ARGCOMPLETE_STDOUT_FILENAME=str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert "good_one" in file.read_text(encoding="utf-8")
