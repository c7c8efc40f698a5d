"""Digests of rows: of tokenized ones on disk, and of examples in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pyarrow as pa
from datasets import Dataset

from peftkit.components import Example
from peftkit.data.input_files import digest_of


def digest_rows(rows: Dataset) -> str:
    """Returns the digest of tokenized rows, whatever their metadata."""
    return digest_of(_arrow_bytes(rows))


def digest_examples(examples: Iterable[Example]) -> str:
    """Returns the digest of everything that examples have."""
    return digest_of(_example_bytes(examples))


def _arrow_bytes(rows: Dataset) -> Iterator[bytes]:
    for table in rows.with_format("arrow").iter(batch_size=1000):
        sink = pa.BufferOutputStream()
        combined = table.combine_chunks().replace_schema_metadata(None)
        with pa.ipc.new_stream(sink, combined.schema) as writer:
            writer.write_table(combined)
        yield sink.getvalue().to_pybytes()


def _example_bytes(examples: Iterable[Example]) -> Iterator[bytes]:
    for e in examples:
        fields: list[object] = [e.source, e.target, e.candidates, e.references, e.group, sorted(e.extra.items())]
        if e.source_pair or e.words or e.target_span:
            fields += [e.source_pair, e.words, e.target_span, *([True] if e.symmetric else ())]
        if e.conversation:
            fields.append([e.conversation.messages, e.conversation.tools, e.conversation.prompt_messages])
        yield json.dumps(fields, default=str).encode()
