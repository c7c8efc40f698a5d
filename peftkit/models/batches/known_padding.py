"""Answers transformers whether a batch has padding, which it would otherwise read from the mask on the device.

Without padding, transformers leaves out the mask of torch's scaled dot-product attention. It reads the mask at the
start of every forward pass, where the host would wait until the device has finished the previous step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from transformers import masking_utils

from peftkit.models.batches.collated_batch import CollatedBatch

IGNORE_MASK = ("_ignore_causal_mask_sdpa", "_ignore_bidirectional_mask_sdpa")
"""Functions of transformers that return whether a mask can be left out; version 4 has only the first."""


class KnownPadding:
    """What is known on the host about the padding of a run's batches.

    The first answer of each kind is compared with what transformers reads, since a method may change the mask.
    """

    def __init__(self) -> None:
        self._confirmed: set[tuple[Any, ...]] = set()
        self._contradicted = False
        self._length, self._padded = 0, False

    @contextmanager
    def for_batch(self, batch: Mapping[str, Tensor]) -> Iterator[None]:
        """Answer transformers within this context, if the lengths of the texts are known.

        Args:
            batch: A batch; its texts are tensors of shape (texts, length).
        """
        if self._contradicted or not isinstance(batch, CollatedBatch) or batch["attention_mask"].ndim != 2:
            yield
            return
        self._length = batch["attention_mask"].shape[1]
        self._padded = min(batch.lengths) < self._length
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def ignores_mask(self, original: Callable[..., Any], mask: Tensor, *args: Any, **options: Any) -> bool:
        """Return whether a mask can be left out.

        Args:
            original: The function of transformers, which reads the mask if it gets one.
            mask: The mask, of shape (texts, length); prompt methods lengthen it.
            args: Its other arguments.
            options: Its other keyword arguments.
        """
        answer = not self._padded and bool(original(None, *args, **options))
        kind = (original.__name__, self._padded, mask.shape[-1] - self._length)
        if not self._contradicted and kind in self._confirmed:
            return answer
        read = bool(original(mask, *args, **options))
        self._contradicted |= read != answer
        self._confirmed.add(kind)
        return read


_current: ContextVar[KnownPadding | None] = ContextVar("known_padding", default=None)


def _answering(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def ignore_mask(padding_mask: Tensor | None, *args: Any, **options: Any) -> Any:
        known = _current.get()
        if known is None or padding_mask is None:
            return original(padding_mask, *args, **options)
        return known.ignores_mask(original, padding_mask, *args, **options)

    return ignore_mask


for _name in IGNORE_MASK:
    if hasattr(masking_utils, _name):
        setattr(masking_utils, _name, _answering(getattr(masking_utils, _name)))
