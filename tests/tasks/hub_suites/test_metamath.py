"""The data of the method comparison: MetaMathQA trains, GSM8K tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from peftkit.errors import InputError
from peftkit.metrics import ExtractedMatch
from peftkit.tasks.hub_suites import metamath
from peftkit.tasks.hub_suites.metamath import MetaMathGsm8k
from peftkit.testing import check_task
from tests.tasks.hub_suites.hub_rows import ROWS


def write_copies(folder: Path) -> dict[str, str]:
    """Writes both datasets in the layout of the hub; the first two training rows of MetaMathQA are too long."""
    rows = []
    for i in range(20):
        query, response = f"What is {i} + 4?", f"It is {i + 4}.\n#### {i + 4}\nThe answer is: {i + 4}"
        if i < 3:  # the third has exactly as many characters as are allowed
            response = "x" * (1299 - len(query) + (i < 2))
        rows.append({"type": "GSM_Rephrased", "query": query, "original_question": "x", "response": response})
    (folder / "metamath").mkdir()
    Dataset.from_list(rows).to_parquet(folder / "metamath" / "train-00000-of-00001.parquet")
    (folder / "gsm8k" / "main").mkdir(parents=True)
    for split in ("train", "test"):
        ROWS["gsm8k", ""]().to_parquet(folder / "gsm8k" / "main" / f"{split}-00000-of-00001.parquet")
    return {"path": str(folder / "metamath"), "gsm8k_path": str(folder / "gsm8k")}


def test_rows_are_those_of_the_method_comparison(tmp_path: Path) -> None:
    task = MetaMathGsm8k.model_validate(write_copies(tmp_path))
    splits = task.load()
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 18, "dev": 50, "test": 60}
    assert task.num_ignored_rows()["train"] == 2
    np.random.seed(0)
    indices = np.arange(60)
    np.random.shuffle(indices)
    assert [row["query"] for row in splits["dev"]] == [f"Ann has {i} eggs and finds 4. How many?" for i in indices[:50]]
    example = task.to_example(splits["train"][1])
    assert example.source == "Question: What is 3 + 4? Think step by step.\nAnswer:"
    assert example.target.endswith("The answer is: 7")
    assert task.describe_row("train", 0).endswith("row 3")
    assert task.describe_row("dev", 1).endswith(f"train-00000-of-00001.parquet, row {indices[1] + 1}")
    assert task.describe_row("test", 1).endswith("test-00000-of-00001.parquet, row 2")
    check_task(MetaMathGsm8k.model_validate(task.model_dump()))
    assert task.find_data_problems() == []


def test_rows_are_limited(tmp_path: Path) -> None:
    task = MetaMathGsm8k.model_validate({**write_copies(tmp_path), "max_rows": 12, "dev_rows": 5})
    sizes = {split: len(rows) for split, rows in task.load().items()}
    assert (sizes["dev"], sizes["test"]) == (5, 12)
    assert 10 <= sizes["train"] <= 12


def test_published_sizes_of_both_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = MetaMathGsm8k.model_validate({})
    assert dict(task._data_source().sizes) == {"train": 395000}
    assert dict(task._gsm8k_source("test").sizes) == {"train": 7473, "test": 1319}
    copies = write_copies(tmp_path)
    gsm8k = metamath._gsm8k_class()
    monkeypatch.setattr(gsm8k, "hub_id", copies["gsm8k_path"])
    with pytest.raises(InputError, match="has 60 rows in split 'train', but 7,473 were published"):
        MetaMathGsm8k.model_validate(copies).load()


def test_a_missing_split_of_gsm8k_is_an_error(tmp_path: Path) -> None:
    copies = write_copies(tmp_path)
    (tmp_path / "gsm8k" / "main" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(InputError, match="has no split 'test'"):
        MetaMathGsm8k.model_validate(copies).load()


TEXTS = [
    "4 + 3 = 7.\nThe answer is: 7",
    "4 + 3 = 7.\n#### 7\nThe answer is: 7",
    "#### 7",
    "The answer is 7.",
    "The final answer is: 7!",
    "The final answer is 7 \n\nQuestion: next?",
    "The answer is: $7.00.",
    "The answer is: 7%",
    "The answer is: 14/2",
    "The answer is: 8",
    "#### 7,000",
    "So 7",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_answers_are_scored_as_by_the_method_comparison(text: str) -> None:
    metric = ExtractedMatch(extract=tuple(MetaMathGsm8k.metric_options["extracted_match"]["extract"]))
    value = metric.compute([text], [["3 + 4 = 7\n#### 7"]], [])["extracted_match"]
    assert value == (reference_answer(text) == 7)


def reference_answer(text: str) -> float | None:
    """``parse_answer`` and ``convert_to_decimal`` of its ``utils.py``, in short."""
    text = text.strip().rstrip(".!?")
    starts = ("The answer is: ", "The answer is ", "The final answer is: ", "The final answer is ", "#### ")
    start = next((each for each in starts if each in text), None)
    if start is None:
        return None
    answer = text.rpartition(start)[-1].strip().split("\n", 1)[0].strip(" .!?$%")
    numerator, _, denominator = answer.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except ValueError:
        return None
