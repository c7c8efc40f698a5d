"""Text files give a row for each line, paragraph or document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.data_files import FileOptions, read_rows
from peftkit.errors import InputError

CONTENT = "\n One\ntwo  \n\n \nthree\n\n\nfour"


@pytest.mark.parametrize(
    ("sample_by", "expected"),
    [
        (None, [" One", "two  ", "three", "four"]),
        ("line", [" One", "two  ", "three", "four"]),
        ("paragraph", [" One\ntwo  ", "three", "four"]),
        ("document", [" One\ntwo  \n\n \nthree\n\n\nfour"]),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_rows_are_lines_paragraphs_or_documents(
    sample_by: Any, expected: list[str], line_end: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(CONTENT.replace("\n", line_end).encode("utf-8-sig"))
    rows = list(read_rows(str(file), FileOptions(sample_by=sample_by)))
    assert rows == [{"text": text} for text in expected]


@given(st.text(st.sampled_from("ab \n"), max_size=30), st.sampled_from(["line", "paragraph", "document"]))
@settings(max_examples=60, deadline=None, database=None)
def test_no_character_but_blank_lines_is_lost(content: str, sample_by: Any) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.txt"
        file.write_text(content, encoding="utf-8", newline="")
        texts = [row["text"] for row in read_rows(str(file), FileOptions(sample_by=sample_by))]
    kept = [line for text in texts for line in text.split("\n") if line.strip()]
    assert kept == [line for line in content.split("\n") if line.strip()]
    assert all(text.strip() for text in texts)


def test_a_null_character_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a fine line of text, and more of it\nb\0\n")
    with pytest.raises(InputError, match=r"a\.txt, line 2: has a null character; remove it"):
        list(read_rows(str(tmp_path / "a.txt")))
