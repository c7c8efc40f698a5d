"""The summed cross-entropy: the values and gradients of torch's, in less memory."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from peftkit.components.types import IGNORE_INDEX
from peftkit.models.heads import token_losses
from peftkit.models.heads.token_losses import sum_cross_entropy


@pytest.mark.parametrize("cached", [token_losses.CACHED_NUMBERS, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_loss_and_gradient_are_those_of_torch(dtype: torch.dtype, cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_losses, "CACHED_NUMBERS", cached)
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 11, dtype=dtype, requires_grad=True)
    labels = torch.randint(11, (3, 5)).index_fill(1, torch.tensor([1]), IGNORE_INDEX)
    other = logits.detach().clone().requires_grad_()
    wide = other if dtype == torch.float64 else other.float()
    expected = cross_entropy(wide.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    (sum_cross_entropy(logits, labels) / 3).backward()
    (expected / 3).backward()
    assert sum_cross_entropy(logits, labels).item() == expected.item()
    torch.testing.assert_close(logits.grad, other.grad)


def test_scores_of_minus_infinity_have_no_gradient() -> None:
    logits = torch.tensor([[0.5, 1.0, -torch.inf]], requires_grad=True)
    sum_cross_entropy(logits, torch.tensor([1])).backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0
    assert logits.grad.sum().item() == pytest.approx(0, abs=1e-6)


def test_a_second_backward_pass_is_an_error_instead_of_a_wrong_gradient() -> None:
    loss = sum_cross_entropy(torch.randn(2, 3, requires_grad=True), torch.tensor([0, 2]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
