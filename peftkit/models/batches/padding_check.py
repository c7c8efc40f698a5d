"""Finds out whether a model ignores padding; if not, only texts of the same length are evaluated together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from weakref import WeakKeyDictionary

from torch import nn

log = logging.getLogger(__name__)
_IGNORES_PADDING: WeakKeyDictionary[nn.Module, dict[str, bool]] = WeakKeyDictionary()
"""The results for each model that has been tested, by the pass."""


def ignores_padding(model: nn.Module, differs: Callable[[], bool | None], *, passes: str = "scores") -> bool:
    """Whether a model's output for a text is the same with padding; tested once per model and pass.

    Some models have no attention mask (FNet), or lose it in generation (GPT in transformers 4).

    Args:
        model: the model.
        differs: compares outputs with and without padding; returns None if no text of the batch is padded.
        passes: which passes are tested, as decoders are padded on the left in generation.
    """
    results = _IGNORES_PADDING.setdefault(model, {})
    if passes not in results:
        if (different := differs()) is None:
            return True
        results[passes] = not different
        if different:
            log.warning(
                "padding changes the output of %s: only texts of the same length are evaluated together",
                type(model).__name__,
            )
    return results[passes]


def group_equal_lengths(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the indices of tokenized texts, grouped by length."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    return [list(group) for _, group in groupby(order, key=lambda i: len(texts[i]))]
