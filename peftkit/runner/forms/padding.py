"""Padding changes nothing of a text that a model reads, or texts are read with others of their length only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from weakref import WeakKeyDictionary

from torch import nn

log = logging.getLogger(__name__)
_IGNORED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether each model has been seen to ignore padding."""


def ignores_padding(model: nn.Module, differs: Callable[[], bool | None]) -> bool:
    """Whether what the model says of a text is the same with padding; found out once for each model.

    Some models have no mask (FNet), or lose it when they generate (GPT in transformers 4).

    Args:
        model: the model.
        differs: compares a text with and without padding; None where nothing is padded yet.
    """
    if model not in _IGNORED:
        if (different := differs()) is None:
            return True
        _IGNORED[model] = not different
        if different:
            log.warning(
                "padding changes what %s says: only texts of one length are evaluated together", type(model).__name__
            )
    return _IGNORED[model]


def by_length(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The places of texts, those of one length together."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    return [list(same) for _, same in groupby(order, key=lambda i: len(texts[i]))]
