from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Peftkit


def test_task_preview_prints_rows_and_counts(peftkit: Peftkit) -> None:
    code, out, err = peftkit("task", "preview", "x.toml", "-n", "2", "--split", "test")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "wordnet_mcq (multiple_choice), tokenized for pocket-t5 (encoder-decoder)"
    assert "1. the task 'wordnet_mcq', split 'test', row 1" in lines
    assert "2. the task 'wordnet_mcq', split 'test', row 501" in lines
    assert sum(line.startswith("     * ") for line in lines) == 2
    assert sum(line.startswith("     choose: ") for line in lines) == 2
    assert "train: 10,500 rows, 2,000 measured:" in lines
    assert [line for line in lines if line.startswith("   answers: ")][1].count("%") == 5


def test_task_preview_json_has_rows_and_counts(peftkit: Peftkit) -> None:
    code, out, err = peftkit("task", "preview", "x.toml", "-n", "1", "--json", "--set", "train.max_source_length=6")
    document = json.loads(out)
    assert (code, err, document["format"], document["split"]) == (0, "", 2, "train")
    [example] = document["examples"]
    assert [c["text"] for c in example["candidates"] if c["correct"]] == [example["target"]]
    assert document["splits"]["train"]["truncated"]["source"] > 1000


@pytest.mark.parametrize("number", ["0", "-1", "x", "1001"])
def test_an_invalid_number_of_rows_is_an_error(peftkit: Peftkit, number: str) -> None:
    code, _, err = peftkit("task", "preview", "x.toml", "-n", number)
    assert code == 2
    assert "from 1 to 1000" in err


def test_an_invalid_recipe_or_view_is_an_error(peftkit: Peftkit) -> None:
    code, _, err = peftkit("task", "preview", "x.toml", "--set", "task.name=x")
    assert (code, err.startswith("peftkit: error: --set: task.name: ")) == (2, True)
    assert peftkit("task", "view", "x.toml")[0] == 2
    assert peftkit("task")[0] == 2
