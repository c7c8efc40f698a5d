"""Keeps activations in host memory until the backward pass (``train.activation_offloading``)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

MIN_BYTES = 1024
"""Smaller tensors stay on the device, as in trl and torchtune."""


class ActivationOffloading(saved_tensors_hooks):
    """Moves what autograd saves for the backward pass to pinned host memory, without waiting for the device.

    Copies in both directions are in the order of the device's stream, so no tensor is read before it has arrived.
    Weights and buffers stay where they are; their casts under autocast do not. With gradient checkpointing, only the
    inputs of the checkpointed layers are saved and moved; what is recomputed in the backward pass is not.

    Args:
        model: The model, on its device.
        device_type: The type of the device whose tensors are moved.
    """

    def __init__(self, model: nn.Module, device_type: str = "cuda") -> None:
        copies = save_on_cpu(pin_memory=device_type == "cuda", device_type=device_type)
        weights = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}

        def pack(tensor: Tensor) -> Any:
            storage = tensor.untyped_storage()
            stays = tensor.device.type != device_type or storage._cdata in weights
            return tensor if stays or tensor.nbytes < MIN_BYTES else copies.pack_hook(tensor)

        def unpack(packed: Any) -> Tensor:
            return packed if isinstance(packed, Tensor) else copies.unpack_hook(packed)

        super().__init__(pack, unpack)
