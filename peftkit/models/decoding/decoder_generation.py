"""Continues the prompts of a decoder, padded on the left where the model ignores padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.components.types import RowSampling
from peftkit.models.batches.padding import attention_mask, pad_sequences
from peftkit.models.batches.padding_check import group_equal_lengths, ignores_padding
from peftkit.models.decoding.greedy_search import ManyEnded, can_divide, search
from peftkit.models.decoding.kv_cache_check import generate
from peftkit.models.decoding.sampling import make_processors
from peftkit.models.heads.token_losses import tolerance


@dataclass(frozen=True)
class PromptContinuation:
    """Generates what follows prompts.

    Attributes:
        model: the model, in evaluation mode.
        device: its device.
        pad_id: the id to pad prompts with.
        stop_ids: the ids that end a text.
        max_length: the largest length to pad prompts to, since generated tokens need positions; None if unlimited.
        sampling: how texts are sampled; None for the most likely tokens.
    """

    model: nn.Module
    device: torch.device
    pad_id: int
    stop_ids: tuple[int, ...]
    max_length: int | None
    sampling: RowSampling | None = None

    def generate(self, prompts: Sequence[list[int]], options: Mapping[str, Any]) -> list[list[int]]:
        """Generate ids for each prompt; those after a stop id have no meaning.

        Args:
            prompts: token ids of the prompts.
            options: arguments of ``model.generate``, with ``max_new_tokens``.
        """
        differs = partial(self._differs_when_padded, prompts, options)
        if ignores_padding(self.model, differs, passes="generation"):
            if not can_divide(self.model, options):
                return self._continue(prompts, range(len(prompts)), [[] for _ in prompts], options, early=False)
            return search(partial(self._continue, prompts), len(prompts), self.stop_ids, options)
        generated: list[list[int]] = [[] for _ in prompts]
        for indices in group_equal_lengths(prompts):
            ids = self._continue(prompts, indices, [[] for _ in indices], options, early=False)
            for i, each in zip(indices, ids, strict=True):
                generated[i] = each
        return generated

    def _continue(
        self,
        prompts: Sequence[list[int]],
        indices: Sequence[int],
        so_far: Sequence[list[int]],
        options: Mapping[str, Any],
        early: bool,
    ) -> list[list[int]]:
        """Generate ids that continue prompts and what has been generated for them."""
        texts = [prompts[i] + ids for i, ids in zip(indices, so_far, strict=True)]
        if early:
            start = max(map(len, texts))
            options = {**options, "stopping_criteria": [ManyEnded(self.stop_ids, start, options["max_new_tokens"])]}
        if self.sampling is not None:
            options = {**options, "logits_processor": make_processors(self.sampling, indices, len(so_far[0]))}
        return self._generate_batch(texts, options).tolist()  # type: ignore[no-any-return]

    def _generate_batch(self, prompts: Sequence[list[int]], options: Mapping[str, Any]) -> Any:
        """Return the generated ids, or the output object of ``generate`` if the options ask for it."""
        ids = pad_sequences(prompts, self.pad_id, left=True, max_length=self.max_length).to(self.device)
        mask = attention_mask(prompts, left=True, max_length=self.max_length).to(self.device)
        generated: Any = generate(
            self.model,
            "input_ids",
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            pad_token_id=self.pad_id,
            eos_token_id=[*self.stop_ids],
            **options,
        )
        return generated[:, ids.shape[1] :] if isinstance(generated, Tensor) else generated

    def _differs_when_padded(self, prompts: Sequence[list[int]], options: Mapping[str, Any]) -> bool | None:
        """Whether padding changes the continuation of the shortest prompt; None if no prompt is padded."""
        shortest, longest = min(prompts, key=len), max(prompts, key=len)
        if len(shortest) == len(longest):
            return None
        options = {
            **options,
            "num_beams": 1,
            "max_new_tokens": 2,
            "output_logits": True,
            "return_dict_in_generate": True,
        }
        alone = self._generate_batch([shortest], options)
        padded = self._generate_batch([shortest, longest], options)
        rtol = 10 * tolerance(self.model, self.device)
        for alone_logits, padded_logits in zip(alone.logits, padded.logits, strict=False):
            difference = (alone_logits[0] - padded_logits[0]).abs().max()
            close = difference <= rtol * max(1.0, alone_logits[0].abs().max().item())
            if not close:
                return True
            if alone_logits[0].argmax() != padded_logits[0].argmax():
                break
        return False
