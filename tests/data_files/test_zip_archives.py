"""Data files inside zip archives are read as they are outside, of every format and compression."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peftkit.data_files import (
    ConllFormat,
    FileOptions,
    SquadFormat,
    normalize_member,
    only_data_file,
    read_prediction_inputs,
    read_rows,
    split_member,
)
from peftkit.errors import InputError

ROWS = [{"text": "good, very", "label": "p"}, {"text": "bad", "label": "n"}]
SENTENCES = [{"words": ["Ann", "ran"], "tags": ["B-PER", "O"], "document": 0}]
ANSWERS = [{"text": "Ann", "answer_start": 0}]
ARTICLES = {"data": [{"paragraphs": [{"context": "Ann ran.", "qas": [{"question": "Who?", "answers": ANSWERS}]}]}]}
QUESTIONS = [{"id": None, "title": None, "q": "Who?", "c": "Ann ran.", "a": ANSWERS}]


def parquet(folder: Path) -> bytes:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows")
    return (folder / "rows").read_bytes()


FORMS: dict[str, tuple[str, Callable[[Path], bytes], FileOptions, list[dict[str, Any]]]] = {
    "csv": ("a.csv", lambda _: b'text,label\n"good, very",p\nbad,n\n', FileOptions(), ROWS),
    "json": ("a.json", lambda _: json.dumps(ROWS).encode(), FileOptions(), ROWS),
    "jsonl": ("a.jsonl", lambda _: "".join(json.dumps(row) + "\n" for row in ROWS).encode(), FileOptions(), ROWS),
    "parquet": ("a.parquet", parquet, FileOptions(), ROWS),
    "text": ("a.txt", lambda _: b"good\nbad\n", FileOptions(), [{"text": "good"}, {"text": "bad"}]),
    "conll": ("a.conll", lambda _: b"Ann B-PER\nran O\n", FileOptions(form=ConllFormat("words", "tags")), SENTENCES),
    "squad": (
        "a.json",
        lambda _: json.dumps(ARTICLES).encode(),
        FileOptions(form=SquadFormat("q", "c", "a")),
        QUESTIONS,
    ),
}
COMPRESSIONS: dict[str, Callable[[bytes], Any]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": pa.Codec("zstd").compress,
    "": gzip.compress,  # the name does not say it
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("extension", COMPRESSIONS)
def test_every_form_is_read_from_every_compression(form: str, extension: str, tmp_path: Path) -> None:
    name, content, options, expected = FORMS[form]
    file = tmp_path / f"{name}{extension}"
    file.write_bytes(bytes(COMPRESSIONS[extension](content(tmp_path))))
    assert list(read_rows(str(file), options)) == expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compressed", [False, True])
def test_every_form_is_read_from_an_archive(form: str, compressed: bool, tmp_path: Path) -> None:
    name, content, options, expected = FORMS[form]
    archive = str(tmp_path / "data.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(f"inner/{name}", gzip.compress(content(tmp_path)) if compressed else content(tmp_path))
        opened.writestr("__MACOSX/inner/._" + name, "x")
        opened.writestr("LICENSE", "CC0")
    file = only_data_file(archive, options)
    assert file == f"{archive}::inner/{name}"
    assert list(read_rows(file, options)) == expected
    for spelled in (file, f"zip://inner/{name}::{archive}", archive):
        rows = list(read_prediction_inputs(spelled, options))
        assert rows == ([row["text"] for row in expected] if form == "text" else expected)


def test_both_spellings_name_the_same_file() -> None:
    assert normalize_member("zip://b/c.csv::a.zip") == "a.zip::b/c.csv" == normalize_member("a.zip::b/c.csv")
    assert split_member("a.zip::b/c.csv") == ("a.zip", "b/c.csv")
    for name in ("a::b.csv", "c:/a.csv", "hub/name"):
        assert split_member(normalize_member(name)) == (name, None)


def archive_of(folder: Path, *names: str) -> str:
    with zipfile.ZipFile(folder / "data.zip", "w") as opened:
        for name in names:
            opened.writestr(name, "text,label\nx,a\n")
    return str(folder / "data.zip")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.csv", "b.csv"], r"has 2 data files, a\.csv, b\.csv; choose one, such as '.*data\.zip::a\.csv'"),
        (["a.doc"], r"has no data files; files: a\.doc"),
        ([], "has no data files"),
    ],
)
def test_an_archive_without_one_data_file_is_refused(names: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        only_data_file(archive_of(tmp_path, *names))


def test_a_missing_member_is_refused_with_a_similar_name(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, "reviews.csv", "other.csv")
    with pytest.raises(InputError, match=r"has no file 'review\.csv' \(did you mean 'reviews\.csv'\?\); files: other"):
        list(read_rows(f"{archive}::review.csv"))


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    archive = Path(archive_of(tmp_path, "a.csv"))
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"x,a", b"y,b", 1))  # another checksum
    with pytest.raises(InputError, match=r"is not a readable zip archive .*CRC"):
        list(read_rows(f"{archive}::a.csv"))
    archive.write_bytes(content[:-30])
    with pytest.raises(InputError, match=r"is not a readable zip archive"):
        only_data_file(str(archive))
