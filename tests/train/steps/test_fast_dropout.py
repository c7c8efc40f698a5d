"""Masks of dropout that are drawn faster have the distribution of torch's."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from peftkit.train.steps import fast_dropout as module
from peftkit.train.steps.fast_dropout import LEVELS, fast_dropout, scaled_mask
from tests.tiny_runs import Make

ORIGINALS = functional.dropout, functional.scaled_dot_product_attention


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masks_have_the_probability_and_are_independent(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mask = scaled_mask(torch.empty(400, 1_001, dtype=dtype), probability).double()
    kept, number = (mask != 0).double().flatten(), mask.numel()
    deviation = (probability * (1 - probability)) ** 0.5
    assert (1 - kept.mean()).item() == pytest.approx(probability, abs=4 * deviation / number**0.5 + 1 / LEVELS)
    for distance in range(1, 9):  # four numbers share a draw
        correlation = ((kept[distance:] - kept.mean()) * (kept[:-distance] - kept.mean())).mean() / deviation**2
        assert abs(correlation.item()) < 4 / number**0.5
    scale = torch.tensor(LEVELS / (LEVELS - round(probability * LEVELS)), dtype=dtype).item()
    assert mask.unique().tolist() == pytest.approx([0.0, scale])


def test_dropout_scales_what_it_keeps_and_its_gradient() -> None:
    torch.manual_seed(0)
    values = torch.rand(50, 70, requires_grad=True)
    with fast_dropout():
        output = nn.Dropout(0.25)(values)
    output.sum().backward()
    assert values.grad is not None
    assert torch.equal(output, values * values.grad)
    assert values.grad.unique().tolist() == pytest.approx([0.0, 4 / 3])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.rand(2, 1, 5, 7) > 0.5},
        {"attn_mask": torch.zeros(2, 1, 5, 7, dtype=torch.bool)},
        {"attn_mask": torch.randn(2, 4, 5, 7)},
        {"enable_gqa": True},
    ],
    ids=["plain", "causal", "scale", "mask", "empty mask", "bias", "grouped"],
)
def test_attention_is_that_of_torch_but_for_the_mask(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    heads = 2 if options.get("enable_gqa") else 4
    inputs = [torch.randn(2, n, length, 8, requires_grad=True) for n, length in ((4, 5), (heads, 7), (heads, 7))]
    monkeypatch.setattr(module, "scaled_mask", lambda weights, _: torch.ones_like(weights))
    expected = functional.scaled_dot_product_attention(*inputs, **options)  # type: ignore[arg-type]
    with fast_dropout():
        output = functional.scaled_dot_product_attention(*inputs, dropout_p=0.5, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(output, expected)
    gradients = [torch.autograd.grad(each.sum(), inputs, allow_unused=True) for each in (output, expected)]
    torch.testing.assert_close(*gradients)


def test_torch_is_unchanged_outside_and_in_other_threads() -> None:
    values, outputs = torch.ones(100), []

    def other() -> None:
        torch.manual_seed(3)
        outputs.append(functional.dropout(values, 0.5))

    other()
    with fast_dropout(), fast_dropout():
        assert functional.dropout is not ORIGINALS[0]
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        torch.manual_seed(3)
        assert not torch.equal(functional.dropout(values, 0.5), outputs[0])
        assert torch.equal(functional.dropout(values, 0.5, training=False), values)
    assert torch.equal(*outputs)
    assert (functional.dropout, functional.scaled_dot_product_attention) == ORIGINALS


@pytest.mark.parametrize("kind", ["encoder-decoder", "encoder"])
def test_runs_without_dropout_are_the_same_and_others_are_not(kind: str, make: Make, registry: Registry) -> None:
    def losses(method: str, fast: str) -> list[float]:
        options = (f"method.name={method}", f"train.fast_dropout={fast}", "evaluate.at_start=false")
        path = run(make(kind, *options, "evaluate.every=100%", f"run.name={method}{fast}"), registry)
        assert path is not None
        return [row["train"]["step_loss"] for row in RunDirectory(path).evaluations()]

    assert losses("quiet", "true") == losses("quiet", "false")
    plain = losses("full", "false")
    assert losses("full", "true") == pytest.approx(plain, rel=0.2)
    assert losses("full", "true") != plain
