"""Gradient checkpointing, without gradients of what lies below the lowest trained layer."""

from __future__ import annotations

from torch import nn

from peftkit.errors import RunError


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Recompute activations in the backward pass.

    Args:
        model: the base model, before a method is applied.

    Raises:
        RunError: the model does not support it.
    """
    if not getattr(model, "supports_gradient_checkpointing", True):
        raise RunError(
            f"train.gradient_checkpointing: {type(model).__name__} does not support it in the installed transformers; "
            "leave it out"
        )
    options = {"use_reentrant": False}  # the reentrant variant silently loses the gradients of frozen models
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)  # type: ignore[operator]
    drop_input_gradients(model)


def drop_input_gradients(model: nn.Module) -> None:
    """Undo that transformers and peft make the embeddings require a gradient, which only the reentrant variant needs.

    Every layer below the lowest trained one would be computed again and differentiated for nothing.

    Args:
        model: the base model. transformers forgets its own hooks when peft adds others, so each are dropped in turn.
    """
    if getattr(model, "_require_grads_hook", None) is not None:
        model.disable_input_require_grads()  # type: ignore[operator]
