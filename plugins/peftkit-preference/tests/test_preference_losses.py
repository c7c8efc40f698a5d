"""The losses, compared with the formulas of the papers and of trl, number by number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from peftkit_preference.preference_losses import dpo_loss, kto_loss, simpo_loss

LOGPS = [(-3.2, -4.1, -2.9, -4.4), (-12.5, -8.0, -11.0, -9.5), (-0.3, -0.3, -0.3, -0.3), (-90.0, -20.0, -30.0, -80.0)]
"""Log-likelihoods of chosen and rejected completions: of the model, then of the base model."""


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_dpo_is_the_formula_of_trl(beta: float, label_smoothing: float) -> None:
    margins = [beta * ((chosen - base) - (rejected - other)) for chosen, rejected, base, other in LOGPS]
    expected = [
        -(1 - label_smoothing) * math.log(sigmoid(margin)) - label_smoothing * math.log(sigmoid(-margin))
        for margin in margins
    ]
    assert dpo_loss(column(margins), label_smoothing).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("beta", "gamma_beta_ratio"), [(2.0, 0.25), (0.5, 0.0), (2.5, 0.8)])
def test_simpo_is_the_formula_of_trl(beta: float, gamma_beta_ratio: float) -> None:
    simpo_gamma = beta * gamma_beta_ratio  # the option of trl's CPOConfig
    means = [(chosen, rejected) for chosen, rejected, _, _ in LOGPS[:3]]
    expected = [-math.log(sigmoid(beta * (chosen - rejected - simpo_gamma / beta))) for chosen, rejected in means]
    margins = column([beta * (chosen - rejected) for chosen, rejected in means])
    assert simpo_loss(margins, simpo_gamma).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kl", [0.0, 1.7])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.33, 0.5)])
def test_kto_is_the_formula_of_trl(kl: float, weights: tuple[float, float]) -> None:
    beta, desirable = 0.1, [True, False, False, True]
    ratios = [completion - base for completion, _, base, _ in LOGPS]
    expected = [
        weights[0] * (1 - sigmoid(beta * (ratio - kl))) if good else weights[1] * (1 - sigmoid(beta * (kl - ratio)))
        for ratio, good in zip(ratios, desirable, strict=True)
    ]
    losses = kto_loss(beta * column(ratios), torch.tensor(desirable), beta * kl, weights)
    assert losses.tolist() == pytest.approx(expected, abs=1e-6)


def test_large_margins_are_finite() -> None:
    margins = column([-1e4, 1e4])
    assert dpo_loss(margins, 0.1).isfinite().all()
    assert simpo_loss(margins, 0.5).tolist() == pytest.approx([1e4 + 0.5, 0.0])
