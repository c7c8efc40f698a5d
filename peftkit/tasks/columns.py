"""Rows as columns of Arrow that give back exactly what stands in the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from peftkit.data_files import Number, parse_json, write_json

if TYPE_CHECKING:
    from datasets import Dataset

CHUNK = 10_000
"""Rows that become Arrow arrays together."""
SCALARS: Mapping[type, Any] = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
JSON = "json"
"""The kind of a column that no type of Arrow holds exactly: each value is kept as JSON."""


def make_dataset(rows: Iterable[Mapping[str, Any]], fingerprint: str | None = None) -> Dataset:
    """Makes a data set of rows, whose columns may come late and may hold values of any types.

    A column of texts, whole numbers, numbers or truth values has that type. Any other is kept as JSON, so that neither
    1 becomes 1.0 nor a key that one table has appears in all.

    Args:
        rows: the rows; a column that a row lacks is None in it.
        fingerprint: what ``datasets`` takes the content by; None to compute it.

    Returns:
        The data set, in memory.
    """
    from datasets import Dataset, DatasetInfo, Features, Value

    chunks: dict[str, list[_Chunk]] = {}
    total = 0
    for held in _chunked(rows):
        for column in dict.fromkeys(name for row in held for name in row):
            if column not in chunks:
                chunks[column] = [_Chunk(None, pa.nulls(total))] if total else []
        for column, column_chunks in chunks.items():
            column_chunks.append(_chunk([row.get(column) for row in held]))
        total += len(held)
    arrays, features = {}, {}
    for column, column_chunks in chunks.items():
        kinds = {chunk.kind for chunk in column_chunks} - {None}
        kind: Any = str if not kinds else kinds.pop() if len(kinds) == 1 else JSON
        arrays[column] = pa.chunked_array([chunk.of_kind(kind) for chunk in column_chunks])
        features[column] = json_feature()() if kind == JSON else Value(str(arrays[column].type))
    return Dataset(pa.table(arrays), info=DatasetInfo(features=Features(features)), fingerprint=fingerprint)


@lru_cache(maxsize=1)
def json_feature() -> type:
    """The feature of ``datasets`` for columns that are kept as JSON and read as its values."""
    from datasets.features.features import register_feature

    @dataclass
    class JsonText:
        dtype: ClassVar[str] = "string"
        pa_type: ClassVar[Any] = pa.string()
        _type: str = field(default="JsonText", init=False, repr=False)

        def __call__(self) -> Any:
            return self.pa_type

        def encode_example(self, value: Any) -> str:
            return write_json(value)

        def decode_example(self, value: str, token_per_repo_id: Any = None) -> Any:
            return parse_json(value)

    register_feature(JsonText, "JsonText")
    return JsonText


@dataclass(frozen=True)
class _Chunk:
    """Some values of a column; ``kind`` is their type, ``JSON``, or None where there are none."""

    kind: Any
    array: Any

    def of_kind(self, kind: Any) -> Any:
        """The array as that of a whole column."""
        if self.kind == kind:
            return self.array
        if self.kind is None:
            return pa.nulls(len(self.array), SCALARS.get(kind, pa.string()))
        return _as_json(self.array.to_pylist())


def _chunk(values: Sequence[Any]) -> _Chunk:
    types = {type(value) for value in values} - {type(None)}
    if not types:
        return _Chunk(None, pa.nulls(len(values)))
    if types == {Number} and all(value is None or value.literal == float.__repr__(value) for value in values):
        types = {float}
    if len(types) == 1 and (kind := types.pop()) in SCALARS:
        try:
            return _Chunk(kind, pa.array(values, SCALARS[kind]))
        except (OverflowError, UnicodeEncodeError):  # beyond 64 bits; half of a character
            pass
    return _Chunk(JSON, _as_json(values))


def _as_json(values: Iterable[Any]) -> Any:
    return pa.array([None if value is None else write_json(value) for value in values], pa.string())


def _chunked(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    iterator = iter(rows)
    while held := list(islice(iterator, CHUNK)):
        yield held
