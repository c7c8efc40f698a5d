"""Reads rows from CSV, TSV, JSON, JSON Lines, Parquet and text files, and from folders of ``Dataset.save_to_disk``.

Types are not inferred: CSV and TSV cells are strings, or None if empty, and JSON values keep their types. Training and
prediction use the same readers. Files may be compressed, or inside zip archives.
"""

from __future__ import annotations

from peftkit.data_files.conll import ConllFormat, field_counts, read_conll
from peftkit.data_files.data_objects import data_name, is_data_object, store_data_object
from peftkit.data_files.decompressed_text import check_encoding, file_encoding
from peftkit.data_files.file_options import (
    DEFAULT_OPTIONS,
    FileLayout,
    FileOptions,
    Quoting,
    SampleBy,
    check_delimiter,
    check_encoding_name,
)
from peftkit.data_files.format_detection import ConllGuess, guess_conll, guess_options, guess_sample_by
from peftkit.data_files.json_rows import JsonFloat, format_json, parse_json
from peftkit.data_files.parquet import ipc_bytes, read_parquet_table
from peftkit.data_files.prediction_inputs import check_inherited_encoding, read_prediction_inputs
from peftkit.data_files.readers import (
    FORMATS,
    file_format,
    find_data_files,
    missing_column_hint,
    only_data_file,
    read_rows,
)
from peftkit.data_files.saved_datasets import first_rows, is_saved_dataset, read_saved_dataset, to_plain_types
from peftkit.data_files.squad import SquadFormat
from peftkit.data_files.zip_archives import disk_file, is_archive, normalize_member, split_member

__all__ = [
    "DEFAULT_OPTIONS",
    "FORMATS",
    "ConllFormat",
    "ConllGuess",
    "FileLayout",
    "FileOptions",
    "JsonFloat",
    "Quoting",
    "SampleBy",
    "SquadFormat",
    "check_delimiter",
    "check_encoding",
    "check_encoding_name",
    "check_inherited_encoding",
    "data_name",
    "disk_file",
    "field_counts",
    "file_encoding",
    "file_format",
    "find_data_files",
    "first_rows",
    "format_json",
    "guess_conll",
    "guess_options",
    "guess_sample_by",
    "ipc_bytes",
    "is_archive",
    "is_data_object",
    "is_saved_dataset",
    "missing_column_hint",
    "normalize_member",
    "only_data_file",
    "parse_json",
    "read_conll",
    "read_parquet_table",
    "read_prediction_inputs",
    "read_rows",
    "read_saved_dataset",
    "split_member",
    "store_data_object",
    "to_plain_types",
]
