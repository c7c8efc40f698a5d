"""Reads rows from CSV, TSV, JSON, JSON Lines and Parquet files, and from folders of ``Dataset.save_to_disk``.

Types are not inferred: CSV and TSV cells are strings, or None if empty, and JSON values keep their types. Training and
prediction use the same readers.
"""

from __future__ import annotations

from peftkit.data_files.conll import ConllFormat, read_conll
from peftkit.data_files.decompressed_text import check_encoding
from peftkit.data_files.delimited import DelimitedFormat, Quoting, check_delimiter, check_encoding_name
from peftkit.data_files.json_rows import JsonFloat, format_json, parse_json
from peftkit.data_files.parquet import read_parquet_table
from peftkit.data_files.prediction_inputs import read_prediction_inputs
from peftkit.data_files.readers import FORMATS, FileLayout, file_format, read_rows
from peftkit.data_files.saved_datasets import first_rows, is_saved_dataset, read_saved_dataset, to_plain_types
from peftkit.data_files.squad import SquadFormat

__all__ = [
    "FORMATS",
    "ConllFormat",
    "DelimitedFormat",
    "FileLayout",
    "JsonFloat",
    "Quoting",
    "SquadFormat",
    "check_delimiter",
    "check_encoding",
    "check_encoding_name",
    "file_format",
    "first_rows",
    "format_json",
    "is_saved_dataset",
    "parse_json",
    "read_conll",
    "read_parquet_table",
    "read_prediction_inputs",
    "read_rows",
    "read_saved_dataset",
    "to_plain_types",
]
