"""Inputs of predictions: each line of a text file is one, and UTF-8 is not read in the encoding of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.data_files import FileOptions, check_inherited_encoding, read_prediction_inputs
from peftkit.data_files.charset_detection import is_other_utf8
from peftkit.errors import InputError


@pytest.mark.parametrize("sample_by", [None, "line"])
def test_no_line_of_a_text_file_is_left_out(sample_by: str | None, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("a\n\n b \n\n", encoding="utf-8")
    options = FileOptions(sample_by=sample_by)  # type: ignore[arg-type]
    assert [*read_prediction_inputs(str(tmp_path / "new.txt"), options)] == ["a", "", " b ", ""]


def test_paragraphs_are_rows(tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("a\nb\n\nc\n", encoding="utf-8")
    rows = [*read_prediction_inputs(str(tmp_path / "new.txt"), FileOptions(sample_by="paragraph"))]
    assert rows == [{"text": "a\nb"}, {"text": "c"}]


@pytest.mark.parametrize(
    ("text", "encoding", "other"),
    [
        ("schön", "cp1252", True),
        ("plain", "cp1252", False),
        ("plain", "utf-16-le", True),
        ("schön", "utf-8", False),
        ("", "cp1252", False),
    ],
)
def test_utf8_is_not_read_in_another_encoding(text: str, encoding: str, other: bool, tmp_path: Path) -> None:
    file = tmp_path / "new.txt"
    file.write_bytes(text.encode())
    assert is_other_utf8(file.read_bytes(), encoding) == other
    if not other:
        check_inherited_encoding(str(file), encoding)
        return
    with pytest.raises(InputError, match=f"new.txt: is UTF-8, but the files of training are {encoding}; say"):
        check_inherited_encoding(str(file), encoding)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_files_in_the_encoding_of_training_are_read_in_it(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "new.txt"
    file.write_bytes("schön, größer".encode(encoding))
    check_inherited_encoding(str(file), encoding)
