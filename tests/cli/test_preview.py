from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from peftkit.cli import preview

Peftkit = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def only_the_built_in(monkeypatch: pytest.MonkeyPatch, registry: object) -> None:
    monkeypatch.setattr(preview, "load_registry", lambda: registry)


def test_rows_and_counts_are_printed(peftkit: Peftkit) -> None:
    code, out, err = peftkit("task", "preview", "x.toml", "-n", "2", "--split", "test")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "wordnet_mcq (multiple_choice) as pocket-t5 sees it (encoder-decoder)"
    assert "1. the task 'wordnet_mcq', split 'test', row 1" in lines
    assert "2. the task 'wordnet_mcq', split 'test', row 501" in lines
    assert sum(line.startswith("     * ") for line in lines) == 2
    assert sum(line.startswith("     choose: ") for line in lines) == 2
    assert "train: 10,500 rows; of 2,000:" in lines
    assert [line for line in lines if line.startswith("   right: ")][1].count("%") == 5


def test_json_holds_the_same(peftkit: Peftkit) -> None:
    code, out, err = peftkit("task", "preview", "x.toml", "-n", "1", "--json", "--set", "train.max_source_length=6")
    told = json.loads(out)
    assert (code, err, told["format"], told["split"]) == (0, "", 1, "train")
    [example] = told["examples"]
    assert [c["text"] for c in example["candidates"] if c["right"]] == [example["target"]]
    assert told["splits"]["train"]["cut"]["source"] > 1000


@pytest.mark.parametrize("number", ["0", "-1", "x", "1001"])
def test_a_wrong_number_is_told(peftkit: Peftkit, number: str) -> None:
    code, _, err = peftkit("task", "preview", "x.toml", "-n", number)
    assert code == 2
    assert "from 1 to 1000" in err


def test_a_wrong_recipe_or_view_is_told(peftkit: Peftkit) -> None:
    code, _, err = peftkit("task", "preview", "x.toml", "--set", "task.name=x")
    assert (code, err.startswith("peftkit: error: --set: task.name: ")) == (2, True)
    assert peftkit("task", "view", "x.toml")[0] == 2
    assert peftkit("task")[0] == 2
