"""Converts rows to Arrow datasets without changing any value."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from peftkit.data_files import JsonFloat, format_json, parse_json

if TYPE_CHECKING:
    from datasets import Dataset

CHUNK = 10_000
"""Number of rows that are converted to Arrow arrays at a time."""
SCALARS: Mapping[type, Any] = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
JSON = "json"
"""Type of columns that no Arrow type represents exactly; their values are stored as JSON."""


def make_dataset(rows: Iterable[Mapping[str, Any]], fingerprint: str | None = None) -> Dataset:
    """Makes a dataset from rows with any columns and any values.

    Columns of strings, integers, floats or booleans get that type. Other columns are stored as JSON, so that 1 does not
    become 1.0, and keys of one nested object are not added to all of them.

    Args:
        rows: The rows; missing columns are None.
        fingerprint: The fingerprint of the dataset; None to compute it.

    Returns:
        The dataset, in memory.
    """
    from datasets import Dataset, DatasetInfo, Features, Value

    chunks: dict[str, list[_Chunk]] = {}
    total = 0
    for batch in _batched(rows):
        for column in dict.fromkeys(name for row in batch for name in row):
            if column not in chunks:
                chunks[column] = [_Chunk(None, pa.nulls(total))] if total else []
        for column, column_chunks in chunks.items():
            column_chunks.append(_make_chunk([row.get(column) for row in batch]))
        total += len(batch)
    arrays, features = {}, {}
    for column, column_chunks in chunks.items():
        kinds = {chunk.kind for chunk in column_chunks} - {None}
        kind: Any = str if not kinds else kinds.pop() if len(kinds) == 1 else JSON
        arrays[column] = pa.chunked_array([chunk.cast(kind) for chunk in column_chunks])
        features[column] = json_feature()() if kind == JSON else Value(str(arrays[column].type))
    return Dataset(pa.table(arrays), info=DatasetInfo(features=Features(features)), fingerprint=fingerprint)


@lru_cache(maxsize=1)
def json_feature() -> type:
    """Returns the feature of columns that are stored as JSON and read as its values."""
    from datasets.features.features import register_feature

    @dataclass
    class JsonText:
        dtype: ClassVar[str] = "string"
        pa_type: ClassVar[Any] = pa.string()
        _type: str = field(default="JsonText", init=False, repr=False)

        def __call__(self) -> Any:
            return self.pa_type

        def encode_example(self, value: Any) -> str:
            return format_json(value)

        def decode_example(self, value: str, token_per_repo_id: Any = None) -> Any:
            return parse_json(value)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it is experimental
        register_feature(JsonText, "JsonText")
    return JsonText


@dataclass(frozen=True)
class _Chunk:
    """Some values of a column."""

    kind: Any
    """The Python type of the values, ``JSON``, or None if all are None."""
    array: Any

    def cast(self, kind: Any) -> Any:
        """Returns the array in the type of its column."""
        if self.kind == kind:
            return self.array
        if self.kind is None:
            return pa.nulls(len(self.array), SCALARS.get(kind, pa.string()))
        return _as_json(self.array.to_pylist())


def _make_chunk(values: Sequence[Any]) -> _Chunk:
    types = {type(value) for value in values} - {type(None)}
    if not types:
        return _Chunk(None, pa.nulls(len(values)))
    if types == {JsonFloat} and all(value is None or value.literal == float.__repr__(value) for value in values):
        types = {float}
    if len(types) == 1 and (kind := types.pop()) in SCALARS:
        try:
            return _Chunk(kind, pa.array(values, SCALARS[kind]))
        except (OverflowError, UnicodeEncodeError):  # more than 64 bits; lone surrogates
            pass
    return _Chunk(JSON, _as_json(values))


def _as_json(values: Iterable[Any]) -> Any:
    return pa.array([None if value is None else format_json(value) for value in values], pa.string())


def _batched(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, CHUNK)):
        yield batch
