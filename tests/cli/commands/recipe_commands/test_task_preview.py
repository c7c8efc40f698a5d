from __future__ import annotations

import json
import re
from pathlib import Path

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
    assert {"duplicates", "empty", "leakage", "imbalance"} <= {*document["splits"]["test"]}


def test_reports_are_printed_with_rows_and_bars(
    peftkit: Peftkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, extra in (("train", "t0"), ("dev", "t1"), ("test", "a quite new text")):
        rows = [{"text": f"{split} {'word ' * (i % 9)}{i}", "label": "ab"[i % 7 == 0]} for i in range(30)]
        rows += [{"text": text, "label": "b"} for text in ("t0", "t1", extra)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    changes = ["task.name=text_classification", f"task.path={tmp_path}"]
    words = ["task", "preview", "x.toml", "-n", "1", *(word for each in changes for word in ("--set", each))]
    code, out, err = peftkit(*words)
    assert (code, err) == (0, "")
    train, dev = (f"{tmp_path / name}.jsonl, row" for name in ("train", "dev"))
    for line in (
        "   duplicates: 1 of 33 rows",
        f"     {train} 33 equals {train} 31",
        "   also among 33 rows of train: 3 of 33 rows exactly, 0 nearly",
        f"     {dev} 31 equals {train} 31",
    ):
        assert line in out.splitlines()
    assert re.search(r"^ +\d+ to \d+ #+ \d+$", out, flags=re.MULTILINE)
    monkeypatch.setattr("peftkit.analysis.data_quality.can_find_near_duplicates", lambda: False)
    assert "near ones not counted, which needs datasketch: pip install 'peftkit[data]'" in peftkit(*words)[1]


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
