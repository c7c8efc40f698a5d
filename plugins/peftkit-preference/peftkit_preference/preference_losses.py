"""The losses of preferences, by the formulas of trl."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def dpo_loss(margins: Tensor, label_smoothing: float) -> Tensor:
    """Compute the sigmoid loss of DPO (Rafailov et al., 2023), or of conservative DPO with smoothed labels.

    Args:
        margins: The reward of the chosen completion less that of the rejected one, of shape (rows,).
        label_smoothing: The probability that a label is wrong.

    Returns:
        The losses, of shape (rows,).
    """
    from torch.nn.functional import logsigmoid

    return -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)


def simpo_loss(margins: Tensor, target_margin: float) -> Tensor:
    """Compute the loss of SimPO (Meng et al., 2024).

    Args:
        margins: The reward of the chosen completion less that of the rejected one, of shape (rows,).
        target_margin: The margin that is aimed for, γ in the paper.

    Returns:
        The losses, of shape (rows,).
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(margins - target_margin)


def kto_loss(
    rewards: Tensor, desirable: Tensor, reference_point: Tensor | float, weights: tuple[float, float]
) -> Tensor:
    """Compute the loss of KTO (Ethayarajh et al., 2024, equation 7).

    Args:
        rewards: The rewards, of shape (rows,).
        desirable: Whether the completions are desirable, of shape (rows,).
        reference_point: The reward that completions are compared with: β times the KL estimate.
        weights: The weights of desirable and of undesirable completions.

    Returns:
        The losses, of shape (rows,).
    """
    good = desirable.to(rewards.dtype)
    differences = (rewards - reference_point) * (2 * good - 1)
    first, second = weights
    return (1 - differences.sigmoid()) * (first * good + second * (1 - good))
