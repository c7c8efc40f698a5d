"""Reads Parquet files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from peftkit.data_files.decompressed_text import is_compressed, open_binary
from peftkit.errors import InputError, summarize_error

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


@contextmanager
def _open_parquet(file: str) -> Iterator[pq.ParquetFile]:
    import pyarrow.parquet as pq

    try:
        source: Any = file
        if is_compressed(file):  # Parquet files are read from their end
            with open_binary(file) as stream:
                source = io.BytesIO(stream.read())
        else:
            with open_binary(file):  # raises for a Git LFS pointer
                pass
        with pq.ParquetFile(source) as parquet:
            yield parquet
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{file!r}: {error.strerror}") from error
        raise InputError(f"{file}: is not a readable Parquet file ({summarize_error(error)})") from error


def read_parquet_table(file: str, max_rows: int | None = None) -> pa.Table:
    """Reads a Parquet file as a table of plain types (see ``make_plain``).

    Args:
        file: Path of the file.
        max_rows: Maximum number of rows; 0 reads the schema only, None all rows.

    Returns:
        The table, with the metadata of the file's schema.

    Raises:
        InputError: The file is not a readable Parquet file.
    """
    import pyarrow as pa

    with _open_parquet(file) as parquet:
        _check_columns(parquet.schema_arrow.names, file)
        if max_rows is None:
            return make_plain(parquet.read())
        batches = parquet.iter_batches(batch_size=max_rows) if max_rows else iter(())
        first = list(islice(batches, 1))
        return make_plain(pa.Table.from_batches(first, parquet.schema_arrow))


def read_parquet(file: str) -> Iterator[dict[str, Any]]:
    """Reads the rows of a Parquet file.

    Args:
        file: Path of the file.

    Yields:
        The rows.

    Raises:
        InputError: The file is not a readable Parquet file.
    """
    import pyarrow as pa

    with _open_parquet(file) as parquet:
        _check_columns(parquet.schema_arrow.names, file)
        for batch in parquet.iter_batches(batch_size=1000):
            yield from make_plain(pa.Table.from_batches([batch])).to_pylist()


def ipc_bytes(table: pa.Table) -> bytes:
    """Returns the content of a table, whatever its metadata and the memory that it shares with others."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    combined = table.combine_chunks().replace_schema_metadata(None)
    with pa.ipc.new_stream(sink, combined.schema) as writer:
        writer.write_table(combined)
    return bytes(sink.getvalue().to_pybytes())


def _check_columns(columns: Sequence[str], file: str) -> None:
    for column in columns:
        if columns.count(column) > 1:
            raise InputError(f"{file}: has the column {column!r} twice; give each column a unique name")


def make_plain(table: pa.Table) -> pa.Table:
    """Converts a table to types that ``datasets`` supports.

    Args:
        table: A table, whose columns may be dictionary-encoded, maps, views, or single- or half-precision floats, also
            nested.

    Returns:
        The table without dictionaries and views, with maps as lists of ``key`` and ``value``, and with single- and
        half-precision floats as their shortest decimals (0.1 instead of 0.10000000149011612).
    """
    import pyarrow as pa

    for index, field in enumerate(table.schema):
        dtype = _plain_type(field.type, pa.float64())
        if dtype != field.type:
            column = table.column(index)
            # pyarrow loses values when it casts list views, and writes half-precision floats with all their digits.
            if "list_view" in str(field.type) or "halffloat" in str(field.type):
                values = [_shorten_halves(value, field.type) for value in column.to_pylist()]
                column = pa.chunked_array([pa.array(values, _plain_type(field.type, pa.float32()))])
            column = column.cast(_plain_type(column.type, pa.string())).cast(dtype)
            table = table.set_column(index, field.with_type(dtype), column)
    return table


def _plain_type(dtype: pa.DataType, single: pa.DataType) -> pa.DataType:
    """Returns the plain type of a type; ``single`` is the one of single-precision floats."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(dtype):
        return _plain_type(dtype.value_type, single)
    if types.is_float32(dtype):
        return single
    if types.is_float16(dtype):
        return pa.float64()
    if types.is_fixed_size_binary(dtype):
        return pa.binary()
    if types.is_map(dtype):
        entry = pa.struct([("key", dtype.key_type), ("value", dtype.item_type)])
        return pa.list_(_plain_type(entry, single))
    if types.is_struct(dtype):
        return pa.struct([each.with_type(_plain_type(each.type, single)) for each in dtype])
    if types.is_fixed_size_list(dtype):
        return pa.list_(dtype.value_field.with_type(_plain_type(dtype.value_type, single)), dtype.list_size)
    if types.is_large_list(dtype) or types.is_large_list_view(dtype):
        return pa.large_list(dtype.value_field.with_type(_plain_type(dtype.value_type, single)))
    if types.is_list(dtype) or types.is_list_view(dtype):
        return pa.list_(dtype.value_field.with_type(_plain_type(dtype.value_type, single)))
    return dtype


def _shorten_halves(value: Any, dtype: pa.DataType) -> Any:
    """Returns a value with its half-precision floats as their shortest decimals; ``dtype`` is its Arrow type."""
    import numpy as np
    import pyarrow as pa

    types = pa.types
    if value is None or "halffloat" not in str(dtype):
        return value
    if types.is_float16(dtype):
        return float(str(np.float16(value)))
    if types.is_dictionary(dtype):
        return _shorten_halves(value, dtype.value_type)
    if types.is_map(dtype):
        return [(key, _shorten_halves(item, dtype.item_type)) for key, item in value]
    if types.is_struct(dtype):
        return {each.name: _shorten_halves(value[each.name], each.type) for each in dtype}
    return [_shorten_halves(item, dtype.value_type) for item in value]
