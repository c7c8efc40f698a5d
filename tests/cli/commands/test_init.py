"""``peftkit init``."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Peftkit

ROWS = "review,mood,stars\n" + "".join(f"the film number {i} was long,{'ab'[i % 2]},{i % 5}\n" for i in range(60))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def data(tmp_path: Path) -> str:
    (tmp_path / "films.csv").write_text(ROWS, encoding="utf-8")
    return "films.csv"


def test_it_writes_a_recipe_and_a_sweep_that_are_valid(peftkit: Peftkit, data: str, tmp_path: Path) -> None:
    code, out, err = peftkit("init", data, "--model", "pocket-encoder", "--within", "20min", "--yes")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == ["peftkit run films.toml", "peftkit sweep films_sweep.toml --within 20min"]
    assert peftkit("check", "films.toml")[0] == 0
    text = (tmp_path / "films.toml").read_text(encoding="utf-8")
    assert text.startswith("#:schema ./recipe.schema.json\n")
    assert "max_source_length = 32" in text
    json.loads((tmp_path / "recipe.schema.json").read_text(encoding="utf-8"))
    code, _, err = peftkit("init", data, "--yes")
    assert code == 2
    assert "'films.toml' already exists; choose another name with --name" in err


def test_questions_choose_the_column_the_model_and_the_time(
    peftkit: Peftkit, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("2\npocket-encoder\n1h\n"))
    code, out, err = peftkit("init", data, "--name", "stars")
    assert code == 0
    assert "1. text_classification: 'mood' has 2 different values" in err
    assert "text_classification, because 'stars' has 5 different values" in out
    assert out.endswith("peftkit sweep stars_sweep.toml --within 1h\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["filsm.csv"], "there is no file or folder 'filsm.csv' (did you mean 'films.csv'?)"),
        (["numbers.csv"], "no task recognizes the columns of 'numbers.csv'"),
        (["films.csv", "--within", "soon"], "soon"),
    ],
)
def test_bad_arguments_are_one_error_and_write_nothing(
    peftkit: Peftkit, data: str, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "numbers.csv").write_text("x\n" + "".join(f"{i}\n" for i in range(50)), encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    code, _, err = peftkit("init", *words, "--yes")
    assert code == 2
    assert message in err
    assert sorted(tmp_path.iterdir()) == before
