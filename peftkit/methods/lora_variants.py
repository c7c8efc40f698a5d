"""Variants of LoRA that act on gradients, as optimizers of peft do, and the state of VeLoRA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from peftkit.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

ADAPTER = "default"
LORAFA_DAMPING = 1e-8
"""What peft's LoRA-FA adds to the diagonal before it inverts."""


def freeze_first_matrices(wrapped: nn.Module) -> None:
    """Freeze the first matrix of each update, as LoRA-FA does.

    Args:
        wrapped: The model with LoRA adapters.

    Raises:
        InputError: An update is not of a linear layer.
    """
    require_linear_layers(wrapped, "use_lorafa")
    for key, parameter in wrapped.named_parameters():
        if ".lora_A." in key:
            parameter.requires_grad_(False)


def require_linear_layers(wrapped: nn.Module, option: str) -> None:
    """Reject updates of embeddings and of parameters, whose matrices are laid out otherwise.

    Args:
        wrapped: The model with LoRA adapters.
        option: The option that needs linear layers.

    Raises:
        InputError: There is such an update.
    """
    from peft.tuners.lora.layer import ParamWrapper

    for name, layer in wrapped.named_modules():
        if isinstance(layer, ParamWrapper) or getattr(layer, "lora_embedding_A", None):
            name = name.removeprefix("base_model.model.")
            raise InputError(f"method.{option}: works on linear layers only, and {name!r} is none; leave it out there")


def low_rank_pairs(model: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Parameter, float]]:
    """Yield both matrices of each update, of shapes (rank, inputs) and (outputs, rank), and its scale.

    Args:
        model: The model with LoRA adapters.
    """
    layer: Any
    for layer in model.modules():
        if ADAPTER in getattr(layer, "lora_A", {}):
            yield layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.scaling[ADAPTER]


def _damped_inverse(matrix: Tensor, damping: float) -> Tensor:
    """Return the inverse of a matrix of shape (rank, rank) with a number added to its diagonal."""
    import torch

    identity = torch.eye(len(matrix), device=matrix.device, dtype=matrix.dtype)
    inverse: Tensor = torch.linalg.pinv(matrix + damping * identity)
    return inverse


def project_lorafa(model: nn.Module) -> None:
    """Replace the gradient of B by g (A Aᵀ)⁻¹ / scale², whose update is closest to that of full fine-tuning.

    peft's optimizer does the same before its AdamW, in bf16 where the machine has it.

    Args:
        model: The model with LoRA adapters.
    """
    for a, b, scale in low_rank_pairs(model):
        if b.grad is not None:
            a32 = a.detach().float()
            b.grad.copy_(b.grad.float() @ _damped_inverse(a32 @ a32.T, LORAFA_DAMPING) / scale**2)


def precondition_riemannian(model: nn.Module, damping: float) -> None:
    """Multiply the gradient of A by (BᵀB + damping)⁻¹ and that of B by (A Aᵀ + damping)⁻¹.

    As peft's ``create_riemannian_optimizer``, after Zhang and Pilanci (2024).

    Args:
        model: The model with LoRA adapters.
        damping: What is added to the diagonals.
    """
    for a, b, _ in low_rank_pairs(model):
        a32, b32 = a.detach().float(), b.detach().float()
        if a.grad is not None:
            a.grad.copy_(_damped_inverse(b32.T @ b32, damping) @ a.grad.float())
        if b.grad is not None:
            b.grad.copy_(b.grad.float() @ _damped_inverse(a32 @ a32.T, damping))


def share_velora_projections(model: nn.Module) -> None:
    """Give all processes the projections of the first, which the first batch of each has set.

    Args:
        model: The model with VeLoRA adapters.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        for _, layer in _velora_layers(model):
            distributed.broadcast(layer.lora_velora_embed[ADAPTER], 0)


def velora_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the projections by layer, as far as a batch has set them.

    Args:
        model: The model with VeLoRA adapters.
    """
    return {
        name: layer.lora_velora_embed[ADAPTER]
        for name, layer in _velora_layers(model)
        if layer.lora_velora_initialized[ADAPTER]
    }


def load_velora_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Restore what ``velora_state`` returned.

    Args:
        model: The model with VeLoRA adapters.
        state: The projections by layer, each of shape (width of a group,).
    """
    for name, projection in state.items():
        layer: Any = model.get_submodule(name)
        layer.lora_velora_embed[ADAPTER].copy_(projection)
        layer.lora_velora_initialized[ADAPTER] = True


def _velora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_velora_embed"):
            yield name, cast(Any, layer)


def loftq_problem() -> str:
    """Return why this machine cannot initialize LoftQ; empty if it can."""
    import torch

    if not torch.cuda.is_available():
        return (
            "peft quantizes weights for it on a GPU only, and there is none; use init_lora_weights "
            '= "pissa", which approximates the weights themselves'
        )
    if find_spec("bitsandbytes") is None:
        return "it needs bitsandbytes: pip install 'peftkit[quant]'"
    return ""
