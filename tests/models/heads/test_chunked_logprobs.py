"""Log-likelihoods of targets, computed in chunks, equal those from the logits of all positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftkit.models.heads import chunked_logprobs as chunked
from peftkit.models.heads.chunked_logprobs import Target, target_logprobs
from peftkit.models.heads.token_losses import token_logprobs
from peftkit.testing import tiny_model

CPU = torch.device("cpu")
IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 3, 4, 5]])
TARGETS = [Target(1, 4, 3), Target(0, 2, 9), Target(0, 2, 5), Target(1, 0, 4), Target(0, 0, 4)]


def expected(logits: Tensor, targets: list[Target]) -> Tensor:
    row, column, token = torch.tensor(targets).unbind(1)
    return logits.log_softmax(-1)[row, column, token]


class SoftCapped(nn.Module):
    """A model that changes its logits after the output layer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def get_output_embeddings(self) -> nn.Module:
        return self.model.get_output_embeddings()  # type: ignore[no-any-return]

    def forward(self, input_ids: Tensor) -> Any:
        output = self.model(input_ids)
        output.logits = 0.5 * torch.tanh(output.logits)
        return output


@pytest.mark.parametrize("wrap", [lambda model: model, SoftCapped], ids=["plain", "soft-capped"])
@pytest.mark.parametrize("targets", [TARGETS, [Target(0, 1, 4), Target(1, 3, 2), Target(1, 3, 5)]])
@pytest.mark.parametrize("min_chunk", [1, 64])
@pytest.mark.parametrize("weights", [20.0, 0.1])
def test_chunks_give_the_same_log_likelihoods(
    wrap: Any, targets: list[Target], min_chunk: int, weights: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "MIN_CHUNK", min_chunk)
    monkeypatch.setattr(chunked, "CHUNK_BYTES", {"cpu": 0})
    model = wrap(tiny_model("llama").double()).eval()
    model.get_output_embeddings().weight.data *= weights  # soft-capping hardly changes small logits
    with torch.inference_mode():
        for _ in range(2):
            _, values = target_logprobs(model, lambda: model(IDS), targets, (2, 5), CPU)
            torch.testing.assert_close(values, expected(model(IDS).logits, targets))


def test_the_logits_of_other_positions_are_not_computed() -> None:
    model = tiny_model("llama").eval()
    layer = model.get_output_embeddings()
    positions: list[int] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: positions.append(output[..., 0].numel()))
    with torch.inference_mode():
        for to_compare in (1, 0):
            positions.clear()
            target_logprobs(model, lambda: model(IDS), TARGETS, (2, 5), CPU)
            assert sum(positions) == len({(t.row, t.column) for t in TARGETS}) + 2 * to_compare
    hook.remove()
    assert not layer._forward_pre_hooks


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-4])
@pytest.mark.parametrize("offset", [0.0, 300.0, -300.0])
def test_token_logprobs_are_those_of_log_softmax(scale: float, offset: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(40, 30) * scale + offset
    logits[3, 4] = -torch.inf
    positions, tokens = torch.arange(40), torch.arange(40) % 30
    right = logits.double().log_softmax(-1)[positions, tokens].float()
    torch.testing.assert_close(token_logprobs(logits.clone(), positions, tokens), right, rtol=1e-5, atol=1e-4)


def test_undefined_logits_give_undefined_log_likelihoods() -> None:
    logits = torch.zeros(2, 4)
    logits[0, 1] = torch.nan
    values = token_logprobs(logits, torch.arange(2), torch.arange(2))
    assert values[0].isnan()
    assert values[1] == pytest.approx(torch.tensor(0.25).log().item())
