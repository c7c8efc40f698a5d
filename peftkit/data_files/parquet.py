"""Parquet: typed columns are kept as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from peftkit.data_files.streams import LFS
from peftkit.errors import InputError, one_line

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


@contextmanager
def _opened(file: str) -> Iterator[pq.ParquetFile]:
    import pyarrow.parquet as pq

    try:
        with open(file, "rb") as raw:
            if raw.read(len(LFS)) == LFS:
                raise InputError(f"{file}: is a Git LFS pointer and not the file itself; fetch it with: git lfs pull")
        with pq.ParquetFile(file) as opened:
            yield opened
    except (OSError, ValueError) as error:  # pyarrow's errors are one of these
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{file!r}: {error.strerror}") from error
        raise InputError(f"{file}: is not a readable Parquet file ({one_line(error)})") from error


def read_parquet_table(file: str, *, empty: bool = False) -> pa.Table:
    """Reads a Parquet file as a table of plain types (see ``make_plain``).

    Args:
        file: the path.
        empty: whether to read the columns only, and no rows.

    Returns:
        The table, with the metadata that the file's schema has.

    Raises:
        InputError: the file cannot be read as Parquet.
    """
    with _opened(file) as opened:
        return make_plain(opened.schema_arrow.empty_table() if empty else opened.read())


def read_parquet(file: str) -> Iterator[dict[str, Any]]:
    """Reads the rows of a Parquet file.

    Args:
        file: the path.

    Yields:
        The rows.

    Raises:
        InputError: the file cannot be read as Parquet.
    """
    import pyarrow as pa

    with _opened(file) as opened:
        for batch in opened.iter_batches(batch_size=1000):
            yield from make_plain(pa.Table.from_batches([batch])).to_pylist()


def make_plain(table: pa.Table) -> pa.Table:
    """Makes a table of types that ``datasets`` has, whose values are those that the file shows.

    Args:
        table: its columns may hold dictionaries, maps, views, and single-precision numbers, also within lists.

    Returns:
        The table without dictionaries, with maps as lists of ``key`` and ``value``, and with single-precision numbers
        as the decimals that they stand for: 0.1 and not 0.10000000149011612.
    """
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        kind = _plain_type(field.type, pa.float64())
        if kind != field.type:
            column = table.column(place)
            if "list_view" in str(field.type):  # pyarrow's cast of them loses values
                column = pa.chunked_array([pa.array(column.to_pylist(), _plain_type(field.type, pa.float32()))])
            column = column.cast(_plain_type(field.type, pa.string())).cast(kind)
            table = table.set_column(place, field.with_type(kind), column)
    return table


def _plain_type(kind: pa.DataType, single: pa.DataType) -> pa.DataType:
    """The type that stands for one that ``datasets`` lacks, and ``single`` for single-precision numbers."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _plain_type(kind.value_type, single)
    if types.is_float32(kind):
        return single
    if types.is_fixed_size_binary(kind):
        return pa.binary()
    if types.is_map(kind):
        entry = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        return pa.list_(_plain_type(entry, single))
    if types.is_struct(kind):
        return pa.struct([each.with_type(_plain_type(each.type, single)) for each in kind])
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type, single)), kind.list_size)
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(kind.value_field.with_type(_plain_type(kind.value_type, single)))
    if types.is_list(kind) or types.is_list_view(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type, single)))
    return kind
