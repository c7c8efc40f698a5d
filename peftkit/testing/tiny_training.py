"""Apply methods to tiny models, train them on one batch, and compute their losses and logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from peftkit.components import Method
from peftkit.components.model_parts.head_parameters import unfreeze_head
from peftkit.components.model_parts.module_name_checks import check_names
from peftkit.models.method_errors import check_weights, weighted_layers
from peftkit.testing.tiny_models import STEPS, architecture_kind, batch, context, head_parameters, tiny_model


def apply_method(method: Method, architecture: str, seed: int = 7, **changes: Any) -> nn.Module:
    """Apply a method to a tiny model.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        seed: Seed of the method's new weights.
        **changes: Changes to the model's config.

    Returns:
        The model to train.
    """
    torch.manual_seed(seed)
    base = tiny_model(architecture, **changes)
    check_names(method, base)
    layers = weighted_layers(base)
    model = method.apply(base, context(architecture, seed))
    check_weights(method, layers)
    unfreeze_head(model, head_parameters(architecture))
    return model


@dataclass(frozen=True)
class TrainedModel:
    """A tiny model that was trained with a method, and what its training recorded."""

    method: Method
    model: nn.Module
    before: dict[str, Tensor]
    """All parameters and buffers before training."""
    trainable: frozenset[str]
    """Names of the parameters that were trainable before training."""
    losses: list[float]
    """The loss of each step."""
    without_gradient: list[str]
    """Names of trainable parameters without a gradient in the second step."""


_last: dict[tuple[type[Method], str, str], TrainedModel] = {}


def train_method(method: Method, architecture: str) -> TrainedModel:
    """Apply a method to a tiny model and train it.

    The last model is kept for the next check of the same method and architecture. A check that changes the model calls
    ``forget_trained``.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.

    Returns:
        The trained model.
    """
    key = (type(method), method.model_dump_json(), architecture)
    if key not in _last:
        forget_trained()
        model = apply_method(method, architecture)
        before = {name: tensor.detach().clone() for name, tensor in tensors(model).items()}
        trainable = frozenset(trained_tensors(model))
        _last[key] = TrainedModel(method, model, before, trainable, *train_on_batch(model, architecture, method=method))
    return _last[key]


def forget_trained() -> None:
    """Forget the model that ``train_method`` keeps."""
    _last.clear()


def trained_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters.

    Args:
        model: The model that a method was applied to.

    Returns:
        The parameters by name.
    """
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers.

    Args:
        model: Any model.

    Returns:
        The tensors by name.
    """
    return dict(model.named_parameters()) | dict(model.named_buffers())


def logits(model: nn.Module, architecture: str) -> Tensor:
    """Compute the logits of the tiny batch in evaluation mode.

    Args:
        model: The model.
        architecture: Its architecture.

    Returns:
        Logits of shape (batch, length, vocabulary), or (batch, labels) for an encoder.
    """
    with torch.no_grad():
        return _output(model.eval(), architecture, batch(architecture))


def loss_of(
    method: Method, model: nn.Module, architecture: str, step: int, rows: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Compute the loss of a batch as in training: the mean cross-entropy and the method's auxiliary loss.

    Args:
        method: The method.
        model: The model that it was applied to.
        architecture: The model's architecture.
        step: The number of the step, which seeds dropout.
        rows: The batch, with ``input_ids`` and ``attention_mask`` of shape (batch, length) and ``labels`` of
            shape (batch, target length), or (batch,) for an encoder; the tiny batch by default.

    Returns:
        A scalar.
    """
    rows = batch(architecture) if rows is None else rows
    torch.manual_seed(step)
    scores, labels = _output(model, architecture, rows), rows["labels"]
    if architecture_kind(architecture) == "decoder":
        scores, labels = scores[:, :-1], labels[:, 1:]
    loss = cross_entropy(scores.float().flatten(0, -2), labels.flatten())
    auxiliary_loss = method.auxiliary_loss(model, rows)
    return loss if auxiliary_loss is None else loss + auxiliary_loss


def _output(model: nn.Module, architecture: str, rows: Mapping[str, Tensor]) -> Tensor:
    """Compute logits of shape (batch, target length, vocabulary), or (batch, labels) for an encoder."""
    inputs = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}
    kind, labels = architecture_kind(architecture), rows["labels"]
    if kind == "encoder-decoder":
        start = torch.full_like(labels[:, :1], cast(Any, model).config.decoder_start_token_id)
        inputs["decoder_input_ids"] = torch.cat([start, labels[:, :-1]], 1)
    scores: Tensor = model(**inputs, **({} if kind == "encoder" else {"use_cache": False})).logits
    return scores[:, -labels.shape[1] :] if kind == "decoder" else scores


def train_on_batch(
    model: nn.Module, architecture: str, steps: int = STEPS, method: Method | None = None
) -> tuple[list[float], list[str]]:
    """Train on the tiny batch with Adam.

    Args:
        model: The model.
        architecture: Its architecture.
        steps: The number of optimizer steps.
        method: The method that was applied to it, if any.

    Returns:
        The loss of each step, and the names of trained parameters without a gradient in the second step.
    """
    method = method or Method.model_construct(name="none")
    parameters = trained_tensors(model)
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
    losses, without_gradient = [], []
    model.train()
    for step in range(1, steps + 1):
        loss = loss_of(method, model, architecture, step)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        if step == 2:
            without_gradient = [name for name, p in parameters.items() if p.grad is None or not p.grad.any()]
        method.after_backward(model, step)
        method.before_step(model, step)
        optimizer.step()
        method.after_step(model, step)
        optimizer.zero_grad()
    return losses, without_gradient
