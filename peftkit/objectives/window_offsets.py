"""Texts that are read in overlapping windows: where their tokens are, and the windows as texts of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftkit.components.types import Row, TextWindow


def assign_tokens(windows: Sequence[TextWindow]) -> dict[int, tuple[int, int]]:
    """Choose a window for each token of a text: the one in which it has most context on both sides.

    Args:
        windows: The windows of the text.

    Returns:
        For each token of the text, the index of its window and its position in there.
    """
    best: dict[int, tuple[int, int, int]] = {}
    for number, window in enumerate(windows):
        positions = [position for position, offsets in enumerate(window.offsets) if offsets is not None]
        for turn, position in enumerate(positions):
            context = min(turn, len(positions) - 1 - turn)
            token = window.first_token + turn
            if token not in best or context > best[token][0]:
                best[token] = (context, number, position)
    return {token: (number, position) for token, (_, number, position) in sorted(best.items())}


def windows_as_texts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return rows whose texts are their windows, as ``FamilyServices.collate`` takes them.

    Args:
        rows: Rows with the token ids of the first window, ``source``, of the others, ``windows``, and the token type
            ids of each, ``segments``, if the objective stores them.
    """
    return [
        {
            "source": [],
            "candidates": [row["source"], *row["windows"]],
            "answer": 0,
            "segments": row.get("segments", []),
        }
        for row in rows
    ]
