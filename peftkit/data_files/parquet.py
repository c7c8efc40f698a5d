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


def read_parquet_table(file: str) -> pa.Table:
    """Reads a Parquet file as a table without dictionaries, and numbers in double precision.

    Args:
        file: the path.

    Returns:
        The table, with the metadata that the file's schema has.

    Raises:
        InputError: the file cannot be read as Parquet.
    """
    with _opened(file) as opened:
        return _plain(opened.read())


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
            yield from _plain(pa.Table.from_batches([batch])).to_pylist()


def _plain(table: pa.Table) -> pa.Table:
    """The table without dictionaries, and with single-precision numbers as the decimals that they stand for."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        column = table.column(place).cast(kind)
        if pa.types.is_float32(kind):  # 0.1 would become 0.10000000149011612
            kind = pa.float64()
            column = column.cast(pa.string()).cast(kind)
        if kind != field.type:
            table = table.set_column(place, field.with_type(kind), column)
    return table
