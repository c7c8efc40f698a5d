"""Files with one word a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.data_files import ConllFormat, read_conll
from peftkit.errors import InputError

CONLL_2003 = (
    "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\n-DOCSTART- -X- O O\n\nPeter NNP I-NP B-PER\n"
)
LAYOUT = ConllFormat("words", "tags")


def write(folder: Path, text: str) -> str:
    file = folder / "x.conll"
    file.write_text(text, encoding="utf-8", newline="")
    return str(file)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_sentences_and_documents(line_end: str, tmp_path: Path) -> None:
    rows = [*read_conll(write(tmp_path, CONLL_2003.replace("\n", line_end)), LAYOUT)]
    assert rows == [
        {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"], "document": 0},
        {"words": ["Peter"], "tags": ["B-PER"], "document": 1},
    ]


def test_columns_by_number_comments_and_separators(tmp_path: Path) -> None:
    file = write(tmp_path, "# id 1\nO\tNew York\tx\nB-X\tcity\tx\n\n\n# id 2\nO\t#\tx\n")
    layout = ConllFormat("words", "tags", word_field=1, tag_field=0, separator="\t", comment="# ")
    assert [(r["words"], r["tags"]) for r in read_conll(file, layout)] == [
        (["New York", "city"], ["O", "B-X"]),
        (["#"], ["O"]),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a O\nb\n", r"x\.conll, line 2: has 1 field, but the first line of the sentence 2; write each word"),
        ("a O\nNew York O\n", "set field_separator"),
        ("# id 3 x\na O\n", "the first line of the sentence 4"),
        ("a O\n# id 3\n", "set comment_prefix"),
        ("a\n", "line 1: has 1 field, so there is no field 1"),
    ],
)
def test_broken_lines_are_named(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected):
        [*read_conll(write(tmp_path, text), ConllFormat("words", "tags", tag_field=1))]
