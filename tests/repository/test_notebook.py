"""The notebook runs from its first cell to its last, as a kernel would run it."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = json.loads((Path(__file__).parents[2] / "docs/notebook.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, namespace: dict[str, Any]) -> Any:
    """Runs a cell and returns the value of its last expression, which a notebook shows."""
    tree = ast.parse(source)
    last = tree.body[-1]
    if not isinstance(last, ast.Expr):
        exec(source, namespace)  # noqa: S102 - our own document
        return None
    exec(compile(ast.Module(tree.body[:-1], []), "cell", "exec"), namespace)  # noqa: S102
    return eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)  # noqa: S307


@pytest.mark.slow
@pytest.mark.one_line
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    shown = {source: run_cell(source, namespace) for source in CELLS}
    for source, value in shown.items():
        pages = [getattr(value, name)() for name in ("_repr_html_", "_repr_png_") if hasattr(value, name)]
        assert any(pages) or not pages, source
        assert repr(value), source
    assert (tmp_path / "report.html").is_file()
    assert [*shown.values()][-1] == Path("report.html")
    assert "(did you mean 'r'?)" in capsys.readouterr().out


def test_the_notebook_is_stored_without_outputs() -> None:
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [cell["source"] for cell in code if cell["outputs"] or cell["execution_count"]] == []
