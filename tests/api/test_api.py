"""The public names of ``peftkit``."""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import peftkit


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_peftkit_imports_no_library() -> None:
    code = "import sys, peftkit; peftkit.__all__; print({'torch', 'pydantic', 'peftkit.api'} & {*sys.modules})"
    assert run_python(code) == "set()"


def test_import_peftkit_is_quick() -> None:
    code = "import time; start = time.perf_counter(); import peftkit; print(time.perf_counter() - start)"
    assert min(float(run_python(code)) for _ in range(3)) < 0.3


def test_recipes_and_lists_import_neither_torch_nor_pandas() -> None:
    code = """
import sys, peftkit
peftkit.Recipe.build(model="pocket-t5", task="wordnet_topic", method=peftkit.method("lora", r=8))
repr(peftkit.list_methods()), repr(peftkit.list_tasks()), repr(peftkit.describe("lora"))
peftkit.run, peftkit.compare_runs, peftkit.estimate, peftkit.run_sweep
print({"torch", "transformers", "pandas", "matplotlib"} & {*sys.modules})
"""
    assert run_python(code) == "set()"


def test_packages_keep_their_names() -> None:
    code = """
import peftkit
for name in peftkit.__all__:
    getattr(peftkit, name)
import peftkit.compare, peftkit.sweep, peftkit.methods, peftkit.tasks, peftkit.metrics, peftkit.recipe
print({type(getattr(peftkit, name)).__name__ for name in ("compare", "sweep", "methods", "tasks", "metrics", "recipe")})
"""
    assert run_python(code) == "{'module'}"


@pytest.mark.parametrize("name", peftkit.__all__)
def test_every_public_name_can_be_imported_and_is_described(name: str) -> None:
    value = getattr(peftkit, name)
    assert not isinstance(value, ModuleType)
    assert name in dir(peftkit)
    if inspect.isfunction(value) or inspect.isclass(value):
        assert inspect.getdoc(value)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'load_models'"):
        peftkit.load_models  # noqa: B018


def test_a_public_task_imports_neither_torch_nor_datasets() -> None:
    code = "import sys, peftkit; peftkit.TextClassification; print({'torch', 'datasets'} & {*sys.modules})"
    assert run_python(code) == "set()"
