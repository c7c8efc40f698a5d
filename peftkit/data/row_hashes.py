"""Digests of rows: of tokenized ones on disk, and of examples in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from datasets import Dataset

from peftkit.components import Example
from peftkit.data.input_files import digest_of
from peftkit.data_files import ipc_bytes


def digest_rows(rows: Dataset) -> str:
    """Returns the digest of tokenized rows, whatever their metadata."""
    return digest_of(ipc_bytes(table) for table in rows.with_format("arrow").iter(batch_size=1000))


def digest_examples(examples: Iterable[Example]) -> str:
    """Returns the digest of everything that examples have."""
    return digest_of(_example_bytes(examples))


def _example_bytes(examples: Iterable[Example]) -> Iterator[bytes]:
    for e in examples:
        fields: list[object] = [e.source, e.target, e.candidates, e.references, e.group, sorted(e.extra.items())]
        if e.source_pair or e.words or e.target_span:
            fields += [e.source_pair, e.words, e.target_span, *([True] if e.symmetric else ())]
        if e.documents:
            fields.append({"documents": e.documents})
        if e.conversation:
            fields.append([e.conversation.messages, e.conversation.tools, e.conversation.prompt_messages])
        yield json.dumps(fields, default=str).encode()
