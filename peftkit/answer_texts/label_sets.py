"""Sets of labels as texts: how targets and predictions of multi-label tasks are written and read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

SEPARATOR = ", "
"""What is between the labels of a text."""
LABELS, NO_LABEL = "labels", "no_label"
"""Keys of ``Example.extra``: the text of all labels, and the text of a row without labels."""


def join_labels(labels: Iterable[str], order: Sequence[str], no_label: str) -> str:
    """Return the text of a set of labels, in the order of the task's.

    Args:
        labels: The set; unknown labels come last.
        order: All labels of the task.
        no_label: The text of the empty set.
    """
    chosen = {*labels}
    known = [label for label in order if label in chosen]
    return SEPARATOR.join([*known, *sorted(chosen.difference(order))]) or no_label


@lru_cache(maxsize=65_536)
def split_labels(text: str, no_label: str) -> frozenset[str]:
    """Return the set of labels, and of other pieces, of a text.

    Args:
        text: Labels with commas between them; space around them is ignored.
        no_label: The text of the empty set.
    """
    pieces = (" ".join(piece.split()) for piece in text.split(SEPARATOR.strip()))
    return frozenset(piece for piece in pieces if piece and piece != no_label)


def label_extra(labels: Sequence[str], no_label: str) -> Mapping[str, str]:
    """Return what metrics of sets of labels need of each example, as its ``extra``.

    Args:
        labels: All labels of the task.
        no_label: The text of a row without labels.
    """
    return {LABELS: SEPARATOR.join(labels), NO_LABEL: no_label}
