"""Outputs of the frozen layers below everything that is trained, in place of computing them again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.models.batches.collated_batch import with_tensors

FROZEN_OUTPUTS = "frozen_outputs"
"""Key of a batch: the outputs of the last frozen layer, a tensor of shape (texts, length, width)."""


@dataclass(frozen=True)
class FrozenLayers:
    """The first layers of a model, whose outputs depend on nothing that is trained or random.

    Attributes:
        names: The names of the layers in the model, in their order.
        width: The size of an output of the last layer.
        dtype: Its dtype.
        further_outputs: How many values a layer returns beside the hidden states; None if it returns a tensor.
    """

    names: tuple[str, ...]
    width: int
    dtype: torch.dtype
    further_outputs: int | None

    @property
    def bytes_per_token(self) -> int:
        """Size of the last layer's output for a token."""
        return self.width * self.dtype.itemsize

    @contextmanager
    def capture(self, model: nn.Module) -> Iterator[list[Tensor]]:
        """Collect the outputs of the last layer, of shape (texts, length, width), within this context.

        Args:
            model: The model.
        """
        outputs: list[Tensor] = []
        last = model.get_submodule(self.names[-1])
        hook = last.register_forward_hook(lambda layer, inputs, output: outputs.append(hidden_states(output).detach()))
        try:
            yield outputs
        finally:
            hook.remove()

    @contextmanager
    def replay(self, model: nn.Module, outputs: Tensor) -> Iterator[None]:
        """Let the layers return known outputs within this context, without computing anything.

        Args:
            model: The model, or a copy of it.
            outputs: The outputs of the last layer, of shape (texts, length, width).
        """
        further = self.further_outputs
        result: Any = outputs if further is None else (outputs, *([None] * further))
        layers = [model.get_submodule(name) for name in self.names]
        before = [vars(layer).get("forward") for layer in layers]

        def replayed(*inputs: Any, **options: Any) -> Any:
            return result

        for layer in layers:
            layer.forward = replayed
        try:
            yield
        finally:
            for layer, forward in zip(layers, before, strict=True):
                if forward is None:
                    del layer.forward
                else:
                    layer.forward = forward

    def loss_from_outputs(
        self, loss: Callable[[nn.Module, Mapping[str, Tensor]], Tensor], model: nn.Module, batch: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the loss of a batch from the outputs that it has.

        Args:
            loss: Computes the loss, a scalar, of a batch with texts of shape (texts, length).
            model: The model.
            batch: The batch, with ``FROZEN_OUTPUTS`` of shape (texts, length, width).

        Returns:
            The loss, a scalar, or what else is computed.
        """
        with self.replay(model, batch[FROZEN_OUTPUTS]):
            return loss(model, without_outputs(batch))


def hidden_states(output: Any) -> Tensor:
    """Return the hidden states that a layer returned, alone or before further values.

    Args:
        output: What the layer returned.

    Returns:
        A tensor of shape (texts, length, width).
    """
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden


def without_outputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch without the outputs of frozen layers; its numbers on the host are kept."""
    other = with_tensors(batch, {})
    other.pop(FROZEN_OUTPUTS, None)
    return other


def identify_texts(batch: Mapping[str, Tensor]) -> list[bytes]:
    """Return what identifies each text of a batch, whatever its padding is.

    Args:
        batch: A batch on the host; its texts are tensors of shape (texts, length).
    """
    columns = [batch[key] for key in ("input_ids", "token_type_ids") if key in batch]
    keys = []
    for number, mask in enumerate(batch["attention_mask"].bool()):
        digest = hashlib.blake2b(digest_size=16)
        for column in columns:
            digest.update(column[number][mask].numpy().tobytes())
        keys.append(digest.digest())
    return keys
