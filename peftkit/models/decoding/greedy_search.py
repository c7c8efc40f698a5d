"""Greedy search in which rows that have ended leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria

from peftkit.models.decoding.prefix_cache import base_for_cache

MIN_STEPS = 8
"""The rest of a batch continues by itself only if this many tokens may be left, since it is read again."""
MIN_ROWS = 4
"""Batches of fewer rows are not divided."""
PASS_TOKENS = 50
"""Tokens that cost about as much as a pass."""
GREEDY_OPTIONS = {"max_new_tokens", "num_beams"}
"""Arguments of ``generate`` that the search in parts supports."""
Continue = Callable[[Sequence[int], Sequence[list[int]], Mapping[str, Any], bool], list[list[int]]]
"""Continues rows: gets their indices, what has been generated, options of ``generate``, and whether to stop early."""


class ManyEnded(StoppingCriteria):
    """Stops as soon as rows that have ended cost as much as reading the others again, unless few steps are left.

    So a division never costs more than what has been computed in vain.

    Args:
        stop_ids: the ids that end a text.
        start: the position of the first generated token.
        max_new_tokens: the largest number of generated tokens.
        encoder_length: the length of the sources, if an encoder reads them.
    """

    def __init__(self, stop_ids: Sequence[int], start: int, max_new_tokens: int, encoder_length: int = 0) -> None:
        self.stop_ids, self.start, self.last = [*stop_ids], start, start + max_new_tokens - MIN_STEPS
        self.encoder_length, self.in_vain = encoder_length, 0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Decide whether to stop.

        Args:
            input_ids: the ids so far, of shape (rows, length).
            scores: unused.
            kwargs: unused.

        Returns:
            Whether each row stops, of shape (rows,); all of them do at the same time.
        """
        rows, length = input_ids.shape
        stop_ids = torch.tensor(self.stop_ids, device=input_ids.device)
        ended = int(torch.isin(input_ids[:, self.start :], stop_ids).any(1).sum())
        again = (rows - ended) * (length + self.encoder_length) + PASS_TOKENS
        stops = self.in_vain >= again and length <= self.last
        self.in_vain += ended
        return torch.full((rows,), stops, dtype=torch.bool, device=input_ids.device)


def can_divide(model: nn.Module, options: Mapping[str, Any]) -> bool:
    """Whether rows may leave a batch: a continued text is read like a source, so no prompt may be in a cache.

    Args:
        model: the model.
        options: arguments of ``generate``.
    """
    return options.keys() <= GREEDY_OPTIONS and options.get("num_beams", 1) == 1 and base_for_cache(model) is model


def search(continue_rows: Continue, rows: int, stop_ids: Sequence[int], options: Mapping[str, Any]) -> list[list[int]]:
    """Generate ids for each row; rows that have not ended may continue by themselves.

    Args:
        continue_rows: generates ids that continue rows.
        rows: the number of rows.
        stop_ids: the ids that end a text.
        options: arguments of ``generate``, with ``max_new_tokens``.

    Returns:
        The generated ids of each row; those after a stop id have no meaning.
    """
    generated: list[list[int]] = [[] for _ in range(rows)]
    active, ends = list(range(rows)), {*stop_ids}
    while active and (left := options["max_new_tokens"] - len(generated[active[0]])) > 0:
        so_far = [generated[i] for i in active]
        new = continue_rows(active, so_far, {**options, "max_new_tokens": left}, len(active) >= MIN_ROWS)
        if not new[0]:
            break
        for i, ids in zip(active, new, strict=True):
            generated[i] = [*generated[i], *ids]
        active = [i for i in active if not ends.intersection(generated[i])]
    return generated
