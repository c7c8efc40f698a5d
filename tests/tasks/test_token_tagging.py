"""Tags of words in lists, texts and CoNLL files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from peftkit.data_files import read_prediction_inputs
from peftkit.errors import InputError, RowError
from peftkit.tasks import TokenTagging

ROWS = [
    {"tokens": ["Anna", "left", "New", "York"], "ner_tags": ["B-PER", "O", "B-LOC", "I-LOC"]},
    {"tokens": ["Nobody", "came"], "ner_tags": ["O", "O"]},
    {"tokens": ["Oslo"], "ner_tags": ["B-LOC"]},
]
NAMES = ("O", "B-LOC", "I-LOC", "B-PER")


def task_on(folder: Path, rows: Any = ROWS, **options: Any) -> TokenTagging:
    data = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    file = folder / "rows.parquet"
    data.to_parquet(file)
    return TokenTagging(path={split: str(file) for split in ("train", "dev", "test")}, **options)


def test_lists_of_words_and_tags(tmp_path: Path) -> None:
    task = task_on(tmp_path)
    assert task.labels == NAMES
    rows = [*task.load()["train"]]
    example = task.to_example(rows[0])
    assert (example.source, example.target) == ("Anna left New York", "B-PER O B-LOC I-LOC")
    assert example.words == ("Anna", "left", "New", "York")
    assert task.find_data_problems() == []
    prompt = task.to_prompt({"tokens": "Anna  left"})
    assert (prompt.source, prompt.words, prompt.target) == ("Anna  left", ("Anna", "left"), "")


def test_texts_are_split_at_blanks(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("tokens,ner_tags\nAnna left,B-PER O\nOslo,B-LOC\n", encoding="utf-8")
    task = TokenTagging(path={split: str(file) for split in ("train", "dev", "test")})
    assert [task.to_example(row).target for row in task.load()["test"]] == ["B-PER O", "B-LOC"]
    with pytest.raises(RowError, match="has 1 tags for 2 words; words of a text"):
        task.to_example({"tokens": "a b", "ner_tags": "O"})


def test_numbers_are_those_of_the_features_or_of_tag_names(tmp_path: Path) -> None:
    features = Features({"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=list(NAMES)))})
    rows = Dataset.from_list([{**row, "ner_tags": [NAMES.index(t) for t in row["ner_tags"]]} for row in ROWS], features)
    task = task_on(tmp_path, rows)
    assert task.labels == NAMES
    assert task.to_example(task.load()["train"][0]).target == "B-PER O B-LOC I-LOC"
    named = task_on(tmp_path, rows.cast_column("ner_tags", Sequence(Value("int64"))), tag_names=NAMES)
    assert named.to_example(named.load()["train"][2]).target == "B-LOC"
    with pytest.raises(RowError, match="out of range"):
        named.to_example({"tokens": ["a"], "ner_tags": [7]})


def test_tags_that_break_the_scheme_are_refused_or_repaired(tmp_path: Path) -> None:
    rows = [*ROWS, {"tokens": ["in", "Rome", "Anna"], "ner_tags": ["O", "I-LOC", "I-PER"]}]
    task = task_on(tmp_path, rows)
    [problem] = {p.text.partition(": ")[2] for p in task.find_data_problems()}
    assert problem == (
        "ner_tags: word 2, 'Rome', has the tag 'I-LOC' after 'O', where IOB2 has 'B-LOC'; correct it, or set "
        "repair_tags = true"
    )
    repaired = task_on(tmp_path, rows, repair_tags=True)
    assert repaired.to_example(repaired.load()["train"][3]).target == "O B-LOC B-PER"
    assert "I-PER" in repaired.labels
    with pytest.raises(RowError, match="needs the tag 'B-LOC', which tag_names lacks"):
        task_on(tmp_path, rows, repair_tags=True, tag_names=("O", "I-LOC")).to_example(
            {"tokens": ["x"], "ner_tags": ["I-LOC"]}
        )


def test_tags_of_other_schemes_are_refused(tmp_path: Path) -> None:
    rows = [{"tokens": ["it", "rains"], "ner_tags": ["PRON", "VERB"]}]
    with pytest.raises(InputError, match=r"row 1: ner_tags: the tag 'PRON' is none of IOB2.*or to 'none'"):
        task_on(tmp_path, rows).load()
    assert task_on(tmp_path, rows, scheme="none").labels == ("PRON", "VERB")
    bilou = [{"tokens": ["New", "York", "Rome"], "ner_tags": ["B-LOC", "L-LOC", "U-LOC"]}]
    assert task_on(tmp_path, bilou, scheme="BILOU").labels == ("B-LOC", "L-LOC", "U-LOC")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"tokens": [], "ner_tags": []}, "tokens: is empty"),
        ({"tokens": ["a"], "ner_tags": ["O", "O"]}, "has 2 tags for 1 words; give each word a tag"),
        ({"tokens": ["a"], "ner_tags": ["B-PRE"]}, "unknown label 'B-PRE' .did you mean 'B-PER'"),
        ({"tokens": ["a"], "ner_tags": [0.5]}, "tag 1 must be a text or a whole number"),
        ({"tokens": ["a"], "ner_tags": 3}, "must be a list of tags"),
    ],
)
def test_invalid_rows_are_named(row: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(RowError, match=expected):
        task_on(tmp_path).to_example(row)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tag_names": ("O", "O")}, "occurs twice"),
        ({"tag_names": ("O", "B X")}, "has blanks"),
        ({"streaming": True}, "tag_names: required"),
        ({"prompt": "{tokens} x"}, "prompt: has no effect, because the model reads the words alone"),
        ({"tag_field": 2}, "tag_field: has no effect, because file_format is not 'conll'"),
        ({"scheme": "none", "repair_tags": True}, "there is no scheme"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        TokenTagging(path="x.parquet", **options)


def test_conll_files_in_a_folder(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("-DOCSTART- O\n\nAnna NNP B-PER\nleft VBD O\n\nOslo NNP B-LOC\n")
    task = TokenTagging(path=str(tmp_path), file_format="conll", group_column="document")
    splits = task.load()
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 2, "dev": 2, "test": 2}
    assert task.labels == ("O", "B-LOC", "B-PER")
    assert task.to_example(splits["dev"][0]).group == "0"
    assert task.describe_row("dev", 1).endswith("valid.txt, row 2")
    with pytest.raises(InputError, match="is none of IOB2"):
        TokenTagging(path=str(tmp_path), file_format="conll", tag_field=1).load()


@pytest.mark.parametrize(
    ("content", "is_conll"),
    [
        ("Ann\nsaw\n\nRome\n", True),
        ("Ann NNP B-PER\nsaw VBD O\n", True),
        ("Ann NNP\nsaw VBD\n", True),
        ("Ann saw Rome again\n", False),
        ("Ann saw Rome\nBob did not\nand so on and on\n", False),
        ("Hello\nAnn saw Rome\n", False),
        ("Ann saw Rome\n", False),
        ("Ann NNP _\n", True),
    ],
)
def test_lines_of_text_are_not_read_as_fields(content: str, is_conll: bool, tmp_path: Path) -> None:
    train, new = tmp_path / "train.conll", tmp_path / "new.txt"
    train.write_text("Ann NNP B-PER\nsaw VBD O\n\n" * 9, encoding="utf-8")
    new.write_text(content, encoding="utf-8")
    task = TokenTagging(path=str(train), file_format="conll", dev_fraction=0.2, test_fraction=0.2)
    state = task.data_state()
    assert state["fields"] == [3]
    train.unlink()
    options = task.with_data_state(state).prediction_options(str(new))
    assert (options.form is not None) == is_conll
    lines = [*read_prediction_inputs(str(new), options)]
    assert all(isinstance(line, str) != is_conll for line in lines)
