"""Rows of files: CSV, TSV, JSON, JSONL or Parquet, compressed or not."""

from __future__ import annotations

import csv
import gzip
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftkit.errors import InputError, did_you_mean, listed, one_line

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}


def load_files(files: Mapping[str, Sequence[str]], *, streaming: bool = False) -> dict[str, Any]:
    """The rows of each split.

    Args:
        files: the files of each split, which are all of one form.
        streaming: whether they are read as they are needed.

    Raises:
        InputError: a file is not there, is of no form that can be read, or cannot be parsed.
    """
    from datasets import load_dataset

    loaded = {}
    for split, names in files.items():
        builders = {builder_of(Path(name)) for name in names}
        for name in names:
            if not Path(name).is_file():
                near = did_you_mean(Path(name).name, sorted(p.name for p in Path(name).parent.glob("*")))
                raise InputError(f"path: there is no file {name!r}{near}")
            if builder_of(Path(name)) is None:
                raise InputError(f"path: {name!r} is of no form that can be read; allowed: {listed(list(BUILDERS))}")
        if len(builders) > 1:
            raise InputError(f"path: the files of split {split!r} have several forms; write them in one")
        [builder] = builders
        options: dict[str, Any] = {}
        if builder == "csv":  # "NA", "None" and the like are texts
            # Without index_col a first row of too many fields would make the first column an index.
            separator = "\t" if ".tsv" in names[0].lower() else ","
            options = {"keep_default_na": False, "sep": separator, "index_col": False}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="Length of header or names does not match")  # fields are lost
                loaded[split] = load_dataset(
                    builder, data_files=list(names), split="train", streaming=streaming, **options
                )
        except Exception as error:  # what a parser raises
            if builder == "csv":
                _refuse_surplus(names, options["sep"])
            if "corresponds to no data" in str(error):
                raise InputError(f"{', '.join(names)}: has no rows") from error
            cause = error.__cause__ or error
            raise InputError(f"{', '.join(names)}: cannot be read as {builder}: {one_line(cause)}") from error
    return loaded


def builder_of(file: Path) -> str | None:
    """Which of ``datasets``' builders reads the file, by its ending; of ``.gz`` by the one before."""
    endings = [s.lower() for s in file.suffixes if s.lower() != ".gz"]
    return BUILDERS.get(endings[-1]) if endings else None


def _refuse_surplus(names: Sequence[str], separator: str) -> None:
    """Names the row that has more fields than the header, if that is what is wrong."""
    for name in names:
        opened = gzip.open if name.endswith(".gz") else open
        with opened(name, "rt", encoding="utf-8", errors="replace", newline="") as file:
            rows = csv.reader(file, delimiter=separator)
            header = len(next(rows, []))
            for number, row in enumerate(rows, 1):
                if len(row) > header:
                    raise InputError(
                        f"{name}, row {number}: has {len(row)} fields, and the header {header}; a text with "
                        f"{separator!r} in it stands in quotes"
                    )
