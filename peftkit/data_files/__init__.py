"""Reads files of rows as they are written: CSV, TSV, JSON, JSON Lines and Parquet, compressed or not.

Folders that ``Dataset.save_to_disk`` wrote are read too. Nothing is inferred: a cell of CSV or TSV is a text, an empty
one None, and a value of JSON is that value. Training and prediction read with the same functions.
"""

from __future__ import annotations

from peftkit.data_files.inputs import read_inputs
from peftkit.data_files.json_rows import Number, parse_json, write_json
from peftkit.data_files.parquet import read_parquet_table
from peftkit.data_files.readers import FORMATS, file_format, read_rows
from peftkit.data_files.saved import is_saved, plain_rows, read_saved

__all__ = [
    "FORMATS",
    "Number",
    "file_format",
    "is_saved",
    "parse_json",
    "plain_rows",
    "read_inputs",
    "read_parquet_table",
    "read_rows",
    "read_saved",
    "write_json",
]
